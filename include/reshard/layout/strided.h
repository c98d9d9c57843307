// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "reshard/base/dtype.h"
#include "reshard/base/index.h"

namespace reshard::layout {

/// Largest number of loops of one copy: the axes of a canonical tensor, plus what cutting may add.
inline constexpr int kMaxRank = 8;

/// One loop of a strided copy. Strides are in elements of the respective side; `canonical` is the step of the element's
/// row-major index inside its digest line (see repack/digest.h).
struct Loop {
  Index size;
  Index src;
  Index dst;
  Index canonical;
  bool operator==(const Loop&) const = default;
};

/// The loops of one strided copy, outermost first, plus where it starts. Everything the program does to weights is
/// this: element (i0, i1, ...) moves from src + sum i_k * loop_k.src to dst + sum i_k * loop_k.dst.
struct StridedCopy {
  Index src = 0;        ///< elements
  Index dst = 0;        ///< elements
  Index canonical = 0;  ///< index of the first element inside its digest line
  int rank = 0;
  Loop loops[kMaxRank];

  StridedCopy() = default;
  // Plans hold millions of these for a moment each: only the loops in use are copied.
  StridedCopy(const StridedCopy& other) { *this = other; }
  StridedCopy& operator=(const StridedCopy& other) {
    src = other.src;
    dst = other.dst;
    canonical = other.canonical;
    rank = other.rank;
    for (int k = 0; k < rank; ++k) loops[k] = other.loops[k];
    return *this;
  }

  Index volume() const {
    Index n = 1;
    for (int k = 0; k < rank; ++k) n *= loops[k].size;
    return n;
  }
};

/// Drops loops of size 1 and merges neighbours that are contiguous in all three strides. Order is kept.
void coalesce(StridedCopy& copy);

/// Sorts the loops so that strides of one side fall from outer to inner.
void order_by_src(StridedCopy& copy);
void order_by_dst(StridedCopy& copy);

/// Lower and one past the largest element position that the copy touches on one side.
struct Reach {
  Index begin, end;
};
Reach src_reach(const StridedCopy& copy);
Reach dst_reach(const StridedCopy& copy);

/// The part of `copy` whose source (destination) positions lie in [begin, end): at most 2 * rank - 1 copies, appended
/// to `parts` in rising position. Requires loops ordered by that side, where each stride covers what the inner loops
/// reach (true for every sub-box of a dense array).
void cut_by_src(const StridedCopy& copy, Index begin, Index end, std::vector<StridedCopy>& parts);
void cut_by_dst(const StridedCopy& copy, Index begin, Index end, std::vector<StridedCopy>& parts);

}  // namespace reshard::layout
