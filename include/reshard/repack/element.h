// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "reshard/base/dtype.h"

/// The arithmetic on single elements that every back end shares: casts between float types and the bits that a value
/// enters its digest with. Integer rules throughout and free of branches, so that compilers vectorise it and every
/// device gives the same bits. Nothing here needs more than a freestanding library.
namespace reshard::repack {

inline constexpr std::uint32_t kInfinity32 = 0x7F800000u;
inline constexpr std::uint32_t kQuiet32 = 0x00400000u;

/// a or b, by a mask: where compilers would turn ?: into narrower types that they cannot vectorise.
constexpr std::uint32_t select(bool condition, std::uint32_t a, std::uint32_t b) {
  return b ^ ((a ^ b) & (0u - static_cast<std::uint32_t>(condition)));
}

/// Binary32 bits of m * 2^-kShift for 0 <= m < 2^24, where that is normal or zero: a subnormal of a smaller type.
/// Turning a small integer into a float is exact, so that no rounding mode and no flushing of subnormals enters.
template <std::uint32_t kShift>
constexpr std::uint32_t widen_subnormal(std::uint32_t m) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<std::int32_t>(m)));
  return m == 0 ? 0u : bits - (kShift << 23);
}

constexpr std::uint32_t quiet_nan32(std::uint32_t bits) {
  return (bits & 0x7FFFFFFFu) > kInfinity32 ? bits | kQuiet32 : bits;
}

/// Widening to binary32 is exact; a NaN keeps sign and payload and becomes quiet, as in every cast.
constexpr std::uint32_t widen_bf16(std::uint16_t raw) { return quiet_nan32(static_cast<std::uint32_t>(raw) << 16); }

constexpr std::uint32_t widen_f16(std::uint16_t raw) {
  const std::uint32_t sign = (raw & 0x8000u) << 16;
  const std::uint32_t magnitude = raw & 0x7FFFu;
  const std::uint32_t normal = (magnitude << 13) + (112u << 23);
  const std::uint32_t special = (magnitude << 13) | kInfinity32;
  const std::uint32_t finite = magnitude < 0x0400u ? widen_subnormal<24>(magnitude) : normal;
  return quiet_nan32(sign | (magnitude >= 0x7C00u ? special : finite));
}

/// E4M3 "fn": no infinity, NaN is S.1111.111.
constexpr std::uint32_t widen_e4m3fn(std::uint8_t raw) {
  const std::uint32_t sign = (raw & 0x80u) << 24;
  const std::uint32_t magnitude = raw & 0x7Fu;
  const std::uint32_t normal = (magnitude << 20) + (120u << 23);
  const std::uint32_t finite = magnitude < 0x08u ? widen_subnormal<9>(magnitude) : normal;
  return sign | (magnitude == 0x7Fu ? kInfinity32 | 0x00700000u : finite);
}

/// E5M2 is binary16 cut after eight bits.
constexpr std::uint32_t widen_e5m2(std::uint8_t raw) { return widen_f16(static_cast<std::uint16_t>(raw << 8)); }

/// The "fnuz" types have one zero and one NaN (0x80) and an exponent bias that is larger by one.
constexpr std::uint32_t widen_e4m3fnuz(std::uint8_t raw) {
  const std::uint32_t sign = (raw & 0x80u) << 24;
  const std::uint32_t magnitude = raw & 0x7Fu;
  const std::uint32_t normal = (magnitude << 20) + (119u << 23);
  const std::uint32_t finite = magnitude < 0x08u ? widen_subnormal<10>(magnitude) : normal;
  return sign | (raw == 0x80u ? kInfinity32 | kQuiet32 : finite);
}

constexpr std::uint32_t widen_e5m2fnuz(std::uint8_t raw) {
  const std::uint32_t sign = (raw & 0x80u) << 24;
  const std::uint32_t magnitude = raw & 0x7Fu;
  const std::uint32_t normal = (magnitude << 21) + (111u << 23);
  const std::uint32_t finite = magnitude < 0x04u ? widen_subnormal<17>(magnitude) : normal;
  return sign | (raw == 0x80u ? kInfinity32 | kQuiet32 : finite);
}

