#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the dependencies, builds everything and runs all tests. Warnings are errors where CI is set. A CUDA compiler, where
# there is one, must build the GPU's part. With RESHARD_FIXTURES (by default ../shared/fixtures, where that folder is) the
# interop tests run over all reference checkpoints, not only over those in tests/interop.
source "$(dirname "$0")/common.sh"

tests/install/deps.sh --tests

preset=release
if [ -n "${CI:-}" ]; then preset=ci; fi
if [ -z "${RESHARD_FIXTURES:-}" ] && [ -d ../shared/fixtures ]; then
  RESHARD_FIXTURES=$(cd ../shared/fixtures && pwd)
  export RESHARD_FIXTURES
fi

cuda=OFF
nvcc=$(command -v "${CUDACXX:-nvcc}" || command -v /usr/local/cuda/bin/nvcc || true)
if [ -n "$nvcc" ]; then
  cuda=ON
  export CUDACXX="$nvcc"
fi

say "building (build/$preset, $JOBS jobs, CUDA $cuda)"
cmake --preset "$preset" -DRESHARD_PYTHON="$VENV/bin/python" -DRESHARD_CUDA="$cuda"
cmake --build --preset "$preset" -j "$JOBS"
if [ "$cuda" = ON ]; then
  for program in cuda_tests nccl_tests cuda_repack_bench; do
    [ -x "build/$preset/tests/$program" ] || { echo "$program was not built though $nvcc is there" >&2; exit 1; }
  done
fi

say "testing (reference checkpoints: ${RESHARD_FIXTURES:-tests/interop})"
ctest --preset "$preset" -j "$JOBS"
