// SPDX-License-Identifier: Apache-2.0
#include "tests/support/naive_copy.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "reshard/repack/digest.h"

namespace reshard::test {
namespace {

struct Spec {
  int exponent_bits, mantissa_bits, bias;
  enum { ieee, fn, fnuz } kind;
};

Spec spec(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return {8, 7, 127, Spec::ieee};
    case DType::f16:
      return {5, 10, 15, Spec::ieee};
    case DType::f32:
      return {8, 23, 127, Spec::ieee};
    case DType::f8_e5m2:
      return {5, 2, 15, Spec::ieee};
    case DType::f8_e4m3:
      return {4, 3, 7, Spec::fn};
    case DType::f8_e4m3fnuz:
      return {4, 3, 8, Spec::fnuz};
    case DType::f8_e5m2fnuz:
      return {5, 2, 16, Spec::fnuz};
    default:
      return {0, 0, 0, Spec::ieee};
  }
}

}  // namespace

double decode(DType dtype, std::uint32_t raw) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  if (dtype == DType::f8_e8m0) return raw == 0xFF ? nan : std::ldexp(1.0, static_cast<int>(raw) - 127);
  const Spec s = spec(dtype);
  const std::uint32_t mantissa = raw & ((1u << s.mantissa_bits) - 1);
  const std::uint32_t exponent = raw >> s.mantissa_bits & ((1u << s.exponent_bits) - 1);
  const bool negative = raw >> (s.mantissa_bits + s.exponent_bits) & 1;
  const std::uint32_t top = (1u << s.exponent_bits) - 1;
  double value;
  if (s.kind == Spec::ieee && exponent == top) {
    value = mantissa ? nan : std::numeric_limits<double>::infinity();
  } else if (s.kind == Spec::fn && exponent == top && mantissa + 1 == 1u << s.mantissa_bits) {
    value = nan;
  } else if (s.kind == Spec::fnuz && negative && exponent == 0 && mantissa == 0) {
    value = nan;
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<double>(mantissa), 1 - s.bias - s.mantissa_bits);
  } else {
    value = std::ldexp(static_cast<double>(mantissa + (1u << s.mantissa_bits)),
                       static_cast<int>(exponent) - s.bias - s.mantissa_bits);
  }
  return negative ? -value : value;
}

std::uint32_t encode(DType dtype, double value) {
  const Spec s = spec(dtype);
  const std::uint32_t sign = std::signbit(value) ? 1u << (s.exponent_bits + s.mantissa_bits) : 0;
  const std::uint32_t infinity = ((1u << s.exponent_bits) - 1) << s.mantissa_bits;
  const double magnitude = std::fabs(value);
  if (magnitude == 0) return sign;
  if (std::isinf(magnitude)) return sign | infinity;
  // Units in the last place at this magnitude; the smallest unit is that of the subnormals.
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  const int unit = std::max(exponent - 1, 1 - s.bias) - s.mantissa_bits;
  const double scaled = std::ldexp(magnitude, -unit);
  double rounded = std::floor(scaled);
  const double rest = scaled - rounded;
  if (rest > 0.5 || (rest == 0.5 && std::fmod(rounded, 2.0) == 1.0)) rounded += 1;
  // The codes of one sign are in the order of their values: count the units from zero.
  const auto steps = static_cast<std::uint64_t>(rounded);
  const std::uint64_t hidden = 1ull << s.mantissa_bits;
  const std::uint64_t code = steps + static_cast<std::uint64_t>(unit - (1 - s.bias - s.mantissa_bits)) * hidden;
  return sign | (code > infinity ? infinity : static_cast<std::uint32_t>(code));
}

std::uint32_t naive_cast(DType src, DType dst, std::uint32_t raw) {
  if (src == dst) return raw;
  const double value = decode(src, raw);
  if (!std::isnan(value)) return encode(dst, value);
  const Spec a = spec(src), b = spec(dst);
  const std::uint32_t sign = raw >> (a.exponent_bits + a.mantissa_bits) & 1;
  std::uint32_t payload = raw & ((1u << a.mantissa_bits) - 1);
  if (a.mantissa_bits > b.mantissa_bits) payload >>= a.mantissa_bits - b.mantissa_bits;
  if (a.mantissa_bits < b.mantissa_bits) payload <<= b.mantissa_bits - a.mantissa_bits;
  payload |= 1u << (b.mantissa_bits - 1);
  return sign << (b.exponent_bits + b.mantissa_bits) | ((1u << b.exponent_bits) - 1) << b.mantissa_bits | payload;
}

std::uint64_t naive_digest_bits(DType dtype, std::uint64_t raw) {
  switch (dtype) {
    case DType::bf16:
    case DType::f16:
    case DType::f8_e5m2:
    case DType::f8_e4m3:
    case DType::f8_e4m3fnuz:
    case DType::f8_e5m2fnuz:
    case DType::f8_e8m0:
      break;
    default:
      return raw;
  }
  const auto code = static_cast<std::uint32_t>(raw);
  const double value = decode(dtype, code);
  if (!std::isnan(value)) return std::bit_cast<std::uint32_t>(static_cast<float>(value));
  if (dtype == DType::f8_e8m0) return 0x7FC00000u;
  const Spec s = spec(dtype);
  const std::uint32_t sign = code >> (s.exponent_bits + s.mantissa_bits) & 1;
  const std::uint32_t payload = code & ((1u << s.mantissa_bits) - 1);
  return sign << 31 | 0x7FC00000u | payload << (23 - s.mantissa_bits);
}

std::uint64_t naive_run(const plan::Copy& copy, const std::byte* src, std::byte* dst) {
  layout::StridedCopy strided = copy.strided;
  Index src_bytes = 1, dst_bytes = 1;
  if (is_sub_byte(copy.src_dtype)) {
    const Index bits = bits_of(copy.src_dtype);
    for (int k = 0; k < strided.rank; ++k) {
      layout::Loop& loop = strided.loops[k];
      if (loop.src == 1 && loop.dst == 1) {
        loop.size = loop.size * bits / 8;
      } else {
        loop = {loop.size, loop.src * bits / 8, loop.dst * bits / 8, loop.canonical * bits / 8};
      }
    }
    strided.canonical = strided.canonical * bits / 8;
  } else {
    src_bytes = bytes_of(copy.src_dtype);
    dst_bytes = bytes_of(copy.dst_dtype);
  }
  std::uint64_t digest = 0;
  const Index volume = strided.volume();
  for (Index number = 0; number < volume; ++number) {
    Index rest = number, from = 0, to = 0, canonical = strided.canonical;
    for (int k = strided.rank - 1; k >= 0; --k) {
      const layout::Loop& loop = strided.loops[k];
      const Index i = rest % loop.size;
      rest /= loop.size;
      from += i * loop.src;
      to += i * loop.dst;
      canonical += i * loop.canonical;
    }
    std::uint64_t raw = 0;
    std::memcpy(&raw, src + copy.src_byte + from * src_bytes, static_cast<std::size_t>(src_bytes));
    if (copy.src_dtype != copy.dst_dtype) {
      raw = naive_cast(copy.src_dtype, copy.dst_dtype, static_cast<std::uint32_t>(raw));
    }
    std::memcpy(dst + copy.dst_byte + to * dst_bytes, &raw, static_cast<std::size_t>(dst_bytes));
    if (copy.line != plan::kNoLine) {
      digest += repack::mix(static_cast<std::uint64_t>(canonical), naive_digest_bits(copy.dst_dtype, raw));
    }
  }
  return digest;
}

}  // namespace reshard::test
