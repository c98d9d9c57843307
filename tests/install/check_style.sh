#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rules that a compiler does not check, over the files of the checkout: licence line, no tabs, no marks of unfinished
# work, foreign headers only in the module that wraps them, and headers that compile alone. CXX names the compiler.
source "$(dirname "$0")/common.sh"

failed=0
complain() { # RULE LINES
  [ -z "$2" ] && return
  printf '%s:\n%s\n' "$1" "$(sed 's/^/  /' <<<"$2")"
  failed=1
}

mapfile -t files < <(find .ci configs include launch slurm src tests CMakeLists.txt \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.sh' -o -name '*.py' -o -name '*.cmake' -o -name '*.sbatch' \
     -o -name CMakeLists.txt -o -name reshard-run -o -path launch/compat/fairseq2 -o -path './.ci/*' -o -path '.ci/*' \) -type f | sort)
mapfile -t headers < <(find include src tests -name '*.h' | sort)

complain "no SPDX-License-Identifier in the first two lines" "$(
  for file in "${files[@]}"; do
    head -n 2 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0$' || echo "$file"
  done)"
complain "tabs" "$(grep -lP '\t' "${files[@]}" || true)"
complain "lines that end in spaces" "$(grep -nP ' +$' "${files[@]}" || true)"
marks='\b(TO''DO|FIX''ME|X''XX|HA''CK)\b'
complain "marks of unfinished work" "$(grep -nE "$marks" "${files[@]}" || true)"
# cli/version.cpp asks all libraries for their versions.
complain "MPI outside comm" "$(grep -rn '#include <mpi\.h>' include src | grep -vE '^src/(comm/|cli/version\.cpp)' || true)"
complain "HDF5 outside container" "$(grep -rn '#include <hdf5\.h>' include src | grep -v '^src/container/' || true)"

complain "tests that tests/hostile/README.md names and that do not exist" "$(
  { grep -oE '`[A-Z][A-Za-z0-9]*\.[A-Z][A-Za-z0-9]*`' tests/hostile/README.md || true; } | tr -d '`' | sort -u |
    while IFS=. read -r suite name; do
      grep -rqE "^TEST(_F)?\($suite, $name\)" tests || echo "$suite.$name"
    done)"

# Modules are declared in the order of their dependencies: "reshard_module(NAME USES A B ...". Headers of others do not exist
# for a module.
complain "includes against the direction of the modules" "$(
  {
    sed -nE 's/^reshard_module\(([a-z]+)( USES ([a-z ]+))?.*/module \1 \3/p' CMakeLists.txt
    grep -rnoE '#include "reshard/[a-z]+/' include src | sed -E 's|^((include/reshard\|src)/([a-z]+)/[^:]*:[0-9]+):.*/([a-z]+)/$|include \3 \4 \1|'
  } | awk '
    $1 == "module" { may[$2, $2] = 1; for (i = 3; i <= NF; ++i) for (m in known) if (may[$i, m]) may[$2, m] = 1; for (i = 3; i <= NF; ++i) may[$2, $i] = 1; known[$2] = 1 }
    $1 == "include" && ($2 in known) && !may[$2, $3] { print $4 ": " $2 " includes " $3 }')"

hdf5=$(pkg-config --cflags hdf5-openmpi)
export hdf5
alone() { # HEADER
  printf '#include "%s"\n' "$PWD/$1" |
    ${CXX:-c++} -std=c++20 -fsyntax-only -Iinclude -I. -I"$(dirname "$1")" $hdf5 -x c++ - 2>&1 ||
    echo "$1 does not compile alone"
}
export -f alone
complain "headers that do not compile alone" "$(printf '%s\n' "${headers[@]}" | xargs -P 2 -I '{}' bash -c 'alone {}')"

[ $failed = 0 ] && echo "style: ${#files[@]} files, ${#headers[@]} headers, no complaint"
exit $failed
