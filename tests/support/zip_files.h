// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace reshard::test {

/// An entry of an archive to be, with what is wrong with it.
struct ZipEntry {
  std::string name;
  std::string bytes;
  std::optional<std::uint32_t> crc = {};  ///< instead of the right one
  std::uint16_t method = 0, flags = 0;    ///< of both headers
  std::uint16_t disk = 0;
  std::optional<std::uint64_t> size = {}, packed = {}, header = {};  ///< that the directory says
  std::optional<std::string> local_name = {};                        ///< of the local header
  std::size_t alignment = 0;      ///< 0: sizes and CRC in the local header, no padding; 64: as torch writes it
  std::string listed_extra = {};  ///< extra field of the directory
  std::string behind = {};        ///< bytes between the entry, with its descriptor, and the next one
  bool is_listed = true;          ///< in the directory
};

/// A number in the byte order of zip files and pickles.
std::string little_endian(std::uint64_t value, int bytes);

/// The bytes of an archive, without 64-bit records. `comment` follows the end record; `entries_said` is what it counts.
std::string zip_file(const std::vector<ZipEntry>& entries, const std::string& comment = "",
                     std::optional<std::uint16_t> entries_said = {});

/// Members of an archive as torch.save makes it: `pickle` and storages 0, 1, ...
std::vector<ZipEntry> torch_entries(const std::string& pickle, const std::vector<std::string>& storages);

/// Text of a pickle's text opcode.
std::string pickled(const std::string& text);
/// A tensor over storage `key` of `numel` floats; offset, sizes and strides are numbers up to 255.
std::string pickled_tensor(const std::string& key, int numel, int offset, const std::vector<int>& sizes,
                           const std::vector<int>& strides);
/// {"w": such a tensor of 6 floats, [2, 3]}
std::string pickled_state();

}  // namespace reshard::test
