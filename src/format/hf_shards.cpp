// SPDX-License-Identifier: Apache-2.0
#include "hf_shards.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace reshard::format {

std::vector<std::vector<std::size_t>> deal_to_shards(const std::vector<Index>& sizes, Index limit) {
  std::vector<std::vector<std::size_t>> shards;
  std::vector<std::size_t> current;
  Index filled = 0;
  for (std::size_t array = 0; array < sizes.size(); ++array) {
    if (sizes[array] > limit) {
      shards.push_back({array});
      continue;
    }
    if (filled + sizes[array] > limit) {
      shards.push_back(std::move(current));
      current.clear();
      filled = 0;
    }
    current.push_back(array);
    filled += sizes[array];
  }
  if (!current.empty()) shards.push_back(std::move(current));
  return shards;
}

std::string shard_name(std::size_t number, std::size_t total) {
  if (total == 1) return "model.safetensors";
  return fmt::format("model-{:05d}-of-{:05d}.safetensors", number + 1, total);
}

std::string ShardIndex::to_text() const {
  nlohmann::json index;
  index["metadata"] = {{"total_parameters", total_parameters}, {"total_size", total_size}};
  index["weight_map"] = weight_map;
  return index.dump(2, ' ', true) + "\n";
}

}  // namespace reshard::format
