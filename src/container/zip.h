// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"
#include "reshard/io/file.h"

/// Zip archives of stored entries, as torch.save writes them (formats: APPNOTE 6.3 sections 4.3 and 4.5, PyTorch's
/// inline_container.cc): everything about a file but its data.
namespace reshard::container::zip {

/// An entry: uncompressed bytes at a known place.
struct Record {
  std::string name;
  Index header = 0;  ///< offset of its local header
  Index offset = 0;  ///< of its first byte
  Index size = 0;
  std::uint32_t crc = 0;
};

/// Which local headers are read: of entries that do not lie as torch would put them (then a header that was changed in
/// place is not seen), or all, and all descriptors behind the data.
enum class Headers { odd, all };

/// All entries of an archive, by offset; they are disjoint, uncompressed, without gaps before or between them, and no
/// two names differ in case only. Reads the directory at the end and local headers. Errors (input): damage, headers
/// that disagree with the directory, compression, encryption, several disks, a comment that holds another end record,
/// names that lead out of the archive, naming entry and byte. Local.
Expected<std::vector<Record>> read_directory(io::Source& source, const std::string& path,
                                             Headers headers = Headers::odd);

/// Places entries in a new archive, data at multiples of 64 bytes. `names` and `sizes` run together.
class Writer {
 public:
  Writer(std::vector<std::string> names, const std::vector<Index>& sizes);

  const std::vector<Record>& records() const { return records_; }  ///< crc is 0 until set_crc
  Index size() const { return size_; }                             ///< of the whole archive
  std::string local_header(std::size_t record) const;              ///< at records()[record].header
  Index descriptor_offset(std::size_t record) const;
  Index descriptor_length(std::size_t record) const;  ///< 0 for an empty entry

  void set_crc(std::size_t record, std::uint32_t crc) { records_[record].crc = crc; }
  std::string descriptor(std::size_t record) const;  ///< needs the entry's CRC
  std::string end() const;                           ///< directory and end records, at end_offset(); needs all CRCs
  Index end_offset() const { return end_offset_; }

 private:
  std::vector<Record> records_;
  Index end_offset_ = 0, size_ = 0;
};

}  // namespace reshard::container::zip
