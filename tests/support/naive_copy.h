// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "reshard/plan/round.h"

namespace reshard::test {

/// Value of a stored float of any dtype with at most 32 bits, by its definition in doubles; infinities and NaN as such.
double decode(DType dtype, std::uint32_t raw);
/// The castable dtype's code nearest to `value`, ties to even; finite values and infinities only.
std::uint32_t encode(DType dtype, double value);
/// One element cast by the rules of repack.h.
std::uint32_t naive_cast(DType src, DType dst, std::uint32_t raw);
/// The bits that an element enters its digest with; `raw` of a sub-byte type is one byte.
std::uint64_t naive_digest_bits(DType dtype, std::uint64_t raw);

/// What repack::run must do, one element at a time; returns the digest (0 without a line).
std::uint64_t naive_run(const plan::Copy& copy, const std::byte* src, std::byte* dst);

}  // namespace reshard::test
