// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::layout {

/// The names that expressions in the tables may use: numbers (hyper-parameters, axis extents, mesh sizes and
/// coordinates, flags as 0 or 1) and index sets (`moe_layers`).
struct Scope {
  std::map<std::string, Index, std::less<>> numbers;
  std::map<std::string, std::vector<Index>, std::less<>> sets;

  bool has(std::string_view name) const { return numbers.find(name) != numbers.end(); }
};

/// Integers, names, + - * / ( ), ceil_div(a, b), round_up(a, b). `/` must divide without remainder.
/// Errors: unknown name, syntax, overflow, inexact division. Local.
Expected<Index> evaluate(std::string_view expression, const Scope& scope);

/// A condition: NAME, `not C`, `A == B`, `A in SET`, `A not in SET`, `A divides B`, joined by `and`. Local.
Expected<bool> holds(std::string_view condition, const Scope& scope);

/// Value of a name, nothing if there is none.
using Lookup = std::function<std::optional<Index>(std::string_view name)>;

/// Replaces {name}, {name:02d}, {name.size} in `pattern` by their values (`name.size` is a name of its own). Braces
/// that name nothing are an error. Local.
Expected<std::string> fill_in(std::string_view pattern, const Lookup& lookup);

/// What fill_in put in the places of a pattern's names to make `text`; nothing, if it did not: other text, no digits or
/// more than nine where a name stands, or one name with two numbers. Pure.
std::optional<std::map<std::string, Index>> read_off(std::string_view pattern, std::string_view text);

/// The names in braces of a pattern, in order: "layers.{layer}.w{expert}" gives layer, expert.
std::vector<std::string> names_in(std::string_view pattern);

}  // namespace reshard::layout
