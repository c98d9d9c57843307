// SPDX-License-Identifier: Apache-2.0
#include "reshard/layout/expression.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace reshard::layout {
namespace {

bool is_name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.'; }

/// Recursive descent over one expression. The depth is bounded, as users write these texts.
class Parser {
 public:
  Parser(std::string_view text, const Scope& scope) : text_(text), scope_(scope) {}

  Expected<Index> whole() {
    RESHARD_TRY(const Index value, sum());
    skip_space();
    if (at_ < text_.size()) return fail(fmt::format("unexpected '{}'", text_.substr(at_)));
    return value;
  }

 private:
  Error fail(const std::string& what) const {
    return usage_error(fmt::format("expression '{}': {} at column {}", text_, what, at_ + 1));
  }
  void skip_space() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Expected<Index> sum() {
    RESHARD_TRY(Index left, product());
    while (true) {
      const bool plus = take('+');
      if (!plus && !take('-')) return left;
      RESHARD_TRY(const Index right, product());
      const bool overflows =
          plus ? __builtin_add_overflow(left, right, &left) : __builtin_sub_overflow(left, right, &left);
      if (overflows) return fail("overflow");
    }
  }

  Expected<Index> product() {
    RESHARD_TRY(Index left, atom());
    while (true) {
      const bool times = take('*');
      if (!times && !take('/')) return left;
      RESHARD_TRY(const Index right, atom());
      if (times) {
        const auto result = checked_mul(left, right);
        if (!result) return fail("overflow");
        left = *result;
      } else {
        if (right <= 0 || left % right != 0) return fail(fmt::format("{} is not divisible by {}", left, right));
        left /= right;
      }
    }
  }

  Expected<Index> atom() {
    if (++depth_ > 32) return fail("nested too deeply");
    skip_space();
    Expected<Index> value = 0;
    if (take('(')) {
      value = sum();
      if (value && !take(')')) return fail("missing ')'");
    } else if (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0) {
      value = number();
    } else if (at_ < text_.size() && is_name_start(text_[at_])) {
      const std::size_t start = at_;
      while (at_ < text_.size() && is_name(text_[at_])) ++at_;
      const std::string_view name = text_.substr(start, at_ - start);
      value = take('(') ? call(name) : lookup(name);
    } else {
      return fail("expected a number or a name");
    }
    --depth_;
    return value;
  }

  Expected<Index> number() {
    Index value = 0;
    while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0) {
      const auto next = checked_mul(value, 10);
      const auto digit = next ? checked_add(*next, text_[at_] - '0') : std::nullopt;
      if (!digit) return fail("overflow");
      value = *digit;
      ++at_;
    }
    return value;
  }

  Expected<Index> lookup(std::string_view name) const {
    const auto found = scope_.numbers.find(name);
    if (found == scope_.numbers.end()) {
      return usage_error(fmt::format("expression '{}': unknown name '{}'", text_, name));
    }
    return found->second;
  }

  Expected<Index> call(std::string_view function) {
    RESHARD_TRY(const Index a, sum());
    if (!take(',')) return fail("expected ','");
    RESHARD_TRY(const Index b, sum());
    if (!take(')')) return fail("missing ')'");
    if (function != "ceil_div" && function != "round_up") return fail(fmt::format("unknown function '{}'", function));
    if (a < 0 || b <= 0 || !checked_add(a, b)) return fail(fmt::format("{}({}, {}) is not defined", function, a, b));
    if (function == "ceil_div") return reshard::ceil_div(a, b);
    const auto rounded = checked_mul(reshard::ceil_div(a, b), b);
    if (!rounded) return fail("overflow");
    return *rounded;
  }

