// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "reshard/base/index.h"
#include "reshard/plan/round.h"

namespace reshard::repack {

/// A loop in bytes on both sides and in index products of the digest.
struct Step {
  Index size;
  Index src;
  Index dst;
  std::uint64_t x;
};

/// The loops of one copy in the form that suits the memory: in bytes, coalesced, by falling destination stride. An
/// element is what is moved as one; sub-byte types go by bytes. The canonical index is dropped where nothing counts.
struct Loops {
  explicit Loops(const plan::Copy& copy);

  /// The loop whose elements are neighbours on both sides; -1: there is none.
  int dense() const;
  /// The loop with the smallest stride in the source, and in the destination. Requires a loop.
  int near_src() const;
  int near_dst() const { return rank - 1; }

  /// Makes the dense loop part of the element, if that then has 1, 2, 4, 8 or 16 bytes. For copies of bits alone.
  void widen_element();
  /// Makes elements of one byte, and a dense loop of the bytes, unless that is so. For copies of bits alone.
  void split_element();
  /// Removes a loop and returns it.
  Step take(int k);

  Index src_bytes, dst_bytes;  ///< of one element
  Index src, dst;              ///< of the first element, bytes in the slots
  std::uint64_t x;             ///< index product of the first element
  int rank;
  Step steps[layout::kMaxRank + 1];
};

}  // namespace reshard::repack
