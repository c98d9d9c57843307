// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <vector>

#include "configs.h"
#include "reshard/base/text.h"
#include "reshard/io/json.h"

namespace reshard::model {
namespace {

/// A schema file, parsed on first use. The files are compiled in, so a file that is missing or broken is a bug.
const Json& schema_file(const std::string& name) {
  static const std::map<std::string, Json> files = [] {
    std::map<std::string, Json> parsed;
    for (const auto& [path, text] : embedded_configs()) {
      if (path.starts_with("schema/")) parsed.emplace(path.substr(7), Json::parse(text));
    }
    return parsed;
  }();
  return files.at(name);
}

/// A schema and the file that its `#` refers to.
struct Schema {
  const Json* json;
  std::string file;
};

Schema resolve(Schema schema) {
  while (schema.json->contains("$ref")) {
    const std::string ref = schema.json->at("$ref").get<std::string>();
    const auto hash = ref.find('#');
    if (hash > 0) schema.file = ref.substr(0, hash);
    schema.json = &schema_file(schema.file).at(Json::json_pointer(ref.substr(hash + 1)));
  }
  return schema;
}

bool has_type(const Json& value, const std::string& type) {
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  return type == value.type_name();
}

bool has_type(const Json& value, const Json& type) {
  if (type.is_string()) return has_type(value, type.get<std::string>());
  for (const Json& one : type) {
    if (has_type(value, one.get<std::string>())) return true;
  }
  return false;
}

/// "integer or string" of a schema, for messages.
std::string describe(const Schema& unresolved) {
  const Schema schema = resolve(unresolved);
  std::vector<std::string> words;
  if (schema.json->contains("anyOf")) {
    for (const Json& one : schema.json->at("anyOf")) words.push_back(describe({&one, schema.file}));
  } else if (schema.json->contains("enum")) {
    for (const Json& one : schema.json->at("enum")) words.push_back(one.dump());
  } else if (const Json& type = schema.json->at("type"); type.is_array()) {
    words = type.get<std::vector<std::string>>();
  } else {
    words = {type.get<std::string>()};
  }
  return join(words, " or ");
}

Error offence(const std::string& key, const std::string& what) {
  return usage_error(key.empty() ? what : key + ": " + what);
}

Status check(const Json& value, const Schema& unresolved, const std::string& key) {
  const Schema schema = resolve(unresolved);
  const Json& rules = *schema.json;
  const auto child = [&](const std::string& name) { return key.empty() ? name : key + "." + name; };

  if (rules.contains("anyOf")) {
    // The error of the alternative that has the value's type says most.
    for (const Json& alternative : rules.at("anyOf")) {
      const Schema one = resolve({&alternative, schema.file});
      if (one.json->contains("type") && !has_type(value, one.json->at("type"))) continue;
      return check(value, one, key);
    }
    return offence(key, "expected " + describe(schema));
  }
  if (rules.contains("enum")) {
    for (const Json& one : rules.at("enum")) {
      if (one == value) return {};
    }
    return offence(key, fmt::format("expected {}, found {}", describe(schema), value.dump()));
  }
  if (!has_type(value, rules.at("type"))) {
    return offence(key, fmt::format("expected {}, found {}", describe(schema), value.type_name()));
  }
  if (rules.contains("minimum") && value < rules.at("minimum")) {
    return offence(key, fmt::format("expected at least {}", rules.at("minimum").dump()));
  }
  if (value.is_array() && rules.contains("items")) {
    for (std::size_t i = 0; i < value.size(); ++i) {
      RESHARD_CHECK(check(value[i], {&rules.at("items"), schema.file}, fmt::format("{}[{}]", key, i)));
    }
  }
  if (!value.is_object()) return {};
  if (rules.contains("required")) {
    for (const Json& name : rules.at("required")) {
      if (!value.contains(name.get<std::string>())) {
        return offence(key, fmt::format("the key \"{}\" is missing", name.get<std::string>()));
      }
    }
  }
  for (const auto& [name, member] : value.items()) {
    if (rules.contains("properties") && rules.at("properties").contains(name)) {
      RESHARD_CHECK(check(member, {&rules.at("properties").at(name), schema.file}, child(name)));
      continue;
    }
    const Json& additional = rules.at("additionalProperties");
    if (additional.is_object()) {
      RESHARD_CHECK(check(member, {&additional, schema.file}, child(name)));
      continue;
    }
    std::vector<std::string> known;
    for (const auto& [other, unused] : rules.at("properties").items()) known.push_back(other);
    const auto meant = did_you_mean(name, known);
    return offence(child(name), meant ? fmt::format("unknown key; did you mean {}?", *meant)
                                      : fmt::format("unknown key; known are {}", join(known, ", ")));
  }
  return {};
}

}  // namespace

Expected<Json> parse_object(std::string_view text, const std::string& path) {
  io::JsonVisitor check_only;
  RESHARD_CHECK(io::visit_json(text, path, io::JsonLimits{}, check_only));
  Json value = Json::parse(text);
  if (!value.is_object()) return input_error(path + ": expected a JSON object");
  return value;
}

Status check_schema(const Json& value, const std::string& name) {
  const std::string file = name + ".json";
  return check(value, {&schema_file(file), file}, "");
}

}  // namespace reshard::model
