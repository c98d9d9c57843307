// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>

#include "configs.h"
#include "reshard/base/expected.h"

namespace reshard::model {

/// An axis's or number's expression: the tables may write plain integers as such.
std::string expression_text(const Json& value);

/// The names that the texts of a table may use. Checks texts when a table is loaded, before the names have values: a
/// text is fine if it can be evaluated with every name at one of a few values, so that inexact divisions are no false
/// alarm.
struct Names {
  std::set<std::string, std::less<>> numbers, sets;

  /// Errors (usage): syntax, unknown name. Local.
  Status check_expression(const std::string& text) const;
  Status check_condition(const std::string& text) const;
  Status check_pattern(const std::string& text) const;
  /// Adds a name. Errors (usage): not a name, a word of the notation, or taken. Local.
  Status add_number(const std::string& name);
};

}  // namespace reshard::model
