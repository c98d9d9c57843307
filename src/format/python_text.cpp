// SPDX-License-Identifier: Apache-2.0
#include "python_text.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <set>

namespace reshard::format {

namespace {

// A YAML 1.1 reader takes 1e-06 for text: a float needs a point.
std::string yaml_float(std::string text) {
  const std::size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

// Would a reader take the text for a number or another word of the notation?
bool needs_quotes(const std::string& text) {
  static const std::set<std::string> kWords = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"};
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  const bool is_word = !text.empty() && (std::isalpha(static_cast<unsigned char>(text[0])) != 0 || text[0] == '/');
  return !is_word || kWords.count(lower) != 0;
}

void emit(const nlohmann::ordered_json& value, YAML::Emitter& yaml) {
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
    const auto text = value.get<std::string>();
    if (needs_quotes(text)) yaml << YAML::DoubleQuoted;
    yaml << text;
  } else if (value.is_number_float()) {
    yaml << yaml_float(value.dump());
  } else if (value.is_null()) {
    yaml << YAML::Null;
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

std::string python_yaml(const nlohmann::ordered_json& value) {
  YAML::Emitter yaml;
  yaml.SetNullFormat(YAML::LowerNull);
  emit(value, yaml);
  return std::string(yaml.c_str()) + "\n";
}

}  // namespace reshard::format
