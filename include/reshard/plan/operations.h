// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/layout/layout.h"
#include "reshard/layout/strided.h"

namespace reshard::plan {

/// Where an array's element 0 lies.
struct Place {
  std::uint32_t file = 0;
  Index offset = 0;  ///< bytes
};

/// One checkpoint's arrays on their way into another's. File numbers count over all transfers of a plan.
struct Transfer {
  const layout::Layout* src = nullptr;
  std::vector<Place> src_places;  ///< per array of src
  const layout::Layout* dst = nullptr;
  std::vector<Place> dst_places;  ///< per array of dst
  std::int64_t line_base = 0;     ///< added to the line numbers
  /// Every piece of the source to itself, replicas too, each with a digest line of its own (see piece_lines): src and
  /// dst are one layout. For comparing replicas, which other transfers read only one of.
  bool per_piece = false;
};

/// What line number i of a per_piece transfer holds.
struct PieceLine {
  std::uint32_t tensor;
  layout::Piece piece;
};
std::vector<PieceLine> piece_lines(const layout::Layout& layout);

/// One copy op: a box that a source array and a target array share. The loops are shared between ops of the same form.
struct Operation {
  std::uint32_t src_array, dst_array;
  std::uint32_t loops;  ///< index into Operations' pool
  std::uint8_t rank;
  std::uint8_t transfer;
  std::int64_t line;          ///< -1: does not count in the digest (a replica in the target)
  Index src, dst, canonical;  ///< elements
};

/// All copy ops of a plan, by target array.
class Operations {
 public:
  /// Intersects the layouts of each transfer, tensor by tensor, by a sweep over nested intervals; never all pairs.
  /// Checks that every target element is written exactly once and every canonical element reaches the target. Errors
  /// (input): overlapping source shards, (usage) elements that the source does not have. Local, pure.
  static Expected<Operations> intersect(std::span<const Transfer> transfers);

  std::span<const Operation> all() const { return operations_; }
  /// Ops into one target array, by rising destination.
  std::span<const Operation> into(std::size_t transfer, std::uint32_t dst_array) const;
  /// Longest destination reach among those, elements.
  Index longest_reach(std::size_t transfer, std::uint32_t dst_array) const;
  layout::StridedCopy strided(const Operation& op) const;

  Index replicas_skipped() const { return replicas_skipped_; }  ///< source elements that another shard repeats
  Index memory_bytes() const;

 private:
  std::vector<Operation> operations_;
  std::vector<layout::Loop> pool_;
  struct Into {
    Index begin, end, longest;
  };
  std::vector<std::vector<Into>> into_;  // per transfer, per target array
  Index replicas_skipped_ = 0;
};

}  // namespace reshard::plan
