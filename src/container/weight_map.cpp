// SPDX-License-Identifier: Apache-2.0
#include "reshard/container/weight_map.h"

#include <fmt/format.h>

#include <limits>
#include <map>

#include "containers.h"
#include "reshard/io/json.h"

namespace reshard::container {
namespace {

constexpr std::size_t kMaxShards = 100'000;
constexpr std::size_t kMaxFileName = 255;
constexpr std::size_t kMaxRawString = 8 * kMaxNameBytes;  // a byte takes up to six when escaped

std::string check_file_name(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.size() > kMaxFileName ||
      name.find_first_of("/\\") != std::string::npos || !check_name(name).empty()) {
    return fmt::format("file {} is not a plain name in the same folder", io::in_quotes(name));
  }
  return {};
}

class Visitor : public io::JsonVisitor {
 public:
  explicit Visitor(WeightMap& map) : map_(map) {}
  bool has_map() const { return has_map_; }

  bool begin_object() override {
    ++depth_;
    if (depth_ == 2 && section_ == Section::weight_map) has_map_ = true;
    return depth_ <= 2 || section_ != Section::weight_map ? true : reject_line();
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool begin_array() override {
    ++depth_;
    if (depth_ == 1) return reject("expected an object");
    return section_ == Section::weight_map ? reject_line() : true;
  }
  bool end_array() override { return end_object(); }

  bool key(std::string& name) override {
    is_total_ = false;
    if (depth_ == 1) {
      section_ = name == "weight_map" ? Section::weight_map : name == "metadata" ? Section::metadata : Section::other;
    } else if (section_ == Section::weight_map) {
      if (const std::string why = check_name(name); !why.empty())
        return reject("tensor " + io::in_quotes(name) + ": " + why);
      if (map_.lines.size() == kMaxTensors) return reject(fmt::format("more than {} tensors", kMaxTensors));
      map_.lines.push_back({std::move(name), 0});
    } else {
      is_total_ = depth_ == 2 && section_ == Section::metadata && name == "total_size";
    }
    return true;
  }

  bool string(std::string& value) override {
    if (section_ != Section::weight_map) return true;
    if (depth_ != 2) return reject("weight_map: expected an object");
    if (const std::string why = check_file_name(value); !why.empty()) {
      return reject(fmt::format("tensor {}: {}", io::in_quotes(map_.lines.back().tensor), why));
    }
    const auto [file, is_new] = numbers_.try_emplace(value, static_cast<std::uint32_t>(map_.files.size()));
    if (is_new) {
      if (map_.files.size() == kMaxShards) return reject(fmt::format("more than {} files", kMaxShards));
      map_.files.push_back(std::move(value));
    }
    map_.lines.back().file = file->second;
    return true;
  }

  bool number(std::uint64_t value) override {
    if (is_total_ && depth_ == 2 && value <= std::numeric_limits<Index>::max())
      map_.total_size = static_cast<Index>(value);
    return other();
  }
  bool other() override { return depth_ > 0 && section_ == Section::weight_map ? reject_line() : true; }

 private:
  enum class Section { other, metadata, weight_map };

  bool reject_line() {
    if (depth_ < 2 || map_.lines.empty()) return reject("weight_map: expected an object of file names");
    return reject(fmt::format("tensor {}: expected a file name", io::in_quotes(map_.lines.back().tensor)));
  }

  WeightMap& map_;
  std::map<std::string, std::uint32_t> numbers_;
  Section section_ = Section::other;
  int depth_ = 0;
  bool has_map_ = false;
  bool is_total_ = false;
};

}  // namespace

Expected<WeightMap> parse_weight_map(std::string_view text, const std::string& path) {
  WeightMap map;
  Visitor visitor(map);
  io::JsonLimits limits;
  limits.max_string_bytes = kMaxRawString;
  RESHARD_CHECK(io::visit_json(text, path, limits, visitor));
  if (!visitor.has_map())
    return input_error(path + ": has no object \"weight_map\"; is it the index of a sharded checkpoint?");
  return map;
}

}  // namespace reshard::container
