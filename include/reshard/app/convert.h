// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "reshard/app/context.h"
#include "reshard/app/digest.h"
#include "reshard/app/options.h"
#include "reshard/app/stream.h"

namespace reshard::app {

/// The output path that takes nothing: everything is read, converted and digested, and thrown away.
inline constexpr const char* kNullTarget = "null:";

struct ConvertResult {
  std::string src, dst;  ///< dst: where the checkpoint stands
  std::string family, src_format, dst_format;
  layout::Mesh mesh;
  Index num_files = 0;  ///< with tensors
  std::uint64_t plan_hash = 0;
  StreamReport stream;
  Digests digests;     ///< of the target's values
  double seconds = 0;  ///< from the first header read to the commit
};

/// Converts a checkpoint: describes both sides, plans, streams, commits. Errors (usage): an impossible target, DST in
/// the way; (input) the source; (failed) anything that breaks while running, after which nothing of the output is left.
/// Collective.
Expected<ConvertResult> convert(Context& context, const Options& options);

nlohmann::ordered_json to_json(const ConvertResult& result);

}  // namespace reshard::app
