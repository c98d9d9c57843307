// SPDX-License-Identifier: Apache-2.0
#include "op_maker.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <limits>
#include <optional>

#include "loops.h"
#include "op_kernel.h"

namespace reshard::repack {
namespace {

constexpr Index kAccess = 16;  // bytes of the widest access
constexpr Index kTaskBytes = 32 * kKiB;
constexpr Index kMostItems = 8192;  // of a task, however small they are
// Aligned vectors pay for ops of their own for both ends only in runs of at least so many.
constexpr Index kLongRun = 8;
// Blocks of single elements beat vectors of single ones, if both loops have so many.
constexpr Index kShortLoop = 4;
constexpr int kLaneBits = 5;

Rule rule_of(const plan::Copy& copy) {
  const DType src = copy.src_dtype, dst = copy.dst_dtype;
  if (src != dst) {
    assert(is_castable(src) && is_castable(dst));
    if (src == DType::f16) return dst == DType::bf16 ? Rule::f16_to_bf16 : Rule::f16_to_f32;
    if (src == DType::bf16) return dst == DType::f16 ? Rule::bf16_to_f16 : Rule::bf16_to_f32;
    return dst == DType::f16 ? Rule::f32_to_f16 : Rule::f32_to_bf16;
  }
  if (copy.line == plan::kNoLine) return Rule::bits;
  switch (src) {
    case DType::f8_e5m2:
      return Rule::f8_e5m2;
    case DType::f8_e4m3:
      return Rule::f8_e4m3;
    case DType::f8_e8m0:
      return Rule::f8_e8m0;
    case DType::f8_e4m3fnuz:
      return Rule::f8_e4m3fnuz;
    case DType::f8_e5m2fnuz:
      return Rule::f8_e5m2fnuz;
    case DType::f16:
      return Rule::f16;
    case DType::bf16:
      return Rule::bf16;
    default:
      switch (bits_of(src)) {
        case 16:
          return Rule::u16;
        case 32:
          return Rule::u32;
        case 64:
          return Rule::u64;
        default:
          return Rule::u8;
      }
  }
}

/// Whether a position and all strides of the loops allow accesses of `bytes`.
bool is_aligned(Index bytes, Index first, const Loops& loops, Index Step::*side) {
  const auto fits = [&](const Step& step) { return step.*side % bytes == 0; };
  return first % bytes == 0 && std::all_of(loops.steps, loops.steps + loops.rank, fits);
}

/// Part of a loop: `count` steps from step `begin` on.
struct Range {
  Index begin, count;
};

/// The largest part of a loop that begins where `fits` and has a multiple of `unit` steps; nothing if there is none.
template <class Fits>
std::optional<Range> middle(Index size, Index unit, const Fits& fits) {
  for (Index begin = 0; begin < unit; ++begin) {
    if (!fits(begin)) continue;
    if (size - begin < unit) return {};
    return Range{begin, (size - begin) / unit * unit};
  }
  return {};
}

Index capped(Index bytes) { return std::min(bytes, kAccess); }

class Maker {
 public:
  Maker(const Loops& loops, const Op& common, std::vector<Op>& ops) : loops_(loops), common_(common), ops_(ops) {}

  void make() {
    if (is_bits()) {
      choose_bits();
    } else if (!has_aligned_elements(loops_)) {
      return make_vectors(0, {0, 1}, 0);
    }
    const int dense = loops_.dense();
    if (dense >= 0) {
      const Step run = loops_.take(dense);
      return make_run(run.x, {0, run.size}, true);
    }
    const int by_src = loops_.rank == 0 ? 0 : loops_.near_src(), by_dst = loops_.near_dst();
    if (by_src < by_dst && std::min(loops_.steps[by_src].size, loops_.steps[by_dst].size) >= kShortLoop) {
      b_ = loops_.take(by_dst);
      a_ = loops_.take(by_src);
      return make_tiles();
    }
    // Single elements; the loop that is near in the destination comes first.
    make_vectors(0, {0, 1}, 1);
  }

 private:
  bool is_bits() const { return common_.rule == Rule::bits || common_.rule == Rule::zeros; }

  static bool has_aligned_elements(const Loops& loops) {
    return is_aligned(loops.src_bytes, loops.src, loops, &Step::src) &&
           is_aligned(loops.dst_bytes, loops.dst, loops, &Step::dst);
  }

  // Bits: an element of 1 to 16 bytes without neighbours where that is aligned, else a run of bytes.
  void choose_bits() {
    Loops wide = loops_;
    wide.widen_element();
    if (wide.dense() < 0 && has_aligned_elements(wide)) {
      loops_ = wide;
    } else {
      loops_.split_element();
    }
  }

  // Elements of a vector, widest first; those of bits are single bytes.
  std::array<Index, 5> vector_widths() const {
    if (is_bits()) return {16, 8, 4, 2, 1};
    const Index full = full_vector(loops_.src_bytes, loops_.dst_bytes);
    return {full, full / 2, 1, 1, 1};
  }

