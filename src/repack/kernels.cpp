// SPDX-License-Identifier: Apache-2.0
// Lets the compiler turn conditional int-to-float conversions into selects; no such conversion here can trap.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

#include "kernels.h"

#include <type_traits>

#include "reshard/repack/digest.h"
#include "reshard/repack/element.h"

namespace reshard::repack {
namespace {

template <class T>
struct Unaligned {
  typedef T Type __attribute__((aligned(1), may_alias));
};

// The unsigned integer that holds one element; sub-byte types go byte by byte.
template <DType kType>
struct RawOf {
  static constexpr int size() {
    switch (kType) {
      case DType::i16:
      case DType::u16:
      case DType::f16:
      case DType::bf16:
        return 2;
      case DType::i32:
      case DType::u32:
      case DType::f32:
        return 4;
      case DType::c64:
      case DType::f64:
      case DType::i64:
      case DType::u64:
        return 8;
      default:
        return 1;
    }
  }
  using Type = std::conditional_t<
      size() == 1, std::uint8_t,
      std::conditional_t<size() == 2, std::uint16_t, std::conditional_t<size() == 4, std::uint32_t, std::uint64_t>>>;
};

// The bodies are inlined into one function per instruction set; the compiler vectorises them there.
template <DType kType>
[[gnu::always_inline]] inline std::uint64_t digest_body(const std::byte* bytes, Index n, std::uint64_t x,
                                                        std::uint64_t dx) {
  using Raw = typename RawOf<kType>::Type;
  const auto* values = reinterpret_cast<const typename Unaligned<Raw>::Type*>(bytes);
  std::uint64_t sum = 0;
  for (Index i = 0; i < n; ++i) {
    sum += mix_product(x, digest_bits<kType>(static_cast<Raw>(values[i])));
    x += dx;
  }
  return sum;
}

template <DType kSrc, DType kDst>
[[gnu::always_inline]] inline void convert_body(const std::byte* src, std::byte* dst, Index n) {
  const auto* from = reinterpret_cast<const typename Unaligned<typename Float<kSrc>::Raw>::Type*>(src);
  auto* to = reinterpret_cast<typename Unaligned<typename Float<kDst>::Raw>::Type*>(dst);
  for (Index i = 0; i < n; ++i) to[i] = cast<kSrc, kDst>(from[i]);
}

// Which instruction set the two function templates of a level may use.
#define RESHARD_KERNELS(Name, attributes)                                                                         \
  struct Name {                                                                                                   \
    template <DType kType>                                                                                        \
    attributes static std::uint64_t digest(const std::byte* values, Index n, std::uint64_t x, std::uint64_t dx) { \
      return digest_body<kType>(values, n, x, dx);                                                                \
    }                                                                                                             \
    template <DType kSrc, DType kDst>                                                                             \
    attributes static void convert(const std::byte* src, std::byte* dst, Index n) {                               \
      convert_body<kSrc, kDst>(src, dst, n);                                                                      \
    }                                                                                                             \
  }

RESHARD_KERNELS(Baseline, );
#if defined(__x86_64__)
RESHARD_KERNELS(Avx2, [[gnu::target("avx2")]]);
RESHARD_KERNELS(Avx512, [[gnu::target("avx2,avx512f,avx512bw,avx512dq,avx512vl")]]);
#endif

template <class Functions, std::size_t... kTypes>
constexpr auto digest_table(std::index_sequence<kTypes...>) {
  return std::array<Kernels::Digest, sizeof...(kTypes)>{&Functions::template digest<static_cast<DType>(kTypes)>...};
}

template <class Functions>
constexpr Kernels make_kernels() {
  Kernels all{digest_table<Functions>(std::make_index_sequence<kNumDTypes>()), {}};
  constexpr auto at = [](DType dtype) { return static_cast<std::size_t>(dtype); };
  auto& table = all.convert_of;
  table[at(DType::bf16)][at(DType::f16)] = &Functions::template convert<DType::bf16, DType::f16>;
  table[at(DType::bf16)][at(DType::f32)] = &Functions::template convert<DType::bf16, DType::f32>;
  table[at(DType::f16)][at(DType::bf16)] = &Functions::template convert<DType::f16, DType::bf16>;
  table[at(DType::f16)][at(DType::f32)] = &Functions::template convert<DType::f16, DType::f32>;
  table[at(DType::f32)][at(DType::bf16)] = &Functions::template convert<DType::f32, DType::bf16>;
  table[at(DType::f32)][at(DType::f16)] = &Functions::template convert<DType::f32, DType::f16>;
  return all;
}

}  // namespace

const Kernels* kernels(Level level) {
  static constexpr Kernels baseline = make_kernels<Baseline>();
#if defined(__x86_64__)
  static constexpr Kernels avx2 = make_kernels<Avx2>();
  static constexpr Kernels avx512 = make_kernels<Avx512>();
  if (level == Level::avx2) return __builtin_cpu_supports("avx2") ? &avx2 : nullptr;
  if (level == Level::avx512) {
    const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has ? &avx512 : nullptr;
  }
#endif
  return level == Level::baseline ? &baseline : nullptr;
}

const Kernels& best_kernels() {
  static const Kernels& best = [&]() -> const Kernels& {
    for (Level level : {Level::avx512, Level::avx2}) {
      if (const Kernels* found = kernels(level)) return *found;
    }
    return *kernels(Level::baseline);
  }();
  return best;
}

}  // namespace reshard::repack
