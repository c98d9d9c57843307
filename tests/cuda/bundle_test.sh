#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a bundle of this build, unpacks it elsewhere and runs the quick part of it with nothing of this shell's environment:
#   bundle_test.sh BUILD_DIR      status 77, with the reason, where a bundle cannot be made
set -euo pipefail
bundle=$(cd "$(dirname "$0")" && pwd)/bundle.sh
for tool in ompi_info strip objdump; do
  command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
work=$(mktemp -d -t reshard-bundle-test.XXXXXX)
trap 'rm -rf "$work"' EXIT
"$bundle" "$1" "$work/bundle.tar.gz"
mkdir "$work/elsewhere"
tar -C "$work/elsewhere" -xf "$work/bundle.tar.gz"
cd "$work/elsewhere"
env -i PATH=/usr/bin:/bin RUN=quick reshard-bundle/run.sh
