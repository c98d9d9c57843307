// SPDX-License-Identifier: Apache-2.0
#include "tests/support/zip_files.h"

#include "reshard/base/crc32.h"

namespace reshard::test {

std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

namespace {

constexpr auto number = little_endian;

std::string op(int code) { return std::string(1, static_cast<char>(code)); }

std::string small(int value) { return "K" + op(value); }

std::string tuple(const std::vector<int>& numbers) {
  std::string text = "(";
  for (const int one : numbers) text += small(one);
  return text + "t";
}

}  // namespace

std::string zip_file(const std::vector<ZipEntry>& entries, const std::string& comment,
                     std::optional<std::uint16_t> entries_said) {
  std::string file, directory;
  std::uint64_t listed = 0;
  for (const ZipEntry& entry : entries) {
    const std::uint64_t header = file.size();
    const std::uint32_t crc = entry.crc.value_or(crc32(0, std::as_bytes(std::span(entry.bytes))));
    const bool deferred = entry.alignment > 0 && !entry.bytes.empty();
    const std::uint16_t flags = static_cast<std::uint16_t>(entry.flags | (deferred ? 8 : 0));
    const std::string& local_name = entry.local_name ? *entry.local_name : entry.name;
    std::string extra;
    if (entry.alignment > 0) {
      const std::size_t begin = file.size() + 30 + local_name.size() + 4;
      const std::size_t padding = (entry.alignment - begin % entry.alignment) % entry.alignment;
      extra = "FB" + number(padding, 2) + std::string(padding, 'Z');
    }
    const std::uint64_t size = entry.bytes.size();
    file += "PK\x03\x04" + number(20, 2) + number(flags, 2) + number(entry.method, 2) + number(0, 4) +
            number(deferred ? 0 : crc, 4) + number(deferred ? 0 : size, 4) + number(deferred ? 0 : size, 4) +
            number(local_name.size(), 2) + number(extra.size(), 2) + local_name + extra + entry.bytes;
    if (deferred) file += "PK\x07\x08" + number(crc, 4) + number(size, 4) + number(size, 4);
    file += entry.behind;
    if (!entry.is_listed) continue;
    ++listed;
    directory += "PK\x01\x02" + number(0, 2) + number(20, 2) + number(flags, 2) + number(entry.method, 2) +
                 number(0, 4) + number(crc, 4) + number(entry.packed.value_or(entry.size.value_or(size)), 4) +
                 number(entry.size.value_or(size), 4) + number(entry.name.size(), 2) +
                 number(entry.listed_extra.size(), 2) + number(0, 2) + number(entry.disk, 2) + number(0, 6) +
                 number(entry.header.value_or(header), 4) + entry.name + entry.listed_extra;
  }
  const std::uint16_t said = entries_said.value_or(static_cast<std::uint16_t>(listed));
  const std::uint64_t begin = file.size();
  return file + directory + "PK\x05\x06" + number(0, 4) + number(said, 2) + number(said, 2) +
         number(directory.size(), 4) + number(begin, 4) + number(comment.size(), 2) + comment;
}

std::vector<ZipEntry> torch_entries(const std::string& pickle, const std::vector<std::string>& storages) {
  std::vector<ZipEntry> entries;
  const auto add = [&](const std::string& name, const std::string& bytes) {
    ZipEntry entry;
    entry.name = "m/" + name;
    entry.bytes = bytes;
    entry.alignment = 64;
    entries.push_back(std::move(entry));
  };
  add("data.pkl", pickle);
  add("byteorder", "little");
  for (std::size_t i = 0; i < storages.size(); ++i) add("data/" + std::to_string(i), storages[i]);
  add("version", "3\n");
  return entries;
}

std::string pickled(const std::string& text) { return "X" + number(text.size(), 4) + text; }

std::string pickled_tensor(const std::string& key, int numel, int offset, const std::vector<int>& sizes,
                           const std::vector<int>& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled("storage") + "ctorch\nFloatStorage\n" + pickled(key) +
         pickled("cpu") + small(numel) + "tQ" + small(offset) + tuple(sizes) + tuple(strides) + op(0x89) +
         "ccollections\nOrderedDict\n)RtR";
}

std::string pickled_state() { return "\x80\x02}(" + pickled("w") + pickled_tensor("0", 6, 0, {2, 3}, {3, 1}) + "u."; }

}  // namespace reshard::test
