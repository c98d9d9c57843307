// SPDX-License-Identifier: Apache-2.0
#include "yaml_text.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <string_view>

#include "reshard/base/index.h"
#include "reshard/io/json.h"

namespace reshard::format {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxText = 1 << 20;
constexpr int kMaxValues = 1 << 16;
constexpr int kMaxDepth = 64;

template <class Number>
bool parse_whole(std::string_view text, Number& number) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// A scalar without quotes and tag.
Json plain_value(const std::string& text) {
  for (const char* null : {"", "~", "null", "Null", "NULL"}) {
    if (text == null) return nullptr;
  }
  for (const char* yes : {"true", "True", "TRUE"}) {
    if (text == yes) return true;
  }
  for (const char* no : {"false", "False", "FALSE"}) {
    if (text == no) return false;
  }
  Index integer = 0;
  if (parse_whole(text, integer)) return integer;
  double number = 0;
  // What from_chars takes beyond digits (inf, nan) is text.
  const bool numeric = text.find_first_not_of("0123456789+-.eE") == std::string::npos;
  if (numeric && parse_whole(text, number)) return number;
  return text;
}

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  Expected<Json> convert(const YAML::Node& node, int depth) {
    if (depth > kMaxDepth) return error(node, fmt::format("more than {} levels", kMaxDepth));
    if (++values_ > kMaxValues) return error(node, fmt::format("more than {} values", kMaxValues));
    const std::string& tag = node.Tag();
    if (tag.size() > 1) return error(node, "the tag " + io::in_quotes(tag.substr(0, 100)) + " is not understood");
    if (node.IsSequence()) {
      Json list = Json::array();
      for (const YAML::Node& one : node) {
        RESHARD_TRY(Json value, convert(one, depth + 1));
        list.push_back(std::move(value));
      }
      return list;
    }
    if (node.IsMap()) {
      Json object = Json::object();
      for (const auto& pair : node) {
        const YAML::Node &key = pair.first, &member = pair.second;
        if (!key.IsScalar()) return error(key, "expected a plain key");
        RESHARD_TRY(Json value, convert(member, depth + 1));
        if (!object.emplace(key.Scalar(), std::move(value)).second) {
          return error(key, "the key " + io::in_quotes(key.Scalar().substr(0, 100)) + " is there twice");
        }
      }
      return object;
    }
    if (!node.IsScalar()) return Json(nullptr);
    return tag == "!" ? Json(node.Scalar()) : plain_value(node.Scalar());
  }

 private:
  Error error(const YAML::Node& node, const std::string& what) const {
    return input_error(fmt::format("{}: line {}: {}", path_, node.Mark().line + 1, what));
  }

  const std::string& path_;
  int values_ = 0;
};

}  // namespace

Expected<nlohmann::ordered_json> parse_yaml(const std::string& text, const std::string& path) {
  if (text.size() > kMaxText) return input_error(fmt::format("{}: {} bytes are too much", path, text.size()));
  try {
    return Reader(path).convert(YAML::Load(text), 0);
  } catch (const YAML::Exception& exception) {
    return input_error(fmt::format("{}: line {}: {}", path, exception.mark.line + 1, exception.msg));
  }
}

}  // namespace reshard::format
