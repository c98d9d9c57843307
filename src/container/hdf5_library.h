// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hdf5.h>

#include <mutex>
#include <optional>
#include <string>

#include "containers.h"

namespace reshard::container::hdf5 {

/// Root attributes of our own: which layout of an archive this is, and how many arrays a complete one has.
inline constexpr const char* kMarkerName = "reshard_archive";
inline constexpr const char* kMarkerText = "1";
inline constexpr const char* kCompleteName = "complete";
/// Attributes of a dataset: the safetensors name of its type, the digest text.
inline constexpr const char* kDTypeName = "dtype";
inline constexpr const char* kDigestName = "digest";
/// Group of the side files.
inline constexpr const char* kFilesName = "files";

inline constexpr Index kMaxSideFileBytes = 256 * kMiB;
inline constexpr Index kMaxAttributeBytes = 16 * kMiB;

/// libhdf5 is not thread-safe: held around every call to it, closing of handles included.
std::unique_lock<std::mutex> lock_library();

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
  ~Handle() { close(); }
  /// False if the library failed, which matters for files only.
  bool close() {
    const bool closed = id_ < 0 || closer_(id_) >= 0;
    id_ = H5I_INVALID_HID;
    return closed;
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
/// A fixed-length string that holds `bytes` bytes.
Handle make_text_type(std::size_t bytes);

/// Dimensions in elements of make_type; nothing if the last one of a sub-byte type does not fill whole bytes.
std::optional<Shape> stored_shape(DType dtype, Shape shape);
/// The inverse; nothing if it overflows.
std::optional<Shape> shape_of_stored(DType dtype, Shape stored);

}  // namespace reshard::container::hdf5
