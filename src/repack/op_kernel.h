// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "reshard/repack/digest.h"
#include "reshard/repack/element.h"
#include "reshard/repack/op_table.h"

/// What one thread does with one task: the whole of the kernel except for the sum over threads. Compiled for the device
/// and, for tests and emulation, for the host. `Memory` does the accesses:
///   template <unsigned kBytes> Words<kBytes> load(const std::byte*);         // 1, 2, 4, 8 or 16 bytes, aligned to as
///   many template <unsigned kBytes> void store(std::byte*, const Words<kBytes>&);
#ifdef __CUDACC__
#define RESHARD_KERNEL __host__ __device__ __forceinline__
#define RESHARD_KERNEL_CALL __host__ __device__ __noinline__  // compiled by itself: quicker, and with fewer registers
#else
#define RESHARD_KERNEL inline
#define RESHARD_KERNEL_CALL
#endif
#ifdef __CUDA_ARCH__
#define RESHARD_UNROLL _Pragma("unroll")
#else
#define RESHARD_UNROLL
#endif

namespace reshard::repack {

/// Threads of a block; a task is worth several items for each.
inline constexpr std::uint32_t kThreads = 256;

RESHARD_KERNEL std::uint32_t divide(std::uint32_t n, const Divider& by) {
  const auto high = static_cast<std::uint32_t>(static_cast<std::uint64_t>(n) * by.multiplier >> 32);
  return (high + ((n - high) >> by.shift_once)) >> by.shift_rest;
}

/// Where an item begins: bytes in the slots, and the index product of its first element.
struct Position {
  Index src, dst;
  std::uint64_t x;
};

RESHARD_KERNEL void advance(Position& at, const Level& level, Index steps) {
  at.src += steps * level.src;
  at.dst += steps * level.dst;
  at.x += static_cast<std::uint64_t>(steps) * level.x;
}

/// The step of a level that a task is at: takes it out of the task's number.
RESHARD_KERNEL Index take_step(std::uint32_t& part, const Level& level) {
  const std::uint32_t outer = divide(part, level.parts);
  const std::uint32_t step = part - outer * level.parts.divisor;
  part = outer;
  return step;
}

/// Where a task of vectors begins, and how many items it has.
struct VectorPart {
  Position first;
  std::uint32_t items;
};

RESHARD_KERNEL VectorPart locate_vector_part(const Op& op, std::uint32_t part) {
  Position first{op.src, op.dst, op.x};
  const Index begin = take_step(part, op.levels[op.cut]) * op.segment;
  const Index left = op.levels[op.cut].size - begin;
  advance(first, op.levels[op.cut], begin);
  auto items = left < op.segment ? static_cast<std::uint32_t>(left) : op.segment;
  for (unsigned k = 0; k < op.cut; ++k) items *= op.levels[k].parts.divisor;
  for (unsigned k = op.cut + 1u; k < op.num_levels; ++k) advance(first, op.levels[k], take_step(part, op.levels[k]));
  return {first, items};
}

/// Where a task of blocks begins, and how many steps of levels 0, 1 and 2 are left there.
struct BlockPart {
  Position first;
  Index left[3];
};

RESHARD_KERNEL BlockPart locate_block_part(const Op& op, std::uint32_t part) {
  BlockPart result{{op.src, op.dst, op.x}, {}};
  RESHARD_UNROLL
  for (unsigned k = 0; k < 3; ++k) {
    const Index begin = take_step(part, op.levels[k]) << op.tile_bits[k];
    result.left[k] = op.levels[k].size - begin;
    advance(result.first, op.levels[k], begin);
  }
  for (unsigned k = 3; k < op.num_levels; ++k) advance(result.first, op.levels[k], take_step(part, op.levels[k]));
  return result;
}

/// Positions of kCount items of a task of vectors, `kThreads` apart.
template <unsigned kCount>
RESHARD_KERNEL void locate_vectors(const Op& op, const Position& first, std::uint32_t item, Position (&at)[kCount]) {
  std::uint32_t rest[kCount];
  RESHARD_UNROLL
  for (unsigned u = 0; u < kCount; ++u) {
    rest[u] = item + u * kThreads;
    at[u] = first;
  }
  for (unsigned k = 0; k < op.cut; ++k) {
    const Level& level = op.levels[k];
    RESHARD_UNROLL
    for (unsigned u = 0; u < kCount; ++u) {
      const std::uint32_t outer = divide(rest[u], level.parts);
      advance(at[u], level, rest[u] - outer * level.parts.divisor);
      rest[u] = outer;
    }
  }
  const Level& level = op.levels[op.cut];
  RESHARD_UNROLL
  for (unsigned u = 0; u < kCount; ++u) advance(at[u], level, rest[u]);
}

/// Items of a task of blocks, those beyond the end of the op included.
RESHARD_KERNEL std::uint32_t tile_items(const Op& op) {
  return 1u << (op.tile_bits[0] + op.tile_bits[1] + op.tile_bits[2]);
}

/// Position of an item of a task of blocks; false if the op ends before it.
RESHARD_KERNEL bool locate_block(const Op& op, const BlockPart& part, std::uint32_t item, Position& at) {
  const auto draw = [&](std::uint32_t bits) {
    const std::uint32_t drawn = item & ((1u << bits) - 1u);
    item >>= bits;
    return drawn;
  };
  std::uint32_t place[3];
  place[0] = draw(op.lane_bits[0]);
  place[1] = draw(op.lane_bits[1]);
  place[0] |= draw(static_cast<std::uint32_t>(op.tile_bits[0] - op.lane_bits[0])) << op.lane_bits[0];
  place[1] |= draw(static_cast<std::uint32_t>(op.tile_bits[1] - op.lane_bits[1])) << op.lane_bits[1];
  place[2] = item;
  at = part.first;
  RESHARD_UNROLL
  for (unsigned k = 0; k < 3; ++k) {
    if (place[k] >= part.left[k]) return false;
    advance(at, op.levels[k], place[k]);
  }
  return true;
}

/// Some bytes in registers.
template <unsigned kBytes>
struct Words {
  static constexpr unsigned kCount = (kBytes + 3) / 4;
  std::uint32_t word[kCount] = {};
};

/// Element i of kSize bytes.
template <unsigned kSize, unsigned kBytes>
RESHARD_KERNEL auto element(const Words<kBytes>& words, unsigned i) {
  if constexpr (kSize == 8) {
    return static_cast<std::uint64_t>(words.word[2 * i + 1]) << 32 | words.word[2 * i];
  } else if constexpr (kSize == 4) {
    return words.word[i];
  } else if constexpr (kSize == 2) {
    return static_cast<std::uint16_t>(words.word[i / 2] >> (i % 2 * 16));
  } else {
    return static_cast<std::uint8_t>(words.word[i / 4] >> (i % 4 * 8));
  }
}

/// Puts element i, where zeros are.
template <unsigned kSize, unsigned kBytes>
RESHARD_KERNEL void put(Words<kBytes>& words, unsigned i, std::uint32_t value) {
  if constexpr (kSize == 4) {
    words.word[i] = value;
  } else {
    words.word[i / 2] |= value << (i % 2 * 16);
  }
}

/// Aligned accesses of up to 16 bytes each.
template <unsigned kBytes, class Memory>
RESHARD_KERNEL Words<kBytes> load(Memory memory, const std::byte* from) {
  if constexpr (kBytes <= 16) {
    return memory.template load<kBytes>(from);
  } else {
    Words<kBytes> all;
    RESHARD_UNROLL
    for (unsigned i = 0; i < kBytes / 16; ++i) {
      const Words<16> part = memory.template load<16>(from + 16 * i);
      RESHARD_UNROLL
      for (unsigned k = 0; k < 4; ++k) all.word[4 * i + k] = part.word[k];
    }
    return all;
  }
}

template <unsigned kBytes, class Memory>
RESHARD_KERNEL void store(Memory memory, std::byte* to, const Words<kBytes>& all) {
  if constexpr (kBytes <= 16) {
    memory.template store<kBytes>(to, all);
  } else {
    RESHARD_UNROLL
    for (unsigned i = 0; i < kBytes / 16; ++i) {
      Words<16> part;
      RESHARD_UNROLL
      for (unsigned k = 0; k < 4; ++k) part.word[k] = all.word[4 * i + k];
      memory.template store<16>(to + 16 * i, part);
    }
  }
}

/// Makes the NaNs among two bf16 quiet: a half above 0x7F80 without its sign carries into bit 15.
RESHARD_KERNEL std::uint32_t quiet_bf16_pair(std::uint32_t pair) {
  return pair | (((pair & 0x7FFF7FFFu) + 0x007F007Fu) >> 9 & 0x00400040u);
}

/// Elements of one size, moved as bits.
template <unsigned kSize>
struct Bits {
  static constexpr unsigned kSrc = kSize, kDst = kSize;
  static constexpr bool kCounts = false;

