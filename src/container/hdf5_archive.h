// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "containers.h"

namespace reshard::container::hdf5 {

/// Root attribute of a complete archive: how many arrays it has.
inline constexpr const char* kCompleteName = "complete";
/// Attributes of a dataset: the safetensors name of its type, the digest text.
inline constexpr const char* kDTypeName = "dtype";
inline constexpr const char* kDigestName = "digest";
/// Group of the side files, and how their names begin.
inline constexpr std::string_view kFilesName = "files", kFilesPrefix = "files/";

inline constexpr int kMaxGroupDepth = 32;
inline constexpr std::size_t kMaxNamesBytes = 512 * kMiB;  // offsets in the heaps have 32 bits
inline constexpr Index kMaxSideFileBytes = 256 * kMiB;
inline constexpr Index kMaxAttributeBytes = 16 * kMiB;

/// Dimensions in stored elements: bytes, for types that HDF5 has not; nothing if the last dimension of a sub-byte type
/// does not fill whole bytes.
std::optional<Shape> stored_shape(DType dtype, Shape shape);
/// The inverse; nothing if it overflows.
std::optional<Shape> shape_of_stored(DType dtype, Shape stored);

/// A whole archive but for the data of its arrays: metadata from byte 0 on, then the arrays in order, then the side
/// files.
struct Archive {
  Index size = 0;
  std::vector<Index> offsets;  ///< of the items' data
  std::vector<Segment> files;  ///< contents of the side files, ascending
  std::string metadata;        ///< from byte 0 on
};

/// `digests` are those of the items; without (nullptr) the metadata is good for its size alone. The result does not
/// depend on `expected_begin`, where the data should begin; but if they begin elsewhere, all is encoded twice. Errors
/// (usage). Pure.
Expected<Archive> build_archive(const FileSpec& spec, const std::vector<std::string>* digests, Index expected_begin);

/// Reads an archive of the very form that build_archive gives it. Nothing if it has another: then libhdf5 may know it.
/// Errors (input): the source fails. Local, thread-safe.
Expected<std::optional<FileDirectory>> decode_archive(io::Source& source);

/// Reads any HDF5 file through libhdf5, as far as its arrays are plain extents. Errors (input). Local, thread-safe.
Expected<FileDirectory> read_with_library(io::Source& source, const std::string& path);

/// Puts the entries, and the digests with them, in the order of their extents. Pure.
void sort_by_extent(FileDirectory& directory);

/// The texts of side files from their extents. Errors (input): the source fails, too many or too large. Local.
Status read_side_files(io::Source& source, const std::vector<Entry>& files, FileDirectory& directory);

}  // namespace reshard::container::hdf5
