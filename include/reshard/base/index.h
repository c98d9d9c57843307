// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace reshard {

/// Every count, size, offset and stride. Signed, so that differences are safe; 64 bits, so that models are.
using Index = std::int64_t;

/// Extents of an n-D array, outermost first. Empty: one element.
using Shape = std::vector<Index>;

inline constexpr Index kKiB = 1024;
inline constexpr Index kMiB = 1024 * kKiB;
inline constexpr Index kGiB = 1024 * kMiB;

/// a + b, a * b for numbers that came from outside; nothing on overflow.
inline std::optional<Index> checked_add(Index a, Index b) {
  Index r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}
inline std::optional<Index> checked_mul(Index a, Index b) {
  Index r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

/// Number of elements of `shape`; nothing if an extent is negative or the product overflows. A zero extent gives 0
/// whatever the others are.
std::optional<Index> num_elements(const Shape& shape);

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
inline Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

}  // namespace reshard
