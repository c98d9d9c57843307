// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::container {

/// Which file holds which tensor: a model.safetensors.index.json.
struct WeightMap {
  struct Line {
    std::string tensor;
    std::uint32_t file;  ///< of files
  };
  std::vector<Line> lines;
  std::vector<std::string> files;   ///< plain file names, in the order of their first mention
  std::optional<Index> total_size;  ///< as stated; written wrongly by some tools, so never relied upon
};

/// Parses the text of an index as strictly as a safetensors header. File names are plain: no folder, no "..", no
/// control character. Keys beside "weight_map" and "metadata" are passed over. Errors (input): `path`, the byte and the
/// tensor. Local.
Expected<WeightMap> parse_weight_map(std::string_view text, const std::string& path);

}  // namespace reshard::container
