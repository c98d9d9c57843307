// SPDX-License-Identifier: Apache-2.0
#include "hf_shards.h"

#include <fmt/format.h>

#include <set>

#include "json.h"

namespace reshard::format {

namespace {

constexpr std::size_t kMaxShards = 100'000;

// "00005" of "model-00002-of-00005.safetensors"; empty for other names.
std::string_view total_in_name(std::string_view file) {
  const std::size_t of = file.rfind("-of-");
  if (of == std::string_view::npos) return "";
  return file.substr(of + 4, file.find('.', of) - of - 4);
}

bool is_plain_name(const std::string& file) {
  return !file.empty() && file != "." && file != ".." && file.find('/') == std::string::npos &&
         file.find('\\') == std::string::npos && file.find('\0') == std::string::npos;
}

}  // namespace

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

Expected<ShardIndex> ShardIndex::parse(std::string_view text, const std::string& path) {
  RESHARD_TRY(const nlohmann::json json, parse_json(text, path));
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object()) return input_error(path + ": has no \"weight_map\" object");
  ShardIndex index;
  index.total_size = -1;
  std::set<std::string> files;
  std::string total;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || !is_plain_name(file.get<std::string>())) {
      return input_error(path + ": tensor " + name + " lies in " + file.dump() +
                         "; expected the plain name of a file in the same folder");
    }
    const std::string& plain = file.get_ref<const std::string&>();
    if (files.insert(plain).second) {
      if (files.size() > kMaxShards) return input_error(path + ": names more than 100000 files");
      const std::string_view of = total_in_name(plain);
      if (total.empty()) total = of;
      if (!of.empty() && of != total) {
        return input_error(path + ": mixes files of two saves (-of-" + total + " and " + plain + ")");
      }
    }
    index.weight_map.emplace(name, plain);
  }
  const auto metadata = json.find("metadata");
  if (metadata != json.end() && metadata->is_object()) {
    const auto size = metadata->find("total_size");
    if (size != metadata->end() && size->is_number_integer()) index.total_size = size->get<Index>();
  }
  return index;
}

}  // namespace reshard::format
