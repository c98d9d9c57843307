// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "reshard/plan/round.h"

namespace reshard::test {

std::vector<std::byte> random_bytes(std::mt19937_64& random, Index size);

/// A copy from the source slot to the output slot, both from byte 0 on.
plan::Copy make_copy(DType src, DType dst, std::vector<layout::Loop> loops, std::int64_t line = 0);

struct CopyCase {
  plan::Copy copy;
  Index src_size, dst_size;  ///< bytes
};

/// A random copy: a box of a dense array on both sides, axes in different orders, gaps on both sides, any dtype or
/// cast, at any address.
CopyCase random_copy(std::mt19937_64& random);

}  // namespace reshard::test
