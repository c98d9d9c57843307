// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "reshard/base/index.h"

namespace reshard {

/// Element types, in the order of the safetensors library's enum: its writer sorts tensors by it, descending.
enum class DType : std::uint8_t {
  boolean, f4, f6_e2m3, f6_e3m2, u8, i8, f8_e5m2, f8_e4m3, f8_e8m0, f8_e4m3fnuz, f8_e5m2fnuz,
  i16, u16, f16, bf16, i32, u32, f32, c64, f64, i64, u64,
};
inline constexpr int kNumDTypes = 22;

/// Bits of one element (4 and 6 for the sub-byte types).
int bits_of(DType dtype);

/// Bytes of one element; sub-byte types have none and must not be asked.
inline Index bytes_of(DType dtype) { return bits_of(dtype) / 8; }

inline bool is_sub_byte(DType dtype) { return bits_of(dtype) < 8; }

/// The safetensors name: "BF16", "F8_E4M3", ...
std::string_view to_string(DType dtype);
/// Accepts exactly the safetensors names.
std::optional<DType> parse_dtype(std::string_view safetensors_name);

/// The torch name: "bfloat16", "float8_e4m3fn", ...; empty where torch has none.
std::string_view torch_name(DType dtype);
/// Accepts torch names, short command-line names (bf16 fp16 f16 fp32 f32 fp8 ...) and safetensors names, in any case.
std::optional<DType> parse_user_dtype(std::string_view name);

/// True for bf16, fp16, fp32: the types that `--dtype` converts between.
bool is_castable(DType dtype);
/// True if every value of `src` is a value of `dst` (both castable, or equal).
bool is_lossless(DType src, DType dst);

}  // namespace reshard
