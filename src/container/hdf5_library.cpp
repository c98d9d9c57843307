// SPDX-License-Identifier: Apache-2.0
#include "hdf5_library.h"

#include <algorithm>

namespace reshard::container::hdf5 {
namespace {

struct FloatFields {
  std::size_t sign, exponent, exponent_bits, mantissa_bits, bias;
};

/// A 16-bit float type. The order of the calls matters: fields that lie outside of the size are refused.
Handle make_float16(const FloatFields& fields) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  if (H5Tset_fields(type.get(), fields.sign, fields.exponent, fields.exponent_bits, 0, fields.mantissa_bits) < 0 ||
      H5Tset_size(type.get(), 2) < 0 || H5Tset_precision(type.get(), 16) < 0 ||
      H5Tset_ebias(type.get(), fields.bias) < 0) {
    return {};
  }
  return type;
}

/// As h5py stores complex numbers.
Handle make_complex64() {
  Handle type(H5Tcreate(H5T_COMPOUND, 8), H5Tclose);
  if (H5Tinsert(type.get(), "r", 0, H5T_IEEE_F32LE) < 0 || H5Tinsert(type.get(), "i", 4, H5T_IEEE_F32LE) < 0) return {};
  return type;
}

herr_t take_reason(unsigned /*depth*/, const H5E_error2_t* error, void* reason) {
  if (error->desc && *error->desc) *static_cast<std::string*>(reason) = error->desc;
  return 1;  // the first is the innermost
}

}  // namespace

std::string with_reason(const std::string& what) {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, &reason);
  H5Eclear2(H5E_DEFAULT);
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  return reason.empty() ? what : what + ": " + reason;
}

Handle make_type(DType dtype) {
  switch (dtype) {
    case DType::i8:
      return {H5Tcopy(H5T_STD_I8LE), H5Tclose};
    case DType::i16:
      return {H5Tcopy(H5T_STD_I16LE), H5Tclose};
    case DType::u16:
      return {H5Tcopy(H5T_STD_U16LE), H5Tclose};
    case DType::i32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    case DType::u32:
      return {H5Tcopy(H5T_STD_U32LE), H5Tclose};
    case DType::i64:
      return {H5Tcopy(H5T_STD_I64LE), H5Tclose};
    case DType::u64:
      return {H5Tcopy(H5T_STD_U64LE), H5Tclose};
    case DType::f16:
      return make_float16({15, 10, 5, 10, 15});
    case DType::bf16:
      return make_float16({15, 7, 8, 7, 127});
    case DType::f32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case DType::f64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case DType::c64:
      return make_complex64();
    default:
      return {H5Tcopy(H5T_STD_U8LE), H5Tclose};
  }
}

}  // namespace reshard::container::hdf5
