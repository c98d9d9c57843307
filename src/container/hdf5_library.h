// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hdf5.h>

#include <string>
#include <utility>

#include "reshard/base/dtype.h"

namespace reshard::container::hdf5 {

/// An identifier of libhdf5 that closes itself.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  Handle(Handle&& other) noexcept : id_(other.id_), closer_(other.closer_) { other.id_ = H5I_INVALID_HID; }
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) closer_(id_);
  }
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Closer closer_ = nullptr;
};

/// "what: the innermost reason that libhdf5 has"; clears its errors.
std::string with_reason(const std::string& what);

/// The type in which elements are stored: the real one where HDF5 has it, bytes for bool, fp8 and what is smaller.
Handle make_type(DType dtype);
}  // namespace reshard::container::hdf5
