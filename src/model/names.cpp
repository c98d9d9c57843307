// SPDX-License-Identifier: Apache-2.0
#include "names.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <optional>

#include "reshard/layout/expression.h"

namespace reshard::model {
namespace {

Status try_values(const Names& names, const std::function<Status(const layout::Scope&)>& text) {
  Status first;
  // 5040 has all small divisors; the others suit differences and sums.
  for (const Index value : {5040, 1, 2, 3}) {
    layout::Scope scope;
    for (const std::string& name : names.numbers) scope.numbers[name] = value;
    for (const std::string& name : names.sets) scope.sets[name] = {};
    Status status = text(scope);
    if (status) return {};
    if (value == 5040) first = std::move(status);
  }
  return first;
}

}  // namespace

std::string expression_text(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

Status Names::check_expression(const std::string& text) const {
  return try_values(*this, [&](const layout::Scope& scope) -> Status {
    RESHARD_TRY([[maybe_unused]] const Index value, layout::evaluate(text, scope));
    return {};
  });
}

Status Names::check_condition(const std::string& text) const {
  // Part by part, as holds() stops at the first that is false.
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(" and ", begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const auto check_part = [&](const layout::Scope& scope) -> Status {
      RESHARD_TRY([[maybe_unused]] const bool value, layout::holds(part, scope));
      return {};
    };
    RESHARD_CHECK(try_values(*this, check_part));
    begin = end + 5;
  }
  return {};
}

Status Names::check_pattern(const std::string& text) const {
  const auto known = [&](std::string_view name) -> std::optional<Index> {
    if (!numbers.contains(name)) return std::nullopt;
    return 1;
  };
  RESHARD_TRY([[maybe_unused]] const std::string filled, layout::fill_in(text, known));
  return {};
}

Status Names::add_number(const std::string& name) {
  const auto letter = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  if (name.empty() || !std::all_of(name.begin(), name.end(), letter) ||
      std::isdigit(static_cast<unsigned char>(name.front())) != 0) {
    return usage_error(fmt::format("\"{}\" is not a name: letters, digits and _ make one", name));
  }
  static const std::set<std::string, std::less<>> words = {"in",       "not",      "and", "divides",
                                                           "ceil_div", "round_up", "flat"};
  if (words.contains(name)) return usage_error(fmt::format("\"{}\" is a word of the notation", name));
  if (!numbers.insert(name).second) return usage_error(fmt::format("the name \"{}\" is taken", name));
  return {};
}

}  // namespace reshard::model
