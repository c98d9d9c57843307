// SPDX-License-Identifier: Apache-2.0
#include "json.h"

#include <set>
#include <vector>

namespace reshard::format {

namespace {

constexpr int kMaxDepth = 64;

// Raised inside the parser's callback and caught in parse_json: the library has no other way to stop.
struct Refused {
  std::string reason;
};

}  // namespace

Expected<nlohmann::json> parse_json(std::string_view text, const std::string& where) {
  if (text.substr(0, 3) == "\xEF\xBB\xBF")
    return input_error(where + ": begins with a byte order mark; save it as plain UTF-8");
  std::vector<std::set<std::string>> keys;
  const auto watch = [&keys](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxDepth) throw Refused{"nested deeper than " + std::to_string(kMaxDepth)};
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw Refused{"key \"" + parsed.get<std::string>() + "\" occurs twice"};
    }
    return true;
  };
  try {
    nlohmann::json value = nlohmann::json::parse(text, watch);
    if (!value.is_object()) return input_error(where + ": expected a JSON object");
    return value;
  } catch (const Refused& refused) {
    return input_error(where + ": " + refused.reason);
  } catch (const nlohmann::json::exception& error) {
    return input_error(where + ": not valid JSON: " + error.what());
  }
}

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

}  // namespace reshard::format