  // Vectors along a run of neighbours, as wide as they can be from some element on; the ends by themselves.
  void make_run(std::uint64_t dx, Range run, bool may_cut) {
    if (run.count == 0) return;
    for (Index width : vector_widths()) {
      const Index src_access = capped(width * loops_.src_bytes), dst_access = capped(width * loops_.dst_bytes);
      const auto fits = [&](Index begin) {
        return is_aligned(src_access, loops_.src + (run.begin + begin) * loops_.src_bytes, loops_, &Step::src) &&
               is_aligned(dst_access, loops_.dst + (run.begin + begin) * loops_.dst_bytes, loops_, &Step::dst);
      };
      const std::optional<Range> part = middle(run.count, width, fits);
      if (!part || (part->count < run.count && (!may_cut || part->count < kLongRun * width))) continue;
      make_vectors(dx, {run.begin + part->begin, part->count}, width);
      make_run(dx, {run.begin, part->begin}, false);
      return make_run(dx, {run.begin + part->begin + part->count, run.count - part->begin - part->count}, false);
    }
  }

  // Vectors of `width` elements; 0: of one that is not aligned.
  void make_vectors(std::uint64_t dx, Range run, Index width) {
    Op op = begin_op(run.begin, dx);
    op.dx_src = dx;
    op.width = static_cast<std::uint8_t>(is_bits() ? width * loops_.src_bytes : width);
    width = std::max<Index>(width, 1);
    const Index steps = run.count / width;
    if (steps > 1) {
      add_level(op,
                {steps, width * loops_.src_bytes, width * loops_.dst_bytes, static_cast<std::uint64_t>(width) * dx});
    }
    add_loops(op);
    // The levels that a task takes whole, and how much of the next one.
    const Index target = items_of_task(width * std::max(loops_.src_bytes, loops_.dst_bytes));
    Index inner = 1;
    while (op.cut + 1 < op.num_levels && inner * op.levels[op.cut].size < target) inner *= op.levels[op.cut++].size;
    Level& cut = op.levels[op.cut];
    const Index segment = std::min(cut.size, target / inner);
    op.segment = static_cast<std::uint32_t>(segment);
    finish(op, op.cut, [&](int k) { return k == op.cut ? ceil_div(cut.size, segment) : op.levels[k].size; });
  }

  // Blocks where both ends are aligned, single elements around them.
  void make_tiles() {
    const Index side_a = block_side(loops_.src_bytes);
    const Index side_b = block_side(loops_.dst_bytes);
    const Index src_access = side_a * loops_.src_bytes, dst_access = side_b * loops_.dst_bytes;
    const Range all_a{0, a_.size}, all_b{0, b_.size};
    std::optional<Range> a, b;
    const bool neighbours = a_.src == loops_.src_bytes && b_.dst == loops_.dst_bytes;
    if (neighbours && b_.src % src_access == 0 && a_.dst % dst_access == 0) {
      a = middle(a_.size, side_a,
                 [&](Index begin) { return is_aligned(src_access, loops_.src + begin * a_.src, loops_, &Step::src); });
      b = middle(b_.size, side_b,
                 [&](Index begin) { return is_aligned(dst_access, loops_.dst + begin * b_.dst, loops_, &Step::dst); });
    }
    if (!a || !b) return make_blocks(all_a, all_b, 1, 1);
    make_blocks(*a, *b, side_a, side_b);
    make_blocks({0, a->begin}, all_b, 1, 1);
    make_blocks({a->begin + a->count, a_.size - a->begin - a->count}, all_b, 1, 1);
    make_blocks(*a, {0, b->begin}, 1, 1);
    make_blocks(*a, {b->begin + b->count, b_.size - b->begin - b->count}, 1, 1);
  }

  void make_blocks(Range a, Range b, Index side_a, Index side_b) {
    if (a.count == 0 || b.count == 0) return;
    Op op = begin_op(0, 0);
    op.src += a.begin * a_.src + b.begin * b_.src;
    op.dst += a.begin * a_.dst + b.begin * b_.dst;
    op.x += static_cast<std::uint64_t>(a.begin) * a_.x + static_cast<std::uint64_t>(b.begin) * b_.x;
    op.src_pitch = b_.src;
    op.dst_pitch = a_.dst;
    op.dx_src = a_.x;
    op.dx_dst = b_.x;
    op.blocks = true;
    op.wide = side_a * side_b > 1;
    op.width = static_cast<std::uint8_t>(is_bits() ? loops_.src_bytes : 1);
    const auto in_blocks = [](const Step& step, Range range, Index side) {
      return Step{range.count / side, side * step.src, side * step.dst, static_cast<std::uint64_t>(side) * step.x};
    };
    add_level(op, in_blocks(a_, a, side_a));
    add_level(op, in_blocks(b_, b, side_b));
    add_loops(op);
    while (op.num_levels < 3) add_level(op, {1, 0, 0, 0});
    choose_tile(op, side_a, side_b);
    finish(op, 0,
           [&](int k) { return k < 3 ? ceil_div(op.levels[k].size, Index{1} << op.tile_bits[k]) : op.levels[k].size; });
  }

