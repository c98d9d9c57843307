# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts beside this file, which source it: the repository's root as working directory, and the settings
# under which Open MPI runs as root, with more ranks than cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1

JOBS=${JOBS:-$(nproc)}
VENV=$PWD/build/venv

say() { printf '\n== %s\n' "$*"; }
run() {
  printf '$ %s\n' "$*"
  "$@"
}
