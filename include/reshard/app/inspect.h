// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/format/format.h"

namespace reshard::app {

/// A stored array as `inspect` shows it.
struct ArrayLine {
  std::string name;
  DType dtype = DType::bf16;
  Shape shape;
  std::string file;
  Index bytes = 0;
};

struct InspectResult {
  std::string path, format, family;
  layout::Mesh mesh;
  DType dtype = DType::bf16;
  nlohmann::ordered_json hyper_parameters;
  Index vocabulary = 0;
  bool vocabulary_padded = false;  ///< the true vocabulary is unknown
  std::vector<model::Tie> ties;
  Index parameters = 0;  ///< elements of all canonical tensors
  Index bytes = 0;       ///< of all stored arrays
  Index num_files = 0, num_arrays = 0;
  std::vector<ArrayLine> arrays;  ///< those that --include and --exclude leave
  std::vector<std::string> side_files, dropped, notes;
};

/// Reads headers and side files; problems are errors that say what is wrong. Collective; the result is on all ranks.
Expected<InspectResult> inspect(Context& context, const Options& options);

nlohmann::ordered_json to_json(const InspectResult& result);

}  // namespace reshard::app
