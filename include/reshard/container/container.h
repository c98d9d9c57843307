// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
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
  /// In the order of their extents, which are in the file and disjoint; those of a torch file may share bytes.
  std::vector<Entry> entries;
  /// safetensors __metadata__; HDF5 root attributes; what a torch pickle holds beside tensors: number, text and the
  /// like as JSON, by its keys joined with dots.
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::string> files;  ///< side files that travel inside (HDF5 /files/)
  std::vector<std::string> item_digests;     ///< by entry, what finish() stored (HDF5); for its decoder and for tests
  /// Bytes whose CRC-32 the file states (storages of a torch file), by offset, disjoint.
  struct Check {
    Index offset, length;
    std::uint32_t crc;
    bool operator==(const Check&) const = default;
  };
  std::vector<Check> checks;
  bool big_endian = false;  ///< the numbers of the entries
};

/// Constant bytes of a target file: headers, and whatever lies between the arrays.
struct Segment {
  Index offset = 0;
  std::string bytes;
  std::shared_ptr<const std::string> shared = nullptr;  ///< instead of `bytes`: content that several segments have

  std::string_view text() const { return shared ? std::string_view(*shared) : std::string_view(bytes); }
};

/// A target file to be: what goes in, in order.
struct FileSpec {
  struct Item {
    std::string name;
    DType dtype;
    Shape shape;
    Index digest_bytes = 0;  ///< exact length of the text that finish() will store with the item, if the container can
    std::int64_t repeats = -1;  ///< item before or behind whose extent this one shares, if the container can
    std::shared_ptr<const std::string> content = nullptr;  ///< bytes of a buffer, known beforehand
  };
  std::vector<Item> items;
  std::map<std::string, std::string> metadata;  ///< of a torch file: JSON texts beside the dictionary called `under`
  std::string root = "archive";                 ///< torch: folder inside the archive, as a rule the file name's stem
  std::string under;                            ///< torch: key below which the dictionary of arrays lies; empty: none
  bool write_empty_metadata =
      false;  ///< safetensors: "__metadata__":{} where there is none (Nanotron's loader wants it)
  std::map<std::string, std::string> files;  ///< side files that the container carries, by relative path
};

/// Bytes of a target file.
struct Extent {
  Index offset = 0, length = 0;
};

/// Where everything of a target file lies; a function of the FileSpec alone.
struct FileImage {
  Index size = 0;
  std::vector<Index> offsets;        ///< of each item, bytes
  std::vector<Segment> segments;     ///< written with the data (spans cover them), ascending and outside of the items
  std::vector<Extent> checked = {};  ///< extents whose CRC-32 finish() needs, ascending and disjoint
};

/// What finish() needs to know of the data.
struct DataSums {
  std::vector<std::string> item_digests;  ///< texts to store, by item, each digest_bytes long; empty if no item has one
  std::vector<std::uint32_t> crcs;        ///< of image.checked
};

/// A byte-level file type, as a directory of extents. Implementations hold no state.
class Container {
 public:
  virtual ~Container() = default;
  virtual std::string_view name() const = 0;
  /// Can two items share an extent? Then the extras of a layout (tied names, buffers) are written too.
  virtual bool shares_extents() const { return false; }
  /// Reads headers only. `path` names the file in errors. Errors (input) name the file, and
  /// tensor and byte where there are some; a file of another kind is called what it seems to be. Local, thread-safe.
  virtual Expected<FileDirectory> read_directory(io::Source& source, const std::string& path) const = 0;
  /// Checks what read_directory takes on trust, where a file says things twice. Errors (input). Local, thread-safe.
  virtual Status check_headers(io::Source& source, const std::string& path) const;
  /// The bytes between segments and items are zeros. Pure but for scratch files. Errors (usage): something that the
  /// container cannot hold. Local, thread-safe.
  virtual Expected<FileImage> lay_out(const FileSpec& spec) const = 0;
  /// Bytes that depend on the data (digests, CRCs, completion marks), written by one process after all others have
  /// synced and closed the file; in the order given, the last one making the file valid. Same arguments, same bytes.
  /// Local, thread-safe.
  virtual Expected<std::vector<Segment>> finish(const FileSpec& spec, const FileImage& image,
                                                const DataSums& sums) const = 0;
};

const Container* find(std::string_view name);  ///< nullptr if there is none

/// Says what a file that is no checkpoint seems to be ("a git-LFS pointer: run git lfs pull", "an HTML page", ...),
/// from its first bytes (512 are enough); empty if nothing known, or if it is of a kind that a container reads.
/// read_directory says it by itself.
std::string describe_foreign(std::span<const std::byte> first_bytes);

}  // namespace reshard::container
