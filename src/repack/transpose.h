// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "reshard/base/index.h"

namespace reshard::repack {

/// Transposes blocks of N x N elements, N * sizeof(T) = 16 bytes, in vector registers.
template <class T>
class BlockTranspose {
 public:
  static constexpr std::size_t kSize = 16 / sizeof(T);

  /// dst[c][r] = src[r][c]; pitches in bytes, any address.
  static void run(const std::byte* src, Index src_pitch, std::byte* dst, Index dst_pitch) {
    Vector rows[kSize];
    for (std::size_t r = 0; r < kSize; ++r) std::memcpy(&rows[r], src + static_cast<Index>(r) * src_pitch, 16);
    // Interleaving the upper with the lower half of the rows, log2(N) times, is the transpose.
    for (std::size_t stage = 1; stage < kSize; stage *= 2) {
      Vector next[kSize];
      for (std::size_t r = 0; r < kSize / 2; ++r) {
        next[2 * r] = interleave<0>(rows[r], rows[r + kSize / 2], Lanes());
        next[2 * r + 1] = interleave<kSize / 2>(rows[r], rows[r + kSize / 2], Lanes());
      }
      std::memcpy(rows, next, sizeof(rows));
    }
    for (std::size_t r = 0; r < kSize; ++r) std::memcpy(dst + static_cast<Index>(r) * dst_pitch, &rows[r], 16);
  }

 private:
  typedef T Vector __attribute__((vector_size(16)));
  using Lanes = std::make_index_sequence<kSize>;

  // Elements of a and b by turns, from element kFirst on.
  template <std::size_t kFirst, std::size_t... kLanes>
  static Vector interleave(Vector a, Vector b, std::index_sequence<kLanes...>) {
    return __builtin_shufflevector(a, b, static_cast<int>(kFirst + kLanes / 2 + (kLanes % 2) * kSize)...);
  }
};

/// dst[c][r] = src[r][c] for `rows` x `columns` elements; pitches in bytes, any address.
template <class T>
void transpose(const std::byte* src, Index src_pitch, Index rows, Index columns, std::byte* dst, Index dst_pitch) {
  constexpr Index kBlock = static_cast<Index>(BlockTranspose<T>::kSize);
  constexpr Index kBytes = static_cast<Index>(sizeof(T));
  const Index whole_rows = rows / kBlock * kBlock;
  const Index whole_columns = columns / kBlock * kBlock;
  for (Index r = 0; r < whole_rows; r += kBlock) {
    for (Index c = 0; c < whole_columns; c += kBlock) {
      BlockTranspose<T>::run(src + r * src_pitch + c * kBytes, src_pitch, dst + c * dst_pitch + r * kBytes, dst_pitch);
    }
  }
  for (Index r = 0; r < rows; ++r) {
    for (Index c = r < whole_rows ? whole_columns : 0; c < columns; ++c) {
      std::memcpy(dst + c * dst_pitch + r * kBytes, src + r * src_pitch + c * kBytes, sizeof(T));
    }
  }
}

}  // namespace reshard::repack
