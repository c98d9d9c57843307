// SPDX-License-Identifier: Apache-2.0
#include "hf_shards.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "reshard/base/text.h"

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

std::string ShardNames::single() const { return fmt::format("{}{}", stem, extension); }

std::string ShardNames::index() const { return single() + ".index.json"; }

std::string ShardNames::shard(std::size_t number, std::size_t total) const {
  return total == 1 ? single() : fmt::format("{}-{:05d}-of-{:05d}{}", stem, number + 1, total, extension);
}

bool ShardNames::is_shard(std::string_view file) const {
  constexpr std::string_view kNumber = "[0-9][0-9][0-9][0-9][0-9]";
  return matches_glob(fmt::format("{}-{}-of-{}{}", stem, kNumber, kNumber, extension), file);
}

const std::vector<ShardNames>& all_shard_names() {
  static const std::vector<ShardNames> names = {{"model", ".safetensors"}, {"pytorch_model", ".bin"}};
  return names;
}

const ShardNames* shard_names(std::string_view container) {
  if (container == "safetensors") return &all_shard_names()[0];
  return container == "torch" ? &all_shard_names()[1] : nullptr;
}

std::string ShardIndex::to_text() const {
  nlohmann::json index;
  index["metadata"] = {{"total_parameters", total_parameters}, {"total_size", total_size}};
  index["weight_map"] = weight_map;
  return index.dump(2, ' ', true) + "\n";
}

}  // namespace reshard::format
