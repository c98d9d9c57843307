// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/index.h"

namespace reshard {

/// "5GB", "2GiB", "1.5 GiB", "4096": decimal prefixes are powers of 1000, those with i of 1024. Nothing on anything
/// else.
std::optional<Index> parse_size(std::string_view text);

/// "16.0 MiB", "141.1 GB (decimal)": for people. Binary prefixes below, decimal where rates are printed.
std::string describe_bytes(Index bytes);
std::string describe_rate(double bytes_per_second);
/// "1.2 s", "3 min 05 s", "2 h 10 min".
std::string describe_seconds(double seconds);

/// Shell-style match of the whole name: * ? [abc] [0-9] and nothing else; `*` also matches dots and slashes.
bool matches_glob(std::string_view pattern, std::string_view name);

/// The candidate closest to `word` by edit distance, if it is close enough to be a slip of the finger.
std::optional<std::string> did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

/// One part more than there are separators; parts may be empty.
std::vector<std::string> split(std::string_view text, char separator);
/// Sorts texts, numbers in them by value (9 before 10), and drops repeated ones.
void sort_naturally(std::vector<std::string>& texts);

std::string join(const std::vector<std::string>& parts, std::string_view separator);

}  // namespace reshard
