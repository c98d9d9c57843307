// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "reshard/base/dtype.h"

namespace reshard::repack {

/// Version of the digest below; part of every printed digest, frozen by a golden test.
inline constexpr std::string_view kDigestVersion = "rd1";

inline constexpr std::uint64_t kDigestStep = 0x9E3779B97F4A7C15u;

/// Contribution of one element to the digest of its line, summed modulo 2^64 over the line's elements: `index` is the
/// element's row-major position in the line, `bits` its value widened to binary32 by integer rules (bf16, f16, fp8) or
/// its own bits (f32, f64, integers). Both 32-bit factors depend on place and value, so that neither a swap nor a shift
/// cancels; one 32 x 32 -> 64 multiplication, the index product being a running sum. `x` is (index + 1) * kDigestStep,
/// which a loop keeps as a running sum.
/// `rotated` is the upper half of `bits`, xor its lower half rotated by 16.
constexpr std::uint64_t mix_factors(std::uint64_t x, std::uint32_t low, std::uint32_t rotated) {
  const std::uint32_t a = static_cast<std::uint32_t>(x) ^ low;
  const std::uint32_t b = (static_cast<std::uint32_t>(x >> 32) ^ rotated) | 1u;
  return static_cast<std::uint64_t>(a) * b;
}
constexpr std::uint64_t mix_product(std::uint64_t x, std::uint64_t bits) {
  const std::uint32_t low = static_cast<std::uint32_t>(bits);
  const std::uint32_t high = static_cast<std::uint32_t>(bits >> 32);
  return mix_factors(x, low, (low << 16 | low >> 16) ^ high);
}
constexpr std::uint64_t mix(std::uint64_t index, std::uint64_t bits) {
  return mix_product((index + 1) * kDigestStep, bits);
}

}  // namespace reshard::repack