  template <unsigned kCount>
  static RESHARD_KERNEL Words<kCount * kSize> convert(const Words<kCount * kSize>& values) {
    return values;
  }
};

/// The same, counted, one after the other, as values of kType.
template <DType kType, unsigned kSize>
struct Keep {
  static constexpr unsigned kSrc = kSize, kDst = kSize;
  static constexpr bool kCounts = true;

  template <unsigned kCount>
  static RESHARD_KERNEL Words<kCount * kDst> convert(const Words<kCount * kSrc>& values) {
    return values;
  }
  template <unsigned kCount>
  static RESHARD_KERNEL std::uint64_t digest(const Words<kCount * kDst>& values, std::uint64_t x, std::uint64_t dx) {
    std::uint64_t sum = 0;
    if constexpr (kType == DType::bf16) {
      Words<kCount* 2> quiet = values;
      // Bit 14 is that of 2.0: where no value has it, none is a NaN.
      std::uint32_t any = 0;
      RESHARD_UNROLL
      for (unsigned i = 0; i < quiet.kCount; ++i) any |= quiet.word[i];
      if (any & 0x40004000u) [[unlikely]] {
        RESHARD_UNROLL
        for (unsigned i = 0; i < quiet.kCount; ++i) quiet.word[i] = quiet_bf16_pair(quiet.word[i]);
      }
      RESHARD_UNROLL
      for (unsigned i = 0; i < kCount; ++i) {
        const std::uint32_t word = quiet.word[i / 2];
        sum += i % 2 == 0 ? mix_factors(x, word << 16, word & 0xFFFFu) : mix_factors(x, word & 0xFFFF0000u, word >> 16);
        x += dx;
      }
    } else {
      RESHARD_UNROLL
      for (unsigned i = 0; i < kCount; ++i) {
        sum += mix_product(x, digest_bits<kType>(element<kSize>(values, i)));
        x += dx;
      }
    }
    return sum;
  }
};

/// Elements cast from one type to another.
template <DType kFrom, DType kTo>
struct Cast {
  static constexpr unsigned kSrc = sizeof(typename Float<kFrom>::Raw), kDst = sizeof(typename Float<kTo>::Raw);
  static constexpr bool kCounts = true;  // if the op says so

