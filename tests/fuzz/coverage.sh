#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints which share of the parsers' lines the corpora of the fuzz targets reach. What writes files lies in the same
# sources and is left out by the names of its functions.
#
#   tests/fuzz/coverage.sh BUILD CORPORA    BUILD: configured as in README.md, with
#                                           -DCMAKE_CXX_FLAGS="-fprofile-instr-generate -fcoverage-mapping"
#                                           CORPORA: a folder with zip, pickle, safetensors and json
set -euo pipefail
[ $# -eq 2 ] || { sed -n '/^#   /s/^# *//p' "$0" >&2; exit 2; }
build=$(realpath "$1") corpora=$(realpath "$2")
source=$(realpath "$(dirname "$0")/../../src")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
find_tool() { command -v "$1" || command -v "$1-14"; }

objects=()
for target in zip pickle safetensors json; do
  LLVM_PROFILE_FILE="$work/$target.raw" "$build/tests/${target}_fuzz" -runs=0 "$corpora/$target" >"$work/log" 2>&1 ||
    { tail "$work/log" >&2; exit 4; }
  objects+=(-object "$build/tests/${target}_fuzz")
done
"$(find_tool llvm-profdata)" merge -o "$work/all" "$work"/*.raw
writers='Writer|Bytes::|lay_out|finish|::write|make_archive|append_|encode_|text_of|has_dtype|class_of|shares_extents|is_storage'
for file in container/{zip,pickle,torch_state,torch,safetensors,weight_map}.cpp io/json.cpp; do
  "$(find_tool llvm-cov)" report -show-functions "${objects[@]:1}" -instr-profile="$work/all" "$source/$file" 2>"$work/log" |
    c++filt | grep -vE "$writers" |
    awk -v file="$file" '$NF ~ /%$/ && $1 != "TOTAL" {lines += $(NF - 5); missed += $(NF - 4)}
                         END {printf "%s %d %d\n", file, lines, missed}'
done | awk '{printf "%-28s %5d lines %6.1f %%\n", $1, $2, 100 * ($2 - $3) / $2; lines += $2; missed += $3}
            END {printf "%-28s %5d lines %6.1f %%\n", "all", lines, 100 * (lines - missed) / lines; exit (lines - missed) < 0.9 * lines}'
