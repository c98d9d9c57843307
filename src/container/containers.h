// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "reshard/container/container.h"

namespace reshard::container {

const Container& safetensors_container();
const Container& hdf5_container();
const Container& torch_container();

inline constexpr std::size_t kMaxNameBytes = 4096;
inline constexpr std::size_t kMaxDims = 32;
inline constexpr std::size_t kMaxTensors = 2'000'000;
inline constexpr std::size_t kMaxMetadataBytes = kMiB;

/// Why `name` cannot name a tensor; empty if it can. Names are never paths; empty ones are legal.
std::string check_name(std::string_view name);
/// The same for names that HDF5 divides at slashes: no part may be empty, "." or "..".
std::string check_path(std::string_view name);

/// Bytes of an array; nothing if they overflow or a sub-byte type does not fill whole bytes (then `why` says which).
std::optional<Index> array_bytes(DType dtype, const Shape& shape, std::string& why);

/// "[2, 3]".
std::string to_string(const Shape& shape);

/// The first bytes of a file as an error that it is not of kind `container`, in words if they are known. Local.
Error not_a(std::string_view container, io::Source& source, const std::string& path, const std::string& otherwise);

}  // namespace reshard::container
