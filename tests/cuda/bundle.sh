#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs the built program, its tests and what they need into one archive, which runs on a bare machine with an NVIDIA driver
# (README.md beside this script):
#
#   tests/cuda/bundle.sh BUILD_DIR OUT.tar.zst|OUT.tar.gz
#
# Libraries come along, apart from glibc, the CUDA driver and NCCL, which are the target machine's. Needs binutils, and
# ompi_info of the Open MPI that the program was linked with. The status is 1 if the archive is larger than 64 MiB.
set -euo pipefail

[ $# = 2 ] || { echo "usage: $0 BUILD_DIR OUT.tar.zst|OUT.tar.gz" >&2; exit 2; }
build=$1 out=$2
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
limit_mib=64
# The programs share much of their code: a long window finds it, and any zstd reads it.
case $out in
  *.tar.zst) compress="zstd -q -12 --long=27" ;;
  *.tar.gz) compress="gzip -6" ;;
  *) echo "$out: say a name that ends in .tar.zst or .tar.gz" >&2; exit 2 ;;
esac
[ -x "$build/reshard" ] || { echo "$build/reshard: no such program; build it first" >&2; exit 2; }

stage=$(mktemp -d -t reshard-bundle.XXXXXX)
trap 'rm -rf "$stage"' EXIT
bundle=$stage/reshard-bundle
mkdir -p "$bundle"/{bin,lib,checkout/{tests,configs}}

programs=("$build/reshard")
for name in {cuda_host,cuda,nccl,unit,mpi,cli,property}_tests cuda_repack_bench exchange_bench; do
  if [ -x "$build/tests/$name" ]; then
    programs+=("$build/tests/$name")
  else
    echo "not built, left out: $name"
  fi
done
cp "${programs[@]}" "$bundle/bin/"

# Open MPI as its OPAL_PREFIX wants it: the folders of its installation, below another one. A bundle runs on one machine, without a
# scheduler: components for network cards, other launchers, MPI-IO, OpenSHMEM and tracing stay behind.
mpi_path() { ompi_info --parsable --path "$1" | sed -n "s/^path:$1://p"; }
prefix=$(mpi_path prefix) components=$(mpi_path pkglibdir) texts=$(mpi_path pkgdatadir)
[[ $components == "$prefix"/* && $texts == "$prefix"/* ]] || { echo "ompi_info: $components is not below $prefix" >&2; exit 2; }
mpi=$bundle/mpi
mkdir -p "$mpi/etc" "$mpi/bin" "$mpi${components#"$prefix"}" "$mpi${texts#"$prefix"}"
find "$components" -name 'mca_*.so' -regextype posix-extended \
  ! -regex '.*/mca_(atomic|fbtl|fcoll|fs|io|memheap|scoll|sharedfp|spml|sshmem|vprotocol)_.*' \
  ! -regex '.*_(flux|gridengine|jsm|monitoring|netlink|ofi|openib|psm|psm2|rsh|slurm|ucx)\.so' \
  -exec cp -L -t "$mpi${components#"$prefix"}" {} +
cp "$texts"/help-*.txt "$mpi${texts#"$prefix"}"
cp -L "$(command -v mpirun)" "$mpi/bin/mpirun"
cp -L "$(command -v orted)" "$mpi/bin/orted"

# PMIx, where it is a library of its own, has plugins and texts too.
mapfile -t components < <(find "$mpi" -name 'mca_*.so')
pmix=$(ldd "${components[@]}" | awk '$1 == "libpmix.so.2" && !found++ {print $3}')
if [ -n "$pmix" ]; then
  pmix=$(dirname "$(readlink -f "$pmix")")
  mkdir -p "$mpi"/pmix/{lib,share}
  cp -r "$pmix/pmix" "$mpi/pmix/lib/"
  cp -r "$pmix/../share/pmix" "$mpi/pmix/share/"
fi

mapfile -t binaries < <(find "$bundle/bin" "$mpi" -type f \( -path '*/bin/*' -o -name '*.so' \))
glibc='(ld-linux-x86-64|lib(c|m|mvec|dl|rt|pthread|resolv|util|anl|nsl|thread_db|BrokenLocale))\.so\.[0-9]+'
target='lib(cuda|nccl|nvidia-ml)\.so\.[0-9]+'
closure=$(ldd "${binaries[@]}" | awk '$2 == "=>" {print $1, ($3 == "not" ? "not-found" : $3)}' | sort -u |
  grep -vE "^($glibc|$target) ")
if grep not-found <<<"$closure" >&2; then
  echo "these libraries were not found; install what the program was built with" >&2
  exit 2
fi
while read -r name path; do
  cp -L "$path" "$bundle/lib/$name"
done <<<"$closure"

chmod -R u+w "$bundle"
strip "$bundle"/bin/* "$mpi"/bin/*
find "$bundle" -name '*.so*' -type f -exec strip --strip-unneeded {} +

cp -r "$source_dir"/tests/{data,interop} "$bundle/checkout/tests/"
cp -r "$source_dir"/configs/{format,schema} "$bundle/checkout/configs/"
find "$bundle/checkout" -name __pycache__ -prune -exec rm -r {} +
cp "$source_dir/tests/cuda/run.sh" "$bundle/"

# Everything must be found in the bundle, whatever else this machine has.
elves=$(find "$bundle" -type f \( -path '*/bin/*' -o -name '*.so*' \))
astray=$(xargs env LD_LIBRARY_PATH="$bundle/lib" ldd <<<"$elves" | awk '$2 == "=>" {print $1, $3}' | sort -u |
  grep -vE "^($glibc|$target) " | grep -vF " $bundle/lib/" || true)
[ -z "$astray" ] || { printf 'not found in the bundle:\n%s\n' "$astray" >&2; exit 1; }
xargs objdump -T <<<"$elves" 2>/dev/null | grep -oE 'GLIBC_[0-9]+\.[0-9]+' | sort -uV | tail -n 1 | cut -d_ -f2 >"$bundle/glibc-version"

mkdir -p "$(dirname "$out")"
tar -C "$stage" --sort=name --owner=0 --group=0 --numeric-owner -c reshard-bundle | $compress >"$out"
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }
packed=$(stat -c %s "$out")
echo "$out: $(mib "$packed"), unpacked $(mib "$(du -sb "$bundle" | cut -f1)"); needs glibc $(cat "$bundle/glibc-version") or newer"
if [ "$packed" -gt $((limit_mib * 1048576)) ]; then
  echo "$out: larger than $limit_mib MiB" >&2
  exit 1
fi
