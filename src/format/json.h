// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "reshard/base/expected.h"

namespace reshard::format {

/// Parses a side file. Errors (input): not JSON, not an object, a key twice, nested deeper than 64, a byte order mark;
/// the message begins with `where`. Local.
Expected<nlohmann::json> parse_json(std::string_view text, const std::string& where);

/// The text that Python's json.dumps writes: one line, ", " and ": " between the parts, ASCII only.
std::string python_dumps(const nlohmann::ordered_json& value);

}  // namespace reshard::format
