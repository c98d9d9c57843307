// SPDX-License-Identifier: Apache-2.0
#include "hdf5_format.h"

#include <bit>
#include <cstring>

namespace reshard::container::hdf5 {
namespace {

constexpr std::uint8_t kVersion1 = 0x10, kVersion3 = 0x30;  // of datatype messages, above the class
enum Class : std::uint8_t { kInteger = 0, kFloat = 1, kString = 3, kCompound = 6, kVariableLength = 9 };

/// Class and version, 24 bits of flags, size of an element.
std::string begin_type(std::uint8_t version, Class kind, std::uint32_t flags, std::size_t size) {
  std::string type(1, static_cast<char>(version | kind));
  append_number(type, flags, 3);
  append_number(type, size, 4);
  return type;
}

std::string encode_integer(std::size_t size, bool is_signed) {
  std::string type = begin_type(kVersion1, kInteger, is_signed ? 8 : 0, size);
  append_number(type, 0, 2);  // first bit
  append_number(type, 8 * size, 2);
  return type;
}

/// Sign, exponent and mantissa from the highest bit down.
std::string encode_float(std::size_t size, std::size_t exponent_bits, std::size_t mantissa_bits) {
  constexpr std::uint32_t kImpliedOne = 2 << 4;
  const std::size_t sign = 8 * size - 1;
  std::string type = begin_type(kVersion1, kFloat, static_cast<std::uint32_t>(kImpliedOne | sign << 8), size);
  append_number(type, 0, 2);  // first bit
  append_number(type, 8 * size, 2);
  append_number(type, mantissa_bits, 1);  // where the exponent begins
  append_number(type, exponent_bits, 1);
  append_number(type, 0, 1);  // where the mantissa begins
  append_number(type, mantissa_bits, 1);
  append_number(type, (std::size_t{1} << (exponent_bits - 1)) - 1, 4);  // bias
  return type;
}

/// Members r and i, as h5py stores complex numbers.
std::string encode_complex64() {
  std::string type = begin_type(kVersion3, kCompound, 2, 8);
  for (const char name : {'r', 'i'}) {
    type += name;
    type += '\0';
    append_number(type, name == 'r' ? 0 : 4, 1);
    type += encode_float(4, 8, 23);
  }
  return type;
}

std::uint32_t load(const char* bytes) {
  std::uint32_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

}  // namespace

std::uint32_t checksum(std::string_view bytes) {
  constexpr std::size_t kStep = 12;
  std::uint32_t a = 0xdeadbeef + static_cast<std::uint32_t>(bytes.size());
  std::uint32_t b = a, c = a;
  if (bytes.empty()) return c;
  const char* at = bytes.data();
  std::size_t left = bytes.size();
  for (; left > kStep; at += kStep, left -= kStep) {
    a += load(at);
    b += load(at + 4);
    c += load(at + 8);
    a -= c, a ^= std::rotl(c, 4), c += b;
    b -= a, b ^= std::rotl(a, 6), a += c;
    c -= b, c ^= std::rotl(b, 8), b += a;
    a -= c, a ^= std::rotl(c, 16), c += b;
    b -= a, b ^= std::rotl(a, 19), a += c;
    c -= b, c ^= std::rotl(b, 4), b += a;
  }
  char last[kStep] = {};  // filled up with zeros
  std::memcpy(last, at, left);
  a += load(last);
  b += load(last + 4);
  c += load(last + 8);
  c ^= b, c -= std::rotl(b, 14);
  a ^= c, a -= std::rotl(c, 11);
  b ^= a, b -= std::rotl(a, 25);
  c ^= b, c -= std::rotl(b, 16);
  a ^= c, a -= std::rotl(c, 4);
  b ^= a, b -= std::rotl(a, 14);
  c ^= b, c -= std::rotl(b, 24);
  return c;
}

void append_checksum(std::string& bytes, std::size_t begin) {
  append_number(bytes, checksum(std::string_view(bytes).substr(begin)), kChecksumBytes);
}

std::string encode_type(DType dtype) {
  switch (dtype) {
    case DType::i8:
    case DType::i16:
    case DType::i32:
    case DType::i64:
      return encode_integer(static_cast<std::size_t>(bytes_of(dtype)), true);
    case DType::u16:
    case DType::u32:
    case DType::u64:
      return encode_integer(static_cast<std::size_t>(bytes_of(dtype)), false);
    case DType::f16:
      return encode_float(2, 5, 10);
    case DType::bf16:
      return encode_float(2, 8, 7);
    case DType::f32:
      return encode_float(4, 8, 23);
    case DType::f64:
      return encode_float(8, 11, 52);
    case DType::c64:
      return encode_complex64();
    default:
      return encode_integer(1, false);
  }
}

std::string encode_text_type(std::size_t bytes) { return begin_type(kVersion1, kString, kUtf8 << 4, bytes); }

std::string encode_long_text_type() {
  constexpr std::uint32_t kText = 1;
  constexpr std::size_t kReferenceBytes = 16;
  return begin_type(kVersion1, kVariableLength, kText | kUtf8 << 8, kReferenceBytes) + encode_integer(1, false);
}

}  // namespace reshard::container::hdf5
