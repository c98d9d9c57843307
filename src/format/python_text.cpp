// SPDX-License-Identifier: Apache-2.0
#include "python_text.h"

#include <yaml-cpp/yaml.h>

namespace reshard::format {

namespace {

// A YAML 1.1 reader takes 1e-06 for text: a float needs a point.
std::string yaml_float(const nlohmann::json& value) {
  std::string text = value.dump();
  const std::size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

void emit(const nlohmann::json& value, YAML::Emitter& yaml) {
  if (value.is_object()) {
    if (value.empty()) yaml << YAML::Flow;
    yaml << YAML::BeginMap;
    for (const auto& [key, member] : value.items()) {
      yaml << YAML::Key << key << YAML::Value;
      emit(member, yaml);
    }
    yaml << YAML::EndMap;
  } else if (value.is_array()) {
    if (value.empty()) yaml << YAML::Flow;
    yaml << YAML::BeginSeq;
    for (const auto& member : value) emit(member, yaml);
    yaml << YAML::EndSeq;
  } else if (value.is_string()) {
    yaml << value.get<std::string>();
  } else if (value.is_number_float()) {
    yaml << yaml_float(value);
  } else if (value.is_null()) {
    yaml << "null";  // YAML::Null writes ~
  } else {
    yaml << value.dump();
  }
}

}  // namespace

std::string python_dumps(const nlohmann::ordered_json& value) {
  std::string text;
  if (value.is_object()) {
    for (const auto& [key, member] : value.items()) {
      text +=
          (text.empty() ? "" : ", ") + nlohmann::ordered_json(key).dump(-1, ' ', true) + ": " + python_dumps(member);
    }
    return "{" + text + "}";
  }
  if (value.is_array()) {
    for (const auto& member : value) text += (text.empty() ? "" : ", ") + python_dumps(member);
    return "[" + text + "]";
  }
  return value.dump(-1, ' ', true);
}

std::string python_yaml(const nlohmann::json& value) {
  YAML::Emitter yaml;
  emit(value, yaml);
  return std::string(yaml.c_str()) + "\n";
}

}  // namespace reshard::format
