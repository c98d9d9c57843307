// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/dtype.h"
#include "reshard/base/expected.h"
#include "reshard/io/file.h"

namespace reshard::container {

/// A line of a file's directory: one stored array and its byte extent.
struct Entry {
  std::string name;
  DType dtype = DType::u8;
  Shape shape;
  Index offset = 0;            ///< bytes, absolute in the file
  Index length = 0;            ///< bytes
  std::vector<Index> strides;  ///< of the dimensions, in elements; empty: dense and row-major
};

/// What a file says about itself, before a byte of data is read.
struct FileDirectory {
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;  ///< safetensors __metadata__; HDF5 root attributes
  std::map<std::string, std::string> files;     ///< side files that travel inside (HDF5 /files/)
};

/// Constant bytes of a target file: headers, and whatever lies between the arrays.
struct Segment {
  Index offset = 0;
  std::string bytes;
};

/// A target file to be: what goes in, in order.
struct FileSpec {
  struct Item {
    std::string name;
    DType dtype;
    Shape shape;
  };
  std::vector<Item> items;
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::string> files;  ///< side files that the container carries
};

/// Where everything of a target file lies; a function of the FileSpec alone.
struct FileImage {
  Index size = 0;
  std::vector<Index> offsets;     ///< of each item, bytes
  std::vector<Segment> segments;  ///< written with the data (spans cover them)
};

/// A byte-level file type, as a directory of extents. Implementations hold no state.
class Container {
 public:
  virtual ~Container() = default;
  virtual std::string_view name() const = 0;
  /// Reads headers only. Errors (input) name the file, and tensor and byte where there are some. Local.
  virtual Expected<FileDirectory> read_directory(io::Source& source, const std::string& path) const = 0;
  /// Pure but for scratch files. Errors (usage): something that the container cannot hold. Local.
  virtual Expected<FileImage> lay_out(const FileSpec& spec) const = 0;
  /// Bytes that depend on the data (digests, CRCs, completion marks), written by one process after all others have synced
  /// and closed the file; in the order given. `line_digests` maps an item's name to the text to store with it. Local.
  virtual Expected<std::vector<Segment>> finish(const FileSpec& spec, const FileImage& image,
                                                const std::map<std::string, std::string>& item_digests) const = 0;
};

const Container* find(std::string_view name);  ///< nullptr if there is none

/// Says what a file that is no checkpoint seems to be ("a git-LFS pointer: run git lfs pull", "an HTML page", ...), from its
/// first bytes; empty if nothing known.
std::string describe_foreign(std::span<const std::byte> first_bytes);

}  // namespace reshard::container
