// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/format/format.h"

namespace reshard::app {

/// What a look at the rest of a checkpoint's files found.
struct UnreadResult {
  Index files = 0;                    ///< that say things twice, or state CRC-32s
  Index storages = 0;                 ///< that hold more than the weights, and have a CRC-32
  Index bytes = 0;                    ///< of these
  std::vector<std::string> problems;  ///< one line each, the same on all ranks
};

/// Looks at what no stream of the weights looks at: bytes with a stated CRC-32 that hold something else (buffers,
/// optimizer states), in small blocks, and headers that repeat what a directory says. Errors (failed): an unreadable
/// file, an interruption. Collective.
Expected<UnreadResult> check_unread(Context& context, const format::Checkpoint& checkpoint);

}  // namespace reshard::app
