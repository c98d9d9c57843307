// SPDX-License-Identifier: Apache-2.0
#include "reshard/io/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <vector>

namespace reshard::io {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxConfigBytes = 64 * kMiB;
constexpr std::size_t kMaxShown = 200;

/// Walks the text and keeps the place of the walk where others see it: the parser tells no positions.
class TrackedIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackedIterator(const char* at, const char** seen) : at_(at), seen_(seen) {}
  reference operator*() const { return *at_; }
  TrackedIterator& operator++() {
    *seen_ = ++at_;
    return *this;
  }
  bool operator==(const TrackedIterator& other) const { return at_ == other.at_; }
  bool operator!=(const TrackedIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** seen_;
};

/// The text of a string token, quotes included, that ends in front of `end`.
std::string_view token_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  for (bool escaped = true; escaped;) {
    begin = text.rfind('"', begin - 1);
    std::size_t slashes = 0;
    while (slashes < begin && text[begin - 1 - slashes] == '\\') ++slashes;
    escaped = slashes % 2 == 1;
  }
  return text.substr(begin, end - begin);
}

std::string decode(std::string_view token) { return Json::parse(token).get<std::string>(); }

class Handler {
 public:
  Handler(std::string_view text, const JsonLimits& limits, JsonVisitor& visitor, const char*& place)
      : text_(text), limits_(limits), visitor_(visitor), place_(place) {}

  bool null() { return visitor_.other(); }
  bool boolean(bool) { return visitor_.other(); }
  bool number_integer(Json::number_integer_t) { return visitor_.other(); }
  bool number_unsigned(Json::number_unsigned_t value) { return visitor_.number(value); }
  bool number_float(Json::number_float_t, const std::string&) { return visitor_.other(); }
  bool string(std::string& value) { return visitor_.string(value); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(std::size_t) {
    first_keys_.push_back(keys_.size());
    return deeper() && visitor_.begin_object();
  }
  bool key(std::string& name) {
    keys_.push_back({std::hash<std::string_view>{}(name), static_cast<std::size_t>(place_ - text_.data())});
    return visitor_.key(name);
  }
  bool end_object() {
    const bool fine = unique_keys() && visitor_.end_object();
    keys_.resize(first_keys_.back());
    first_keys_.pop_back();
    --depth_;
    return fine;
  }
  bool start_array(std::size_t) { return deeper() && visitor_.begin_array(); }
  bool end_array() {
    --depth_;
    return visitor_.end_array();
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) {
    place_ = text_.data() + std::min(position, text_.size());
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while ..."
    const std::string_view what = error.what();
    const auto colon = what.find(": ");
    reason_ = "invalid JSON: " +
              std::string(colon == std::string_view::npos ? what : what.substr(colon + 2)).substr(0, kMaxShown);
    return false;
  }

  const std::string& reason() const { return reason_.empty() ? visitor_.reason() : reason_; }

 private:
  struct Key {
    std::size_t hash, end;
  };

  bool deeper() {
    if (++depth_ <= limits_.max_depth) return true;
    reason_ = fmt::format("nested deeper than {}", limits_.max_depth);
    return false;
  }

  /// Compares the keys of the object that ends: those of equal hash once more as text.
  bool unique_keys() {
    const auto first = keys_.begin() + static_cast<std::ptrdiff_t>(first_keys_.back());
    std::sort(first, keys_.end(),
              [](const Key& a, const Key& b) { return std::pair(a.hash, a.end) < std::pair(b.hash, b.end); });
    for (auto run = first; run != keys_.end();) {
      const auto run_end = std::find_if(run, keys_.end(), [&](const Key& k) { return k.hash != run->hash; });
      if (run_end - run > 1 && !unique_names(run, run_end)) return false;
      run = run_end;
    }
    return true;
  }

  bool unique_names(std::vector<Key>::const_iterator begin, std::vector<Key>::const_iterator end) {
    std::vector<std::pair<std::string, std::size_t>> names;
    for (auto key = begin; key != end; ++key) names.emplace_back(decode(token_before(text_, key->end)), key->end);
    std::sort(names.begin(), names.end());
    for (std::size_t i = 1; i < names.size(); ++i) {
      if (names[i].first != names[i - 1].first) continue;
      reason_ = fmt::format("duplicate key {}", in_quotes(names[i].first));
      place_ = text_.data() + names[i].second;
      return false;
    }
    return true;
  }

  std::string_view text_;
  const JsonLimits& limits_;
  JsonVisitor& visitor_;
  const char*& place_;
  std::string reason_;
  int depth_ = 0;
  std::vector<Key> keys_;                // of all objects that are open, outermost first
  std::vector<std::size_t> first_keys_;  // of each open object
};

/// What the parser would accept, or use much memory for before it refuses it.
std::string find_trap(std::string_view text, const JsonLimits& limits, std::size_t& at) {
  at = 0;
  if (text.starts_with("\xEF\xBB\xBF")) return "invalid JSON: begins with a byte-order mark";
  at = text.find('\0');
  if (at != std::string_view::npos) return "invalid JSON: a NUL byte";
  for (std::size_t quote = text.find('"'); quote != std::string_view::npos;) {
    std::size_t end = quote + 1;
    while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2u : 1u;
    if (end - quote > limits.max_string_bytes) {
      at = quote;
      return fmt::format("a string of more than {} bytes", limits.max_string_bytes);
    }
    quote = end < text.size() ? text.find('"', end + 1) : std::string_view::npos;
  }
  return {};
}

}  // namespace

std::string in_quotes(std::string_view text) {
  const bool cut = text.size() > kMaxShown;
  return Json(std::string(text.substr(0, kMaxShown))).dump(-1, ' ', true, Json::error_handler_t::replace) +
         (cut ? "..." : "");
}

Status visit_json(std::string_view text, const std::string& path, const JsonLimits& limits, JsonVisitor& visitor) {
  const auto failure = [&](const std::string& reason, std::size_t at) {
    return input_error(fmt::format("{}: byte {}: {}", path, limits.first_byte + static_cast<Index>(at), reason));
  };
  std::size_t trap = 0;
  if (const std::string reason = find_trap(text, limits, trap); !reason.empty()) return failure(reason, trap);
  const char* place = text.data();
  Handler handler(text, limits, visitor, place);
  const char* const end = text.data() + text.size();
  if (Json::sax_parse(TrackedIterator(text.data(), &place), TrackedIterator(end, &place), &handler)) return {};
  return failure(handler.reason(), static_cast<std::size_t>(place - text.data()));
}

Expected<Json> parse_strict_json(std::string_view text, const std::string& path) {
  if (text.size() > kMaxConfigBytes) {
    return input_error(fmt::format("{}: {} bytes of JSON, at most {} are read", path, text.size(), kMaxConfigBytes));
  }
  JsonVisitor check_only;
  RESHARD_CHECK(visit_json(text, path, JsonLimits{}, check_only));
  return Json::parse(text);
}

}  // namespace reshard::io