/// A bare exponent: 2^(raw - 127), NaN is 0xFF. 2^-127 is subnormal in binary32.
constexpr std::uint32_t widen_e8m0(std::uint8_t raw) {
  const std::uint32_t finite = raw == 0u ? 0x00400000u : static_cast<std::uint32_t>(raw) << 23;
  return raw == 0xFFu ? kInfinity32 | kQuiet32 : finite;
}

/// Narrowing rounds to nearest, ties to even; a NaN keeps sign and top payload bits and becomes quiet.
constexpr std::uint16_t narrow_bf16(std::uint32_t bits) {
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits | kQuiet32) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > kInfinity32 ? nan : rounded);
}

constexpr std::uint16_t narrow_f16(std::uint32_t bits) {
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  // Normal results: rebias, round at bit 13; a carry out of the largest finite value gives infinity by itself.
  const std::uint32_t rebiased = magnitude - (112u << 23);
  const std::uint32_t normal = (rebiased + 0x0FFFu + ((rebiased >> 13) & 1u)) >> 13;
  // Subnormal results: significand in units of 2^-24. Below 2^-25 everything rounds to zero, which the clamp keeps.
  const std::uint32_t exponent = magnitude >> 23;
  const std::uint32_t wanted_shift = 126u - exponent;
  const std::uint32_t shift = wanted_shift > 25u ? 25u : wanted_shift;
  const std::uint32_t significand = (magnitude & 0x007FFFFFu) | 0x00800000u;
  const std::uint32_t half = (1u << (shift & 31u)) >> 1;
  const std::uint32_t odd = (significand >> (shift & 31u)) & 1u;
  const std::uint32_t subnormal = (significand + half - 1u + odd) >> (shift & 31u);
  const std::uint32_t finite = select(magnitude < (113u << 23), subnormal, normal);
  // 65520 and above round to infinity.
  const std::uint32_t with_infinity = select(magnitude >= 0x477FF000u, 0x7C00u, finite);
  const std::uint32_t nan = 0x7E00u | ((magnitude >> 13) & 0x03FFu);
  return static_cast<std::uint16_t>(sign | select(magnitude > kInfinity32, nan, with_infinity));
}

/// Storage and rules of one castable type.
template <DType>
struct Float;
template <>
struct Float<DType::bf16> {
  using Raw = std::uint16_t;
  static constexpr std::uint32_t widen(Raw raw) { return widen_bf16(raw); }
  static constexpr Raw narrow(std::uint32_t bits) { return narrow_bf16(bits); }
};
template <>
struct Float<DType::f16> {
  using Raw = std::uint16_t;
  static constexpr std::uint32_t widen(Raw raw) { return widen_f16(raw); }
  static constexpr Raw narrow(std::uint32_t bits) { return narrow_f16(bits); }
};
template <>
struct Float<DType::f32> {
  using Raw = std::uint32_t;
  static constexpr std::uint32_t widen(Raw raw) { return quiet_nan32(raw); }
  static constexpr Raw narrow(std::uint32_t bits) { return bits; }
};

/// A cast between two castable types, by way of binary32.
template <DType kSrc, DType kDst>
constexpr typename Float<kDst>::Raw cast(typename Float<kSrc>::Raw raw) {
  return Float<kDst>::narrow(Float<kSrc>::widen(raw));
}

/// Bits that a stored element enters its digest with: floats below 32 bits widened to binary32, everything else its own
/// bits, zero-extended. Raw is the unsigned integer of the element's size; sub-byte types are taken byte by byte.
template <DType kType, class Raw>
constexpr std::uint64_t digest_bits(Raw raw) {
  if constexpr (kType == DType::bf16) return widen_bf16(raw);
  if constexpr (kType == DType::f16) return widen_f16(raw);
  if constexpr (kType == DType::f8_e4m3) return widen_e4m3fn(raw);
  if constexpr (kType == DType::f8_e5m2) return widen_e5m2(raw);
  if constexpr (kType == DType::f8_e4m3fnuz) return widen_e4m3fnuz(raw);
  if constexpr (kType == DType::f8_e5m2fnuz) return widen_e5m2fnuz(raw);
  if constexpr (kType == DType::f8_e8m0) return widen_e8m0(raw);
  return raw;
}

}  // namespace reshard::repack
