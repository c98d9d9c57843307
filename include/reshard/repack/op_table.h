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
  Index size;
  Divider parts;  ///< what a task number counts; of levels that a task takes whole, the size
};

/// What happens to an element on its way.
enum class Rule : std::uint8_t {
  zeros,  ///< no source
  bits,   ///< nothing
  // Counted in a digest as what they are; u8, u16, u32, u64: as their bits.
  u8,
  u16,
  u32,
  u64,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  f16,
  bf16,
  // Cast, and counted if the op says so.
  f16_to_bf16,
  f16_to_f32,
  bf16_to_f16,
  bf16_to_f32,
  f32_to_f16,
  f32_to_bf16,
};

/// One strided copy, cast or zero fill as a device runs it: loops over items, the first level fastest. An item is
/// either a few elements that are neighbours on both sides (a vector), or neighbours along one loop in the source and
/// along another in the destination (a block), which is transposed in registers. Items are independent of each other.
struct alignas(16) Op {
  Index src, dst;  ///< bytes in the slots of the first item
  // In a block, from one of its source vectors to the next, and from one of its destination vectors to the next: bytes.
  Index src_pitch, dst_pitch;
  std::uint64_t x;               ///< index product of the first element
  std::uint64_t dx_src, dx_dst;  ///< index products from one element to the next, along the source and destination
  std::uint32_t digest;          ///< index of the digest that the elements count in
  std::uint32_t num_parts;       ///< tasks
  std::uint32_t segment;         ///< vectors: steps of level `cut` in a task
  plan::Slot src_slot, dst_slot;
  Rule rule;
  bool counts;
  bool blocks;
  std::uint8_t width;  ///< elements of a vector (bits and zeros: bytes); of blocks, bits: bytes of an element
  bool wide;           ///< blocks: of several elements each way, not of one
  std::uint8_t num_levels;
  std::uint8_t cut;  ///< vectors: a task takes the levels below whole, and of those above one step
  // Blocks: levels 0 (along the source), 1 (along the destination) and 2; an item's number in its task is, from the low
  // bits, its place along 0 and 1 in the warp, the rest of its place along 0 and 1, its place along 2.
  std::uint8_t lane_bits[2];
  std::uint8_t tile_bits[3];
  Level levels[layout::kMaxRank + 1];
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
