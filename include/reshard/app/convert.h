// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "reshard/app/context.h"
#include "reshard/app/digest.h"
#include "reshard/app/options.h"
#include "reshard/app/stream.h"

namespace reshard::app {

/// The output path that takes nothing: everything is read, converted and digested, and thrown away.
inline constexpr const char* kNullTarget = "null:";

struct ConvertResult {
  enum class Outcome {
    committed,  ///< DST stands
    part,       ///< this part is done, others are not
    present,    ///< DST holds this output already: nothing was to be done
  };
  Outcome outcome = Outcome::committed;
  std::string src, dst;  ///< dst: where the checkpoint stands
  std::string family, src_format, dst_format;
  layout::Mesh mesh;
  Index num_files = 0;      ///< with tensors
  Index target_bytes = 0;   ///< of all files with tensors
  int part = 0, parts = 1;  ///< 0 <= part < parts
  Index resumed_bytes = 0;  ///< of this part, durable from before
  std::uint64_t plan_hash = 0;
  StreamReport stream;  ///< of this run
  Digests digests;      ///< of the target's values, on rank 0; none unless committed
  double seconds = 0;   ///< from the first header read to the commit
};

std::string_view to_string(ConvertResult::Outcome outcome);

/// Converts a checkpoint, or a part of one: describes both sides, plans, streams; the last part commits. Errors
/// (usage): an impossible target, DST in the way; (input) the source; (failed) anything that breaks while running,
/// after which DST.partial and DST.journal keep what is durable, for --resume. Collective.
Expected<ConvertResult> convert(Context& context, const Options& options);

/// For document_text alone: the lines of its digests are a table.
nlohmann::ordered_json to_json(const ConvertResult& result);

}  // namespace reshard::app
