// SPDX-License-Identifier: Apache-2.0
#include "reshard/base/text.h"

#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>

namespace reshard {
namespace {

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Bytes in a unit such as "GB", "GiB", "b" or "" (any case).
std::optional<Index> unit_bytes(std::string_view unit) {
  if (unit.empty()) return 1;
  if (lower(unit.back()) != 'b') return std::nullopt;
  unit.remove_suffix(1);
  if (unit.empty()) return 1;
  constexpr std::string_view kPrefixes = "kmgtp";
  const auto power = kPrefixes.find(lower(unit[0]));
  const bool binary = unit.size() == 2 && lower(unit[1]) == 'i';
  if (power == std::string_view::npos || (unit.size() != 1 && !binary)) return std::nullopt;
  Index bytes = 1;
  for (std::size_t i = 0; i <= power; ++i) bytes *= binary ? 1024 : 1000;
  return bytes;
}

/// True if `c` is in the set that starts behind `[` at `begin`; `end` is the place of the closing bracket.
bool in_set(std::string_view pattern, std::size_t begin, std::size_t end, char c) {
  for (std::size_t i = begin; i < end; ++i) {
    if (i + 2 < end && pattern[i + 1] == '-') {
      if (pattern[i] <= c && c <= pattern[i + 2]) return true;
      i += 2;
    } else if (pattern[i] == c) {
      return true;
    }
  }
  return false;
}

/// Edit distance with swaps of neighbours (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

}  // namespace

std::optional<Index> parse_size(std::string_view text) {
  constexpr int kMaxFraction = 9;
  std::size_t at = 0;
  Index whole = 0;
  if (text.empty() || !is_digit(text[0])) return std::nullopt;
  for (; at < text.size() && is_digit(text[at]); ++at) {
    const auto next = checked_mul(whole, 10);
    const auto sum = next ? checked_add(*next, text[at] - '0') : std::nullopt;
    if (!sum) return std::nullopt;
    whole = *sum;
  }
  Index fraction = 0, scale = 1;
  if (at < text.size() && text[at] == '.') {
    const std::size_t first = ++at;
    for (; at < text.size() && is_digit(text[at]); ++at) {
      fraction = fraction * 10 + (text[at] - '0');
      scale *= 10;
      if (at - first == kMaxFraction) return std::nullopt;
    }
    if (at == first) return std::nullopt;
  }
  if (at < text.size() && text[at] == ' ') ++at;
  const auto unit = unit_bytes(text.substr(at));
  if (!unit || (scale != 1 && *unit == 1) || (text.back() == ' ')) return std::nullopt;
  const auto bytes = checked_mul(whole, *unit);
  if (!bytes) return std::nullopt;
  return checked_add(*bytes, static_cast<Index>(static_cast<__int128>(fraction) * *unit / scale));
}

std::string describe_bytes(Index bytes) {
  constexpr std::array<const char*, 6> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes > -1024 && bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  // 1023.95 would print as 1024.0.
  while (std::abs(value) >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string describe_rate(double bytes_per_second) {
  constexpr std::array<const char*, 5> kUnits = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"};
  double value = bytes_per_second;
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  const int digits = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", value, digits, kUnits[unit]);
}

std::string describe_seconds(double seconds) {
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<Index>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  const Index minutes = (whole + 30) / 60;
  return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
}

bool matches_glob(std::string_view pattern, std::string_view name) {
  std::size_t p = 0, n = 0;
  std::size_t star = std::string_view::npos, star_name = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_name = n;
      continue;
    }
    std::size_t next = p + 1;
    bool fits = p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n]);
    if (p < pattern.size() && pattern[p] == '[') {
      // A bracket that never closes, or closes at once, stands for itself.
      const auto close = pattern.find(']', p + 1);
      if (close != std::string_view::npos && close > p + 1) {
        fits = in_set(pattern, p + 1, close, name[n]);
        next = close + 1;
      }
    }
    if (fits) {
      p = next;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++star_name;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::optional<std::string> did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::size_t close_enough = std::max<std::size_t>(1, word.size() / 3);
  std::optional<std::string> best;
  std::size_t best_distance = close_enough + 1;
  for (const auto& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance && distance < std::max(word.size(), candidate.size())) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0;;) {
    const auto end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

void sort_naturally(std::vector<std::string>& texts) {
  std::sort(texts.begin(), texts.end(),
            [](const std::string& a, const std::string& b) { return ::strverscmp(a.c_str(), b.c_str()) < 0; });
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

}  // namespace reshard
