// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "reshard/base/dtype.h"
#include "reshard/base/index.h"

namespace reshard::repack {

/// Loops over dense runs of elements, compiled once per instruction set. Buffers may lie at any address.
struct Kernels {
  /// Sum of the contributions of n values whose index products are x, x + dx, ...
  using Digest = std::uint64_t (*)(const std::byte* values, Index n, std::uint64_t x, std::uint64_t dx);
  /// Casts n elements.
  using Convert = void (*)(const std::byte* src, std::byte* dst, Index n);

  std::array<Digest, kNumDTypes> digest_of;
  std::array<std::array<Convert, kNumDTypes>, kNumDTypes> convert_of;  ///< [src][dst]; nullptr where there is no cast

  Digest digest(DType dtype) const { return digest_of[static_cast<std::size_t>(dtype)]; }
  Convert convert(DType src, DType dst) const {
    return convert_of[static_cast<std::size_t>(src)][static_cast<std::size_t>(dst)];
  }
};

enum class Level { baseline, avx2, avx512 };

/// The kernels of one instruction set; nullptr where this machine lacks it.
const Kernels* kernels(Level level);
/// The widest that this machine has.
const Kernels& best_kernels();

}  // namespace reshard::repack
