// SPDX-License-Identifier: Apache-2.0
#include "compare.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "reshard/repack/element.h"

namespace reshard::app {
namespace {

constexpr Index kBlock = 1024;

template <class Raw>
Raw load(const std::byte* at) {
  Raw raw;
  std::memcpy(&raw, at, sizeof(raw));
  return raw;
}

double finite_or_zero(double value) { return value - value == 0 ? value : 0; }

/// `to_bits` turns what is stored into the bits that tell equal elements, `to_double` these into a value.
template <class Raw, class ToBits, class ToDouble>
void compare_block(const std::byte* a, const std::byte* b, Index count, ToBits to_bits, ToDouble to_double,
                   PairSums& sums) {
  const auto bits_at = [&](const std::byte* from, Index i) {
    return to_bits(load<Raw>(from + static_cast<std::size_t>(i) * sizeof(Raw)));
  };
  if (std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(Raw)) == 0) {
    double squares = 0;
    for (Index i = 0; i < count; ++i) {
      const double x = finite_or_zero(to_double(bits_at(a, i)));
      squares += x * x;
    }
    sums.a_squares += squares;
    sums.b_squares += squares;
    sums.products += squares;
    return;
  }
  for (Index i = 0; i < count; ++i) {
    const auto a_bits = bits_at(a, i), b_bits = bits_at(b, i);
    const double x = to_double(a_bits), y = to_double(b_bits);
    if (a_bits != b_bits) ++sums.changed;
    if (finite_or_zero(x) != x || finite_or_zero(y) != y) {
      if (x == y || (std::isnan(x) && std::isnan(y))) continue;
      sums.max_abs = std::numeric_limits<double>::infinity();
      continue;
    }
    const double difference = std::abs(x - y);
    sums.max_abs = std::max(sums.max_abs, difference);
    sums.abs += difference;
    sums.squares += difference * difference;
    sums.a_squares += x * x;
    sums.b_squares += y * y;
    sums.products += x * y;
  }
}

template <class Raw, class ToBits, class ToDouble>
PairSums compare_all(const std::byte* a, const std::byte* b, Index count, ToBits to_bits, ToDouble to_double) {
  PairSums sums;
  sums.elements = count;
  for (Index at = 0; at < count; at += kBlock) {
    const std::size_t byte = static_cast<std::size_t>(at) * sizeof(Raw);
    compare_block<Raw>(a + byte, b + byte, std::min(kBlock, count - at), to_bits, to_double, sums);
  }
  return sums;
}

/// Compares a float type by its widening to binary32.
template <DType kType, class Raw>
PairSums compare_widened(const std::byte* a, const std::byte* b, Index count) {
  return compare_all<Raw>(
      a, b, count, [](Raw raw) { return static_cast<std::uint32_t>(repack::digest_bits<kType>(raw)); },
      [](std::uint32_t bits) { return static_cast<double>(std::bit_cast<float>(bits)); });
}

PairSums compare_f64(const std::byte* a, const std::byte* b, Index count) {
  return compare_all<std::uint64_t>(
      a, b, count, [](std::uint64_t raw) { return raw; },
      [](std::uint64_t bits) { return std::bit_cast<double>(bits); });
}

template <class Integer>
PairSums compare_integers(const std::byte* a, const std::byte* b, Index count) {
  return compare_all<Integer>(
      a, b, count, [](Integer value) { return value; }, [](Integer value) { return static_cast<double>(value); });
}

}  // namespace

void PairSums::add(const PairSums& other) {
  elements += other.elements;
  changed += other.changed;
  max_abs = std::max(max_abs, other.max_abs);
  abs += other.abs;
  squares += other.squares;
  a_squares += other.a_squares;
  b_squares += other.b_squares;
  products += other.products;
}

PairSums compare_elements(DType dtype, const std::byte* a, const std::byte* b, Index count) {
  switch (dtype) {
    case DType::bf16:
      return compare_widened<DType::bf16, std::uint16_t>(a, b, count);
    case DType::f16:
      return compare_widened<DType::f16, std::uint16_t>(a, b, count);
    case DType::f32:
      return compare_widened<DType::f32, std::uint32_t>(a, b, count);
    case DType::c64:
      return compare_widened<DType::f32, std::uint32_t>(a, b, 2 * count);
    case DType::f64:
      return compare_f64(a, b, count);
    case DType::f8_e4m3:
      return compare_widened<DType::f8_e4m3, std::uint8_t>(a, b, count);
    case DType::f8_e5m2:
      return compare_widened<DType::f8_e5m2, std::uint8_t>(a, b, count);
    case DType::f8_e4m3fnuz:
      return compare_widened<DType::f8_e4m3fnuz, std::uint8_t>(a, b, count);
    case DType::f8_e5m2fnuz:
      return compare_widened<DType::f8_e5m2fnuz, std::uint8_t>(a, b, count);
    case DType::f8_e8m0:
      return compare_widened<DType::f8_e8m0, std::uint8_t>(a, b, count);
    case DType::boolean:
    case DType::u8:
      return compare_integers<std::uint8_t>(a, b, count);
    case DType::i8:
      return compare_integers<std::int8_t>(a, b, count);
    case DType::u16:
      return compare_integers<std::uint16_t>(a, b, count);
    case DType::i16:
      return compare_integers<std::int16_t>(a, b, count);
    case DType::u32:
      return compare_integers<std::uint32_t>(a, b, count);
    case DType::i32:
      return compare_integers<std::int32_t>(a, b, count);
    case DType::u64:
      return compare_integers<std::uint64_t>(a, b, count);
    case DType::i64:
      return compare_integers<std::int64_t>(a, b, count);
    case DType::f4:
    case DType::f6_e2m3:
    case DType::f6_e3m2:
      break;
  }
  assert(false);
  return {};
}

}  // namespace reshard::app
