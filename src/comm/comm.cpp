// SPDX-License-Identifier: Apache-2.0
#include "reshard/comm/comm.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

namespace reshard::comm {

Status agree(Comm& comm, Status status) {
  // Most phases end well: ask that first.
  std::int64_t failed = status ? 0 : 1;
  comm.maximum({&failed, 1});
  if (!failed) return {};
  std::string mine;
  if (!status) {
    mine.push_back(static_cast<char>(status.error().code));
    mine += status.error().message;
  }
  const std::vector<std::string> all = comm.all_gather(mine);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const Error error{static_cast<Code>(all[rank][0]), all[rank].substr(1)};
    const bool shared = std::all_of(all.begin(), all.end(), [&](const std::string& one) { return one == all[rank]; });
    return shared ? error : Error(error).at(fmt::format("rank {}", rank));
  }
  return {};
}

Expected<Launch> detect_launch(const std::function<const char*(const char*)>& get) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (get(name)) return Launch::by_ranks;
  }
  // In a Slurm batch script or shell no task has a rank; only a step started by srun has.
  const char* tasks = get("SLURM_STEP_NUM_TASKS");
  if (tasks && get("SLURM_PROCID") && std::strtol(tasks, nullptr, 10) > 1) {
    return usage_error(
        fmt::format("srun started {} tasks, but MPI cannot see them and would run the job {} times: "
                    "use srun --mpi=pmix, or mpirun",
                    tasks, tasks));
  }
  return Launch::alone;
}

Expected<std::unique_ptr<Comm>> make_comm() {
  RESHARD_TRY(const Launch launch, detect_launch([](const char* name) { return std::getenv(name); }));
  if (launch == Launch::alone) return make_self_comm();
  return make_mpi_comm();
}

}  // namespace reshard::comm
