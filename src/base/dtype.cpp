// SPDX-License-Identifier: Apache-2.0
#include "reshard/base/dtype.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

namespace reshard {
namespace {

struct Row {
  std::string_view name;        // safetensors
  std::string_view torch;
  std::string_view short_name;  // command line
  int bits;
};

// In the order of the enum.
constexpr std::array<Row, kNumDTypes> kRows = {{
    {"BOOL", "bool", "bool", 8},
    {"F4", "float4_e2m1fn_x2", "fp4", 4},
    {"F6_E2M3", "", "", 6},
    {"F6_E3M2", "", "", 6},
    {"U8", "uint8", "u8", 8},
    {"I8", "int8", "i8", 8},
    {"F8_E5M2", "float8_e5m2", "e5m2", 8},
    {"F8_E4M3", "float8_e4m3fn", "e4m3", 8},
    {"F8_E8M0", "float8_e8m0fnu", "e8m0", 8},
    {"F8_E4M3FNUZ", "float8_e4m3fnuz", "", 8},
    {"F8_E5M2FNUZ", "float8_e5m2fnuz", "", 8},
    {"I16", "int16", "i16", 16},
    {"U16", "uint16", "u16", 16},
    {"F16", "float16", "fp16", 16},
    {"BF16", "bfloat16", "bf16", 16},
    {"I32", "int32", "i32", 32},
    {"U32", "uint32", "u32", 32},
    {"F32", "float32", "fp32", 32},
    {"C64", "complex64", "c64", 64},
    {"F64", "float64", "fp64", 64},
    {"I64", "int64", "i64", 64},
    {"U64", "uint64", "u64", 64},
}};

const Row& row(DType dtype) { return kRows[static_cast<std::size_t>(dtype)]; }

}  // namespace

int bits_of(DType dtype) { return row(dtype).bits; }
std::string_view to_string(DType dtype) { return row(dtype).name; }
std::string_view torch_name(DType dtype) { return row(dtype).torch; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::optional<DType> parse_user_dtype(std::string_view name) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower.starts_with("torch.")) lower.erase(0, 6);
  if (lower == "half") lower = "fp16";
  if (lower == "float") lower = "fp32";
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    std::string stored(kRows[i].name);
    std::transform(stored.begin(), stored.end(), stored.begin(), [](unsigned char c) { return std::tolower(c); });
    if (lower == stored || lower == kRows[i].torch || lower == kRows[i].short_name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

bool is_castable(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f32; }

bool is_lossless(DType src, DType dst) { return src == dst || (is_castable(src) && dst == DType::f32); }

}  // namespace reshard
