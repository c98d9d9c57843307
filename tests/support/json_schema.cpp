// SPDX-License-Identifier: Apache-2.0
#include "json_schema.h"

#include <fstream>
#include <regex>
#include <set>

namespace reshard::test {
namespace {

using nlohmann::json;

bool has_type(const json& value, const std::string& type) {
  if (type == "integer") return value.is_number_integer();
  return type == "number" ? value.is_number() : type == value.type_name();
}

class Checker {
 public:
  explicit Checker(std::string folder) : folder_(std::move(folder)) {}

  json read(const std::string& file) const { return json::parse(std::ifstream(folder_ + "/" + file)); }

  /// `file` holds the schema: references without a file are into it.
  std::string check(const json& value, const json& schema, const std::string& place, const std::string& file) const {
    // The type first: other keywords rely on it.
    if (schema.contains("type")) {
      if (auto error = check_keyword(value, "type", schema.at("type"), schema, place, file); !error.empty())
        return error;
    }
    for (const auto& [keyword, argument] : schema.items()) {
      if (auto error = check_keyword(value, keyword, argument, schema, place, file); !error.empty()) return error;
    }
    return "";
  }

 private:
  std::string check_keyword(const json& value, const std::string& keyword, const json& argument, const json& schema,
                            const std::string& place, const std::string& file) const {
    static const std::set<std::string> kIgnored = {"$schema", "$defs", "title", "description", "additionalProperties"};
    if (kIgnored.count(keyword) != 0) return "";
    if (keyword == "$ref") {
      const auto ref = argument.get<std::string>();
      const auto hash = ref.find('#');
      const std::string other = hash > 0 ? ref.substr(0, hash) : file;
      return check(value, read(other).at(json::json_pointer(ref.substr(hash + 1))), place, other);
    }
    if (keyword == "type") {
      if (argument.is_string()) return has_type(value, argument) ? "" : place + ": is no " + argument.dump();
      for (const json& one : argument) {
        if (has_type(value, one)) return "";
      }
      return place + ": is none of " + argument.dump();
    }
    if (keyword == "const") return value == argument ? "" : place + ": is not " + argument.dump();
    if (keyword == "enum") {
      for (const json& one : argument) {
        if (value == one) return "";
      }
      return place + ": is none of " + argument.dump();
    }
    if (keyword == "minimum") return !value.is_number() || value >= argument ? "" : place + ": is too small";
    if (keyword == "pattern") {
      return std::regex_search(value.get<std::string>(), std::regex(argument.get<std::string>()))
                 ? ""
                 : place + ": malformed";
    }
    if (keyword == "anyOf") {
      std::string errors;
      for (const json& one : argument) {
        const std::string error = check(value, one, place, file);
        if (error.empty()) return "";
        errors += "(" + error + ")";
      }
      return errors;
    }
    if (keyword == "items") {
      for (std::size_t i = 0; i < value.size(); ++i) {
        if (auto error = check(value[i], argument, place + "/" + std::to_string(i), file); !error.empty()) return error;
      }
      return "";
    }
    if (keyword == "required") {
      for (const json& key : argument) {
        if (!value.contains(key)) return place + ": lacks " + key.dump();
      }
      return "";
    }
    if (keyword == "properties") {
      for (const auto& [key, member] : value.items()) {
        if (!argument.contains(key)) {
          if (schema.value("additionalProperties", true)) continue;
          return place + ": unexpected \"" + key + "\"";
        }
        if (auto error = check(member, argument.at(key), place + "/" + key, file); !error.empty()) return error;
      }
      return "";
    }
    return "schema uses " + keyword;
  }

  std::string folder_;
};

}  // namespace

std::string schema_error(const json& document, const std::string& folder, const std::string& name) {
  const Checker checker(folder);
  const std::string file = name + ".json";
  return checker.check(document, checker.read(file), "", file);
}

}  // namespace reshard::test
