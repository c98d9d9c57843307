#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the build needs on Debian 12; with --tests also what only the tests need, the Python packages among it in
# a virtual environment under build/. Does nothing where all is there.
source "$(dirname "$0")/common.sh"

packages=(
  build-essential ca-certificates cmake git ninja-build pkg-config python3
  libboost-program-options-dev libfmt-dev libgtest-dev libhdf5-openmpi-dev libisal-dev libopenmpi-dev libyaml-cpp-dev
  nlohmann-json3-dev openmpi-bin zlib1g-dev
)
tests=false
case "${1:-}" in
  "") ;;
  --tests) tests=true; packages+=(hdf5-tools iproute2 munge python3-torch python3-venv slurm-client slurmctld slurmd) ;;
  *) echo "usage: $0 [--tests]" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
fi

# The copy of the list inside the environment says that it was installed to the end.
if $tests && ! cmp -s tests/install/requirements.txt "$VENV/requirements.txt"; then
  say "installing the tests' Python packages into build/venv"
  rm -rf "$VENV"
  python3 -m venv "$VENV"
  "$VENV/bin/pip" install --quiet --disable-pip-version-check -r tests/install/requirements.txt
  cp tests/install/requirements.txt "$VENV/"
fi
