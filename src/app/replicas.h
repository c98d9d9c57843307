// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/app/stream.h"

namespace reshard::app {

struct ReplicaResult {
  Index replicas = 0;  ///< pieces that repeat elements of others
  std::vector<std::string> problems;
};

/// Compares what a checkpoint stores more than once, by digests. Reads nothing if nothing is repeated. Collective; the
/// same on all ranks.
Expected<ReplicaResult> compare_replicas(Context& context, const format::Checkpoint& checkpoint,
                                         const Options& options);

}  // namespace reshard::app