  // A tile has a power of two of items along each of its levels: near one another first, about as many bytes each way.
  void choose_tile(Op& op, Index side_a, Index side_b) const {
    const Index larger = std::max(loops_.src_bytes, loops_.dst_bytes);
    const auto items = static_cast<std::uint64_t>(items_of_task(side_a * side_b * larger));
    const auto bits = static_cast<int>(std::bit_width(items)) - 1;
    const auto is_full = [&](int k) { return Index{1} << op.tile_bits[k] >= op.levels[k].size; };
    for (int used = 0; used < bits; ++used) {
      const Index bytes_a = side_a * loops_.src_bytes << op.tile_bits[0];
      const Index bytes_b = side_b * loops_.dst_bytes << op.tile_bits[1];
      int k = bytes_b < bytes_a ? 1 : 0;
      if (is_full(k)) k = 1 - k;
      if (is_full(k)) k = 2;
      if (is_full(k)) break;
      ++op.tile_bits[k];
      if (used < kLaneBits && k < 2) ++op.lane_bits[k];
    }
  }

  static Index items_of_task(Index item_bytes) { return std::min(kTaskBytes / item_bytes, kMostItems); }

  Op begin_op(Index begin, std::uint64_t dx) const {
    Op op = common_;
    op.src = loops_.src + begin * loops_.src_bytes;
    op.dst = loops_.dst + begin * loops_.dst_bytes;
    op.x = loops_.x + static_cast<std::uint64_t>(begin) * dx;
    return op;
  }

  static void add_level(Op& op, const Step& step) {
    op.levels[op.num_levels++] = {step.src, step.dst, step.x, step.size, {}};
  }

  // The loops that are left, from the inside; a level at least.
  void add_loops(Op& op) const {
    for (int k = loops_.rank; k-- > 0;) add_level(op, loops_.steps[k]);
    if (op.num_levels == 0) add_level(op, {1, 0, 0, 0});
  }

  // Counts the tasks, given the number of parts of each level; levels below the first one are taken whole.
  template <class PartsOf>
  void finish(Op& op, int first, const PartsOf& parts_of) {
    Index parts = 1;
    for (int k = 0; k < std::min<int>(op.num_levels, layout::kMaxRank + 1); ++k) {
      op.levels[k].parts = make_divider(parts_of(k));
      if (k >= first) parts *= parts_of(k);
    }
    assert(parts <= std::numeric_limits<std::uint32_t>::max());
    op.num_parts = static_cast<std::uint32_t>(parts);
    ops_.push_back(op);
  }

  Loops loops_;
  Step a_ = {}, b_ = {};  // near in the source, near in the destination
  const Op& common_;
  std::vector<Op>& ops_;
};

}  // namespace

Divider make_divider(Index divisor) {
  assert(0 < divisor && divisor <= std::numeric_limits<std::uint32_t>::max());
  const auto d = static_cast<std::uint64_t>(divisor);
  const auto bits = static_cast<int>(std::bit_width(d - 1));
  const std::uint64_t multiplier = (((std::uint64_t{1} << bits) - d) << 32) / d + 1;
  return {static_cast<std::uint32_t>(d), static_cast<std::uint32_t>(multiplier), static_cast<std::uint8_t>(bits > 0),
          static_cast<std::uint8_t>(std::max(bits - 1, 0))};
}

void append_ops(const plan::Copy& copy, std::uint32_t digest, std::vector<Op>& ops) {
  if (copy.strided.volume() == 0) return;
  Op common = {};
  common.src_slot = copy.src_slot;
  common.dst_slot = copy.dst_slot;
  common.rule = rule_of(copy);
  common.counts = copy.line != plan::kNoLine;
  common.digest = digest;
  Maker(Loops(copy), common, ops).make();
}

void append_zeros(Index slot_offset, Index length, std::vector<Op>& ops) {
  plan::Copy fill{.src_slot = plan::Slot::output,
                  .dst_slot = plan::Slot::output,
                  .src_dtype = DType::u8,
                  .dst_dtype = DType::u8,
                  .src_byte = slot_offset,
                  .dst_byte = slot_offset,
                  .line = plan::kNoLine,
                  .write = 0,
                  .strided = {}};
  fill.strided.rank = 1;
  fill.strided.loops[0] = {length, 1, 1, 0};
  if (length == 0) return;
  Op common = {};
  common.src_slot = common.dst_slot = plan::Slot::output;
  common.rule = Rule::zeros;
  Maker(Loops(fill), common, ops).make();
}

}  // namespace reshard::repack