  template <unsigned kCount>
  static RESHARD_KERNEL Words<kCount * kDst> convert(const Words<kCount * kSrc>& values) {
    Words<kCount * kDst> result;
    RESHARD_UNROLL
    for (unsigned i = 0; i < kCount; ++i) put<kDst>(result, i, cast<kFrom, kTo>(element<kSrc>(values, i)));
    return result;
  }
  template <unsigned kCount>
  static RESHARD_KERNEL std::uint64_t digest(const Words<kCount * kDst>& values, std::uint64_t x, std::uint64_t dx) {
    return Keep<kTo, kDst>::template digest<kCount>(values, x, dx);
  }
};

/// As load and store, byte by byte: at any address.
template <unsigned kBytes, class Memory>
RESHARD_KERNEL Words<kBytes> load_bytes(Memory memory, const std::byte* from) {
  Words<kBytes> all;
  RESHARD_UNROLL
  for (unsigned i = 0; i < kBytes; ++i) all.word[i / 4] |= memory.template load<1>(from + i).word[0] << (i % 4 * 8);
  return all;
}

template <unsigned kBytes, class Memory>
RESHARD_KERNEL void store_bytes(Memory memory, std::byte* to, const Words<kBytes>& all) {
  RESHARD_UNROLL
  for (unsigned i = 0; i < kBytes; ++i)
    memory.template store<1>(to + i, Words<1>{{all.word[i / 4] >> (i % 4 * 8) & 0xFFu}});
}

/// The share of one thread in a task of vectors of kCount elements each. `src` and `dst` are the slots; no `src`:
/// zeros.
template <class Element, unsigned kCount, class Memory>
RESHARD_KERNEL_CALL std::uint64_t run_vectors(Memory memory, const Op& op, std::uint32_t number, std::uint32_t thread,
                                              const std::byte* src, std::byte* dst) {
  constexpr unsigned kSrcBytes = kCount * Element::kSrc, kDstBytes = kCount * Element::kDst;
  constexpr unsigned kAtOnce = kSrcBytes > 16 ? 2 : 4;
  const VectorPart part = locate_vector_part(op, number);
  const bool counts = op.counts;  // as locals: a store might change the op, for all that the compiler knows
  const std::uint64_t dx = op.dx_src;
  std::uint64_t sum = 0;
  for (std::uint32_t item = thread; item < part.items; item += kAtOnce * kThreads) {
    Position at[kAtOnce];
    Words<kSrcBytes> values[kAtOnce];
    locate_vectors(op, part.first, item, at);
    RESHARD_UNROLL
    for (unsigned u = 0; u < kAtOnce; ++u) {
      if (src && item + u * kThreads < part.items) values[u] = load<kSrcBytes>(memory, src + at[u].src);
    }
    RESHARD_UNROLL
    for (unsigned u = 0; u < kAtOnce; ++u) {
      if (item + u * kThreads >= part.items) continue;
      const Words<kDstBytes> result = Element::template convert<kCount>(values[u]);
      store(memory, dst + at[u].dst, result);
      if constexpr (Element::kCounts) {
        if (counts) sum += Element::template digest<kCount>(result, at[u].x, dx);
      }
    }
  }
  return sum;
}

/// The same for items of one element, in vectors or in blocks; byte by byte where elements are not aligned.
template <class Element, class Memory>
RESHARD_KERNEL_CALL std::uint64_t run_single(Memory memory, const Op& op, std::uint32_t number, std::uint32_t thread,
                                             const std::byte* src, std::byte* dst) {
  const auto move = [&](const Position& at) -> std::uint64_t {
    Words<Element::kSrc> value;
    if (op.width == 0) {
      value = load_bytes<Element::kSrc>(memory, src + at.src);
    } else {
      value = load<Element::kSrc>(memory, src + at.src);
    }
    const Words<Element::kDst> result = Element::template convert<1>(value);
    if (op.width == 0) {
      store_bytes(memory, dst + at.dst, result);
    } else {
      store(memory, dst + at.dst, result);
    }
    if constexpr (Element::kCounts) {
      if (op.counts) return Element::template digest<1>(result, at.x, 0);
    }
    return 0;
  };
  std::uint64_t sum = 0;
  if (op.blocks) {
    const BlockPart part = locate_block_part(op, number);
    for (std::uint32_t item = thread; item < tile_items(op); item += kThreads) {
      Position at;
      if (locate_block(op, part, item, at)) sum += move(at);
    }
  } else {
    const VectorPart part = locate_vector_part(op, number);
    for (std::uint32_t item = thread; item < part.items; item += kThreads) {
      Position at[1];
      locate_vectors(op, part.first, item, at);
      sum += move(at[0]);
    }
  }
  return sum;
}

/// to[a][b] = from[b][a], elements of kSize bytes.
template <unsigned kSize, unsigned kA, unsigned kB>
RESHARD_KERNEL void transpose_block(const Words<kA * kSize> (&from)[kB], Words<kB * kSize> (&to)[kA]) {
  if constexpr (kSize == 1 && kB > 1) {
    // Two rows of bytes by turns are one row of pairs.
    Words<kA * 2> pairs[kB / 2];
    RESHARD_UNROLL
    for (unsigned b = 0; b < kB / 2; ++b) {
      RESHARD_UNROLL
      for (unsigned i = 0; i < kA; ++i) {
        const std::uint32_t pair = element<1>(from[2 * b], i) | std::uint32_t{element<1>(from[2 * b + 1], i)} << 8;
        put<2>(pairs[b], i, pair);
      }
    }
    Words<kB> columns[kA];
    transpose_block<2, kA, kB / 2>(pairs, columns);
    RESHARD_UNROLL
    for (unsigned a = 0; a < kA; ++a) to[a] = columns[a];
  } else {
    RESHARD_UNROLL
    for (unsigned a = 0; a < kA; ++a) {
      to[a] = {};
      RESHARD_UNROLL
      for (unsigned b = 0; b < kB; ++b) {
        if constexpr (kSize >= 4) {
          RESHARD_UNROLL
          for (unsigned k = 0; k < kSize / 4; ++k) to[a].word[b * kSize / 4 + k] = from[b].word[a * kSize / 4 + k];
        } else if constexpr (kSize == 2) {
          put<2>(to[a], b, element<2>(from[b], a));
        } else {
          to[a] = from[b];
        }
      }
    }
  }
}

/// Blocks of kA elements along the source and kB along the destination.
template <class Element, unsigned kA, unsigned kB, class Memory>
RESHARD_KERNEL_CALL std::uint64_t run_blocks(Memory memory, const Op& op, std::uint32_t number, std::uint32_t thread,
                                             const std::byte* src, std::byte* dst) {
  constexpr unsigned kSrcBytes = kA * Element::kSrc, kDstBytes = kB * Element::kDst;
  constexpr unsigned kAtOnce = kSrcBytes * kB >= 64 ? 1 : 2;
  const BlockPart part = locate_block_part(op, number);
  const Index src_pitch = op.src_pitch, dst_pitch = op.dst_pitch;  // as locals, as above
  const std::uint32_t items = tile_items(op);
  std::uint64_t sum = 0;
  for (std::uint32_t item = thread; item < items; item += kAtOnce * kThreads) {
    Position at[kAtOnce];
    bool there[kAtOnce];
    Words<kSrcBytes> values[kAtOnce][kB];
    RESHARD_UNROLL
    for (unsigned u = 0; u < kAtOnce; ++u) {
      const std::uint32_t place = item + u * kThreads;
      there[u] = place < items && locate_block(op, part, place, at[u]);
      if (!there[u]) continue;
      RESHARD_UNROLL
      for (unsigned b = 0; b < kB; ++b) values[u][b] = load<kSrcBytes>(memory, src + at[u].src + b * src_pitch);
    }
    RESHARD_UNROLL
    for (unsigned u = 0; u < kAtOnce; ++u) {
      if (!there[u]) continue;
      Words<kA * Element::kDst> rows[kB];
      RESHARD_UNROLL
      for (unsigned b = 0; b < kB; ++b) rows[b] = Element::template convert<kA>(values[u][b]);
      if constexpr (Element::kCounts) {
        RESHARD_UNROLL
        for (unsigned b = 0; b < kB && op.counts; ++b) {
          sum += Element::template digest<kA>(rows[b], at[u].x + b * op.dx_dst, op.dx_src);
        }
      }
      Words<kDstBytes> columns[kA];
      transpose_block<Element::kDst, kA, kB>(rows, columns);
      RESHARD_UNROLL
      for (unsigned a = 0; a < kA; ++a) store<kDstBytes>(memory, dst + at[u].dst + a * dst_pitch, columns[a]);
    }
  }
  return sum;
}

/// Elements of a full vector, and of a block along the source or destination: 16 bytes of the smaller side in a vector,
/// 16 bytes each way in a block; blocks of single bytes are smaller, for the sake of registers.
template <class T>
constexpr T full_vector(T src_bytes, T dst_bytes) {
  return 16 / (src_bytes < dst_bytes ? src_bytes : dst_bytes);
}
template <class T>
constexpr T block_side(T bytes) {
  return bytes == 1 ? 8 : 16 / bytes;
}

template <class Element, class Memory>
RESHARD_KERNEL std::uint64_t run_elements(Memory memory, const Op& op, std::uint32_t number, std::uint32_t thread,
                                          const std::byte* src, std::byte* dst) {
  constexpr unsigned kFull = full_vector(Element::kSrc, Element::kDst);
  if (op.wide) {
    return run_blocks<Element, block_side(Element::kSrc), block_side(Element::kDst)>(memory, op, number, thread, src,
                                                                                     dst);
  }
  if (op.width <= 1) return run_single<Element>(memory, op, number, thread, src, dst);
  if (op.width == kFull) return run_vectors<Element, kFull>(memory, op, number, thread, src, dst);
  return run_vectors<Element, kFull / 2>(memory, op, number, thread, src, dst);
}

template <unsigned kBytes, class Memory>
RESHARD_KERNEL std::uint64_t run_bits(Memory memory, const Op& op, std::uint32_t number, std::uint32_t thread,
                                      const std::byte* src, std::byte* dst) {
  constexpr unsigned kSide = block_side(kBytes);
  if (op.wide) return run_blocks<Bits<kBytes>, kSide, kSide>(memory, op, number, thread, src, dst);
  if (op.blocks) return run_blocks<Bits<kBytes>, 1, 1>(memory, op, number, thread, src, dst);
  return run_vectors<Bits<kBytes>, 1>(memory, op, number, thread, src, dst);
}

/// The beginning of a slot. By cases, for an array of pointers that is indexed would have to lie in memory.
RESHARD_KERNEL std::byte* slot_base(const SlotBases& slots, plan::Slot slot) {
  return slot == plan::Slot::source     ? slots.at[0]
         : slot == plan::Slot::received ? slots.at[1]
         : slot == plan::Slot::outgoing ? slots.at[2]
                                        : slots.at[3];
}

/// The share of one thread in one task. Returns its part of the digest.
template <class Memory>
RESHARD_KERNEL std::uint64_t run_thread(Memory memory, const Op& op, std::uint32_t number, std::uint32_t thread,
                                        const SlotBases& slots) {
  const std::byte* const src = op.rule == Rule::zeros ? nullptr : slot_base(slots, op.src_slot);
  std::byte* const dst = slot_base(slots, op.dst_slot);
#define RESHARD_RULE(rule, ...) \
  case Rule::rule:              \
    return run_elements<__VA_ARGS__>(memory, op, number, thread, src, dst)
  switch (op.rule) {
    case Rule::zeros:
    case Rule::bits:
      switch (op.width) {
        case 1:
          return run_bits<1>(memory, op, number, thread, src, dst);
        case 2:
          return run_bits<2>(memory, op, number, thread, src, dst);
        case 4:
          return run_bits<4>(memory, op, number, thread, src, dst);
        case 8:
          return run_bits<8>(memory, op, number, thread, src, dst);
        default:
          return run_bits<16>(memory, op, number, thread, src, dst);
      }
      RESHARD_RULE(u8, Keep<DType::u8, 1>);
      RESHARD_RULE(u16, Keep<DType::u16, 2>);
      RESHARD_RULE(u32, Keep<DType::u32, 4>);
      RESHARD_RULE(u64, Keep<DType::u64, 8>);
      RESHARD_RULE(f8_e5m2, Keep<DType::f8_e5m2, 1>);
      RESHARD_RULE(f8_e4m3, Keep<DType::f8_e4m3, 1>);
      RESHARD_RULE(f8_e8m0, Keep<DType::f8_e8m0, 1>);
      RESHARD_RULE(f8_e4m3fnuz, Keep<DType::f8_e4m3fnuz, 1>);
      RESHARD_RULE(f8_e5m2fnuz, Keep<DType::f8_e5m2fnuz, 1>);
      RESHARD_RULE(f16, Keep<DType::f16, 2>);
      RESHARD_RULE(bf16, Keep<DType::bf16, 2>);
      RESHARD_RULE(f16_to_bf16, Cast<DType::f16, DType::bf16>);
      RESHARD_RULE(f16_to_f32, Cast<DType::f16, DType::f32>);
      RESHARD_RULE(bf16_to_f16, Cast<DType::bf16, DType::f16>);
      RESHARD_RULE(bf16_to_f32, Cast<DType::bf16, DType::f32>);
      RESHARD_RULE(f32_to_f16, Cast<DType::f32, DType::f16>);
      RESHARD_RULE(f32_to_bf16, Cast<DType::f32, DType::bf16>);
  }
#undef RESHARD_RULE
  return 0;
}

}  // namespace reshard::repack
