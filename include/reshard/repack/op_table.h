// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "reshard/base/index.h"
#include "reshard/layout/strided.h"
#include "reshard/plan/round.h"

namespace reshard::repack {

/// Exact n / divisor for every 32-bit n, by multiplication (Granlund and Montgomery).
struct Divider {
  std::uint32_t divisor;
  std::uint32_t multiplier;
  std::uint8_t shift_once, shift_rest;
};

/// A loop over the items of an op: steps in bytes on each side and in index products of the digest.
struct Level {
  Index src, dst;
  std::uint64_t x;
  Divider size;
};

/// How an op forms its items. Every item is independent of all others.
enum class Shape : std::uint8_t {
  vectors,  ///< a few neighbouring elements on both sides
  blocks,   ///< neighbours along one loop in the source and along another in the destination: transposed in registers
  zeros,    ///< vectors of zero bytes
};

/// One strided copy, cast or zero fill as a device runs it: loops over items, the first level fastest. A task takes the
/// levels below `cut` whole, `segment` steps of level `cut`, and one step of each level above.
struct alignas(16) Op {
  Index src, dst;           ///< bytes in the slots of the first item
  std::uint64_t x;          ///< index product of the first element
  std::uint64_t dx;         ///< from one element to the next along the source
  Index src_pitch;          ///< blocks: bytes from one of its source vectors to the next
  Index dst_pitch;          ///< blocks: bytes from one of its destination vectors to the next
  std::uint64_t dx_pitch;   ///< blocks: from one element to the next along the destination
  std::uint32_t digest;     ///< index of the digest that the elements count in
  std::uint32_t num_parts;  ///< tasks
  std::uint32_t segment;    ///< steps of level `cut` in a task
  Divider segments;         ///< number of segments of level `cut`
  plan::Slot src_slot, dst_slot;
  Shape shape;
  std::uint8_t rule;   ///< what happens to an element; the numbers are op_kernel.h's
  std::uint8_t width;  ///< variant of the rule: elements (plain copies: bytes) of one access
  std::uint8_t num_levels;
  std::uint8_t cut;
  /// blocks: an item's number in its task, from the low bits: a, b of its place in the warp, then of the warp's, then
  /// level 2.
  std::uint8_t lane_a_bits, lane_b_bits, tile_a_bits, tile_b_bits;
  Level levels[layout::kMaxRank + 2];
};
static_assert(std::is_trivially_copyable_v<Op> && sizeof(Op) % 16 == 0);

/// The work of one thread block at a time: one part of an op.
struct Task {
  std::uint32_t op;
  std::uint32_t part;
};

/// The slots of a round: where each begins, indexed by plan::Slot. Device addresses, or host ones in emulation; each a
/// multiple of 16.
struct SlotBases {
  std::byte* at[4];
};

/// Copies and zero fills of one phase of a round, as ops and tasks.
class OpTable {
 public:
  /// `copies` lists indices into `all`; the digest of copy i is added to digests[i] where all[i].line is not kNoLine.
  /// Constants with bytes are not looked at. The requirements on copies are those of repack::run. Pure.
  static OpTable make(const std::vector<plan::Copy>& all, std::span<const std::uint32_t> copies,
                      const std::vector<plan::Constant>& zero_fills);

  std::span<const Op> ops() const { return ops_; }
  std::span<const Task> tasks() const { return tasks_; }

 private:
  std::vector<Op> ops_;
  std::vector<Task> tasks_;
};

/// Runs the kernel's own code thread by thread on the host. Local.
void emulate(std::span<const Op> ops, std::span<const Task> tasks, const SlotBases& slots, std::uint64_t* digests);

}  // namespace reshard::repack
