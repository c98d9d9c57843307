// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace reshard::format {

/// The text that Python's json.dumps writes: one line, ", " and ": " between the parts, ASCII only. Pure.
std::string python_dumps(const nlohmann::ordered_json& value);

/// The text that PyYAML's dump writes for nested mappings of scalars and lists: block style, keys in their
/// order. Pure.
std::string python_yaml(const nlohmann::ordered_json& value);

}  // namespace reshard::format
