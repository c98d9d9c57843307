// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "reshard/base/expected.h"

namespace reshard::format {

/// A YAML text as JSON: mappings, lists and scalars, typed as YAML's core schema has it, keys in their order. Errors
/// (input), naming `path` and line: syntax, tags, a key twice, keys that are no scalars, more than a side file has
/// (1 MiB, 65,536 values counted where aliases stand, 64 levels). Local.
Expected<nlohmann::ordered_json> parse_yaml(const std::string& text, const std::string& path);

}  // namespace reshard::format
