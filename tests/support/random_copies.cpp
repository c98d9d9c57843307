// SPDX-License-Identifier: Apache-2.0
#include "tests/support/random_copies.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace reshard::test {

using plan::Copy;
using plan::Slot;

std::vector<std::byte> random_bytes(std::mt19937_64& random, Index size) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(size));
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

Copy make_copy(DType src, DType dst, std::vector<layout::Loop> loops, std::int64_t line) {
  Copy copy{.src_slot = Slot::source,
            .dst_slot = Slot::output,
            .src_dtype = src,
            .dst_dtype = dst,
            .src_byte = 0,
            .dst_byte = 0,
            .line = line,
            .write = 0,
            .strided = {}};
  copy.strided.rank = static_cast<int>(loops.size());
  std::copy(loops.begin(), loops.end(), copy.strided.loops);
  return copy;
}

CopyCase random_copy(std::mt19937_64& random) {
  const auto below = [&](Index n) { return static_cast<Index>(random() % static_cast<std::uint64_t>(n)); };
  DType src = static_cast<DType>(below(kNumDTypes)), dst = src;
  if (below(2) == 0) {
    constexpr DType kCastable[] = {DType::bf16, DType::f16, DType::f32};
    src = kCastable[below(3)];
    dst = kCastable[below(3)];
  }
  const bool sub_byte = is_sub_byte(src);
  const int rank = static_cast<int>(below(sub_byte ? 4 : 7));
  std::vector<layout::Loop> loops(static_cast<std::size_t>(rank));
  const Index budget = 6000;
  Index volume = 1;
  for (auto& loop : loops) {
    const Index most = std::min<Index>(budget / volume, below(3) == 0 ? 130 : 9);
    loop.size = 1 + below(std::max<Index>(most, 1));
    volume *= loop.size;
  }
  // Strides per side: a random order of the axes, from the innermost outwards, with gaps.
  const auto lay = [&](Index layout::Loop::*side, bool gaps) {
    std::vector<int> order(loops.size());
    std::iota(order.begin(), order.end(), 0);
    if (!sub_byte) std::shuffle(order.begin(), order.end(), random);
    if (!sub_byte && below(3) == 0) std::sort(order.begin(), order.end(), std::greater<>());
    if (sub_byte) std::reverse(order.begin(), order.end());
    Index stride = !sub_byte && gaps && below(4) == 0 ? 1 + below(3) : 1;
    for (int k : order) {
      auto& loop = loops[static_cast<std::size_t>(k)];
      if (sub_byte && k == rank - 1) loop.size = round_up(loop.size, 4);
      loop.*side = stride;
      stride *= loop.size + (gaps && below(2) == 0 ? (sub_byte ? 4 * below(3) : below(4)) : 0);
    }
    return stride;
  };
  const Index src_elements = lay(&layout::Loop::src, true) + 4;
  const Index dst_elements = lay(&layout::Loop::dst, true) + 4;
  lay(&layout::Loop::canonical, !sub_byte);
  CopyCase result{make_copy(src, dst, loops, below(3) == 0 ? plan::kNoLine : 5), 0, 0};
  result.copy.strided.canonical = sub_byte ? 4 * below(5) : below(1000);
  result.copy.src_byte = below(70);
  result.copy.dst_byte = below(70);
  result.src_size = result.copy.src_byte + src_elements * std::max<Index>(1, bits_of(src) / 8);
  result.dst_size = result.copy.dst_byte + dst_elements * std::max<Index>(1, bits_of(dst) / 8);
  return result;
}

}  // namespace reshard::test
