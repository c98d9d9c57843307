#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the dependencies, builds everything and runs all tests. Warnings are errors where CI is set. With
# RESHARD_FIXTURES (by default ../shared/fixtures, where that folder is) the interop tests run over all reference
# checkpoints, not only over those in tests/interop.
source "$(dirname "$0")/common.sh"

tests/install/deps.sh --tests

preset=release
if [ -n "${CI:-}" ]; then preset=ci; fi
if [ -z "${RESHARD_FIXTURES:-}" ] && [ -d ../shared/fixtures ]; then
  RESHARD_FIXTURES=$(cd ../shared/fixtures && pwd)
  export RESHARD_FIXTURES
fi

say "building (build/$preset, $JOBS jobs)"
cmake --preset "$preset" -DRESHARD_PYTHON="$VENV/bin/python"
cmake --build --preset "$preset" -j "$JOBS"

say "testing (reference checkpoints: ${RESHARD_FIXTURES:-tests/interop})"
ctest --preset "$preset" -j "$JOBS"
