// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "reshard/base/dtype.h"
#include "reshard/base/index.h"

namespace reshard::app {

/// Sums over pairs of elements. A pair has changed if its bits, as digests have them, differ, be it that -0 has become
/// +0 or a NaN another one; it counts in the sums if both values are finite.
struct PairSums {
  Index elements = 0, changed = 0;
  double max_abs = 0;  ///< infinity where a changed pair is not finite, unless both are NaN
  double abs = 0, squares = 0;
  double a_squares = 0, b_squares = 0, products = 0;

  void add(const PairSums& other);
};

/// Compares `count` elements of one dtype, not of a sub-byte one; complex values are two floats. Pure.
PairSums compare_elements(DType dtype, const std::byte* a, const std::byte* b, Index count);

}  // namespace reshard::app