  std::string_view text_;
  const Scope& scope_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

Expected<bool> holds_one(std::string_view condition, const Scope& scope) {
  condition = trim(condition);
  for (const std::string_view word : {" not in ", " in "}) {
    const auto at = condition.find(word);
    if (at == std::string_view::npos) continue;
    RESHARD_TRY(const Index value, evaluate(condition.substr(0, at), scope));
    const std::string_view name = trim(condition.substr(at + word.size()));
    const auto set = scope.sets.find(name);
    if (set == scope.sets.end()) return usage_error(fmt::format("condition '{}': unknown set '{}'", condition, name));
    const bool inside = std::find(set->second.begin(), set->second.end(), value) != set->second.end();
    return inside == (word == " in ");
  }
  if (const auto at = condition.find("=="); at != std::string_view::npos) {
    RESHARD_TRY(const Index left, evaluate(condition.substr(0, at), scope));
    RESHARD_TRY(const Index right, evaluate(condition.substr(at + 2), scope));
    return left == right;
  }
  if (const auto at = condition.find(" divides "); at != std::string_view::npos) {
    RESHARD_TRY(const Index left, evaluate(condition.substr(0, at), scope));
    RESHARD_TRY(const Index right, evaluate(condition.substr(at + 9), scope));
    return left > 0 && right % left == 0;
  }
  if (condition.starts_with("not ")) {
    RESHARD_TRY(const bool inner, holds_one(condition.substr(4), scope));
    return !inner;
  }
  RESHARD_TRY(const Index value, evaluate(condition, scope));
  return value != 0;
}

}  // namespace

Expected<Index> evaluate(std::string_view expression, const Scope& scope) {
  return Parser(trim(expression), scope).whole();
}

Expected<bool> holds(std::string_view condition, const Scope& scope) {
  while (true) {
    const auto at = condition.find(" and ");
    RESHARD_TRY(const bool first, holds_one(condition.substr(0, at), scope));
    if (!first) return false;
    if (at == std::string_view::npos) return true;
    condition.remove_prefix(at + 5);
  }
}

Expected<std::string> fill_in(std::string_view pattern, const Lookup& lookup) {
  std::string text;
  text.reserve(pattern.size() + 16);
  while (true) {
    const auto open = pattern.find('{');
    text += pattern.substr(0, open);
    if (open == std::string_view::npos) return text;
    const auto close = pattern.find('}', open);
    if (close == std::string_view::npos) return usage_error(fmt::format("pattern '{}': missing '}}'", pattern));
    std::string_view name = pattern.substr(open + 1, close - open - 1);
    int width = 0;
    if (const auto colon = name.find(':'); colon != std::string_view::npos) {
      const std::string_view form = name.substr(colon + 1);
      if (form.size() != 3 || form[0] != '0' || form[2] != 'd' || form[1] < '1' || form[1] > '9') {
        return usage_error(fmt::format("pattern '{}': unknown form '{}', expected like 02d", pattern, form));
      }
      width = form[1] - '0';
      name = name.substr(0, colon);
    }
    const std::optional<Index> number = lookup(name);
    if (!number) return usage_error(fmt::format("pattern '{}': unknown name '{}'", pattern, name));
    text += fmt::format("{:0{}d}", *number, width);
    pattern.remove_prefix(close + 1);
  }
}

std::optional<std::map<std::string, Index>> read_off(std::string_view pattern, std::string_view text) {
  std::map<std::string, Index> numbers;
  while (true) {
    const std::string_view plain = pattern.substr(0, pattern.find('{'));
    if (!text.starts_with(plain)) return std::nullopt;
    pattern.remove_prefix(plain.size());
    text.remove_prefix(plain.size());
    if (pattern.empty()) return text.empty() ? std::optional(std::move(numbers)) : std::nullopt;
    const auto close = pattern.find('}');
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    if (close == std::string_view::npos || digits == 0 || digits > 9) return std::nullopt;
    const std::string_view name = pattern.substr(1, close - 1);
    const Index number = std::stoll(std::string(text.substr(0, digits)));
    const auto [known, fresh] = numbers.emplace(name.substr(0, name.find(':')), number);
    if (!fresh && known->second != number) return std::nullopt;
    pattern.remove_prefix(close + 1);
    text.remove_prefix(digits);
  }
}

std::vector<std::string> names_in(std::string_view pattern) {
  std::vector<std::string> names;
  while (true) {
    const auto open = pattern.find('{');
    if (open == std::string_view::npos) return names;
    const auto close = pattern.find('}', open);
    if (close == std::string_view::npos) return names;
    std::string_view name = pattern.substr(open + 1, close - open - 1);
    names.emplace_back(name.substr(0, name.find(':')));
    pattern.remove_prefix(close + 1);
  }
}

}  // namespace reshard::layout
