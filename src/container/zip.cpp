// SPDX-License-Identifier: Apache-2.0
#include "zip.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "containers.h"

namespace reshard::container::zip {
namespace {

constexpr std::uint32_t kLocalSignature = 0x04034b50, kDescriptorSignature = 0x08074b50;
constexpr std::uint32_t kEntrySignature = 0x02014b50, kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50, kLocatorSignature = 0x07064b50;
constexpr Index kLocalBytes = 30, kEntryBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
constexpr Index kDescriptorBytes = 16, kDescriptor64Bytes = 24;
constexpr std::uint16_t kZip64 = 1, kPadding = 0x4246;  // "FB", PyTorch's
constexpr std::uint32_t kMax32 = 0xffffffff;
constexpr std::uint16_t kMax16 = 0xffff;
constexpr std::uint16_t kHasDescriptor = 1 << 3, kIsUtf8 = 1 << 11;
constexpr std::uint16_t kPackingHints = 1 << 1 | 1 << 2;  // of methods that pack; mean nothing to stored data
constexpr Index kAlignment = 64;
constexpr Index kMaxDirectoryBytes = 512 * kMiB;
constexpr Index kMaxComment = 65535;

// Flags of entries whose bytes are not the data as they are, or are not all there.
struct Unread {
  std::uint16_t flag;
  std::string_view what;
};
constexpr std::array<Unread, 4> kUnread = {{{1 << 0, "is encrypted"},
                                            {1 << 5, "is a patch of another file"},
                                            {1 << 6, "is encrypted (strong encryption)"},
                                            {1 << 13, "has masked headers (encrypted directory)"}}};

// Numbers of a zip file are little-endian.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}
  template <class T>
  T next() {
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      value = static_cast<T>(value |
                             static_cast<T>(static_cast<T>(static_cast<unsigned char>(bytes_[at_ + i])) << (8 * i)));
    }
    at_ += sizeof(T);
    return value;
  }
  std::uint16_t u16() { return next<std::uint16_t>(); }
  std::uint32_t u32() { return next<std::uint32_t>(); }
  std::uint64_t u64() { return next<std::uint64_t>(); }
  std::size_t left() const { return bytes_.size() - at_; }
  std::string_view take(std::size_t count) {
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }

 private:
  std::string_view bytes_;
  std::size_t at_ = 0;
};

class Bytes {
 public:
  Bytes& u16(std::uint64_t value) { return put(value, 2); }
  Bytes& u32(std::uint64_t value) { return put(value, 4); }
  Bytes& u64(std::uint64_t value) { return put(value, 8); }
  Bytes& text(std::string_view value) {
    bytes_ += value;
    return *this;
  }
  std::string take() { return std::move(bytes_); }

 private:
  Bytes& put(std::uint64_t value, int count) {
    for (int i = 0; i < count; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 0xff);
    return *this;
  }
  std::string bytes_;
};

bool is_big(Index number) { return number >= static_cast<Index>(kMax32); }
std::uint64_t unsigned_of(Index number) { return static_cast<std::uint64_t>(number); }

// Where torch begins the data of an entry, counting from its local header at `header`.
Index data_offset(Index header, std::size_t name_bytes, Index size) {
  Index at = header + kLocalBytes + static_cast<Index>(name_bytes) + 4;
  if (is_big(size) || is_big(header)) at += 4;
  if (is_big(size)) at += 16;
  if (is_big(header)) at += 8;
  return round_up(at, kAlignment);
}

Index descriptor_bytes(Index header, Index size) {
  if (size == 0) return 0;
  return is_big(size) || is_big(header) ? kDescriptor64Bytes : kDescriptorBytes;
}

// What torch puts between the name and the data of an entry: 64-bit numbers, and padding.
std::string local_extra(const Record& record) {
  const bool big_size = is_big(record.size), big_header = is_big(record.header);
  Bytes extra;
  if (big_size || big_header) {
    extra.u16(kZip64).u16((big_size ? 16U : 0U) + (big_header ? 8U : 0U));
    if (big_size) extra.u64(unsigned_of(record.size)).u64(0);  // sic: torch leaves the packed size 0
    if (big_header) extra.u64(unsigned_of(record.header));
  }
  const std::string zip64 = extra.take();
  const auto padding =
      static_cast<std::size_t>(record.offset - record.header - kLocalBytes) - record.name.size() - zip64.size() - 4;
  return Bytes().text(zip64).u16(kPadding).u16(padding).text(std::string(padding, 'Z')).take();
}

// Reads and checks the directory of one archive.
class Reader {
 public:
  Reader(io::Source& source, const std::string& path, Headers headers)
      : source_(source), path_(path), headers_(headers) {}

  Expected<std::vector<Record>> run() {
    RESHARD_CHECK(find_end());
    if (directory_bytes_ > kMaxDirectoryBytes) {
      return fail(directory_,
                  fmt::format("the directory has {} bytes, at most {} are read", directory_bytes_, kMaxDirectoryBytes));
    }
    RESHARD_TRY(const std::string bytes, read(directory_, directory_bytes_));
    Fields fields(bytes);
    for (std::uint64_t i = 0; i < entries_; ++i) {
      const Index at = directory_ + directory_bytes_ - static_cast<Index>(fields.left());
      RESHARD_CHECK(read_entry(fields, at));
    }
    if (fields.left() != 0) {
      return fail(directory_,
                  fmt::format("{} bytes of the directory belong to none of its {} entries", fields.left(), entries_));
    }
    std::sort(listed_.begin(), listed_.end(),
              [](const auto& a, const auto& b) { return a.record.header < b.record.header; });
    if (const Index first = listed_.empty() ? directory_ : listed_.front().record.header; first != 0) {
      return fail(0, fmt::format("{} bytes lie before the first entry: something is hidden there", first));
    }
    std::vector<Record> records;
    for (std::size_t i = 0; i < listed_.size(); ++i) {
      RESHARD_CHECK(locate(i));
      records.push_back(std::move(listed_[i].record));
    }
    return records;
  }

 private:
  // An entry of the directory, with what its local header says again.
  struct Listed {
    Record record;
    std::uint16_t version = 0, flags = 0;
    std::uint32_t time = 0;
  };

  Error fail(Index at, const std::string& what) const {
    return input_error(fmt::format("{}: byte {}: {}", path_, at, what));
  }
  Error fail(Index at, const std::string& name, const std::string& what) const {
    return fail(at, fmt::format("entry '{}': {}", printable(name), what));
  }
  static std::string printable(const std::string& name) {
    std::string text;
    for (const char c : name.substr(0, 200)) text += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    return text;
  }

  Expected<std::string> read(Index at, Index count) {
    std::string bytes(static_cast<std::size_t>(count), '\0');
    if (Status status = source_.read_at(std::as_writable_bytes(std::span(bytes)), at); !status)
      return std::move(status).error().at(path_);
    return bytes;
  }

  // The end record, which may be followed by a comment, and its 64-bit form.
  Status find_end() {
    const Index size = source_.size();
    if (size < kEndBytes) return fail(0, "too short for a zip archive: the file may be truncated");
    const Index tail = std::min(size, kEndBytes + kMaxComment);
    RESHARD_TRY(const std::string bytes, read(size - tail, tail));
    std::optional<Index> found;
    for (Index at = tail - kEndBytes; at >= 0 && !found; --at) {
      Fields fields(std::string_view(bytes).substr(static_cast<std::size_t>(at)));
      if (fields.u32() != kEndSignature) continue;
      fields.take(16);
      if (fields.u16() == tail - at - kEndBytes) found = at;
    }
    if (!found) return fail(size, "no end of a zip directory: the file is truncated or damaged");
    const Index end = size - tail + *found;
    const auto comment = static_cast<std::size_t>(*found + kEndBytes);
    if (bytes.find(Bytes().u32(kEndSignature).take(), comment) != std::string::npos) {
      return fail(end, "its comment holds another end record: programs disagree about which counts");
    }
    Fields fields(std::string_view(bytes).substr(static_cast<std::size_t>(*found) + 4));
    const std::uint16_t disk = fields.u16(), first_disk = fields.u16();
    const std::uint16_t here = fields.u16(), total = fields.u16();
    std::uint64_t directory_bytes = fields.u32(), directory = fields.u32();
    entries_ = total;
    Index directory_end = end;
    bool one_disk = (disk == 0 || disk == kMax16) && (first_disk == 0 || first_disk == kMax16) && here == total;
    if (end >= kLocatorBytes) {
      RESHARD_TRY(const std::string locator_bytes, read(end - kLocatorBytes, kLocatorBytes));
      Fields locator(locator_bytes);
      if (locator.u32() == kLocatorSignature) {
        const std::uint32_t end64_disk = locator.u32();
        const std::uint64_t at = locator.u64();
        const std::uint32_t disks = locator.u32();
        one_disk = one_disk && end64_disk == 0 && disks <= 1;
        if (at != unsigned_of(end - kLocatorBytes - kEnd64Bytes)) {
          return fail(end - kLocatorBytes, "the 64-bit end record is not where its locator says");
        }
        directory_end = static_cast<Index>(at);
        RESHARD_TRY(const std::string end64_bytes, read(directory_end, kEnd64Bytes));
        Fields end64(end64_bytes);
        if (end64.u32() != kEnd64Signature) return fail(directory_end, "no 64-bit end record");
        if (end64.u64() != static_cast<std::uint64_t>(kEnd64Bytes - 12)) {
          return fail(directory_end, "a 64-bit end record of another length than 56 bytes");
        }
        end64.take(4);  // versions
        one_disk = one_disk && end64.u32() == 0 && end64.u32() == 0;
        const std::uint64_t here64 = end64.u64(), total64 = end64.u64();
        const std::uint64_t bytes64 = end64.u64(), directory64 = end64.u64();
        one_disk = one_disk && here64 == total64;
        const auto agree = [](std::uint64_t small, std::uint64_t max, std::uint64_t big) {
          return small == max || small == big;
        };
        if (!agree(total, kMax16, total64) || !agree(directory_bytes, kMax32, bytes64) ||
            !agree(directory, kMax32, directory64)) {
          return fail(directory_end, "the two end records disagree");
        }
        entries_ = total64;
        directory_bytes = bytes64;
        directory = directory64;
      }
    }
    if (!one_disk) return fail(end, "an archive in several parts: join them first");
    if (directory > unsigned_of(directory_end) || directory_bytes != unsigned_of(directory_end) - directory) {
      return fail(end, fmt::format("the directory should lie at byte {} with {} bytes, which does not reach to its end "
                                   "record at byte {}: the file is truncated or damaged",
                                   directory, directory_bytes, directory_end));
    }
    directory_ = static_cast<Index>(directory);
    directory_bytes_ = static_cast<Index>(directory_bytes);
    if (entries_ > kMaxTensors + 64)
      return fail(end, fmt::format("{} entries are more than a checkpoint has", entries_));
    if (entries_ > static_cast<std::uint64_t>(directory_bytes_ / kEntryBytes)) {
      return fail(end, fmt::format("{} entries do not fit into a directory of {} bytes", entries_, directory_bytes_));
    }
    return {};
  }

  Status read_entry(Fields& fields, Index at) {
    if (fields.left() < static_cast<std::size_t>(kEntryBytes) || fields.u32() != kEntrySignature) {
      return fail(at, "expected an entry of the zip directory");
    }
    fields.take(2);  // version made by
    Listed listed;
    listed.version = fields.u16();
    const std::uint16_t flags = fields.u16(), method = fields.u16();
    listed.flags = flags;
    listed.time = fields.u32();
    Record& record = listed.record;
    record.crc = fields.u32();
    std::uint64_t packed = fields.u32(), size = fields.u32();
    const std::uint16_t name_bytes = fields.u16(), extra_bytes = fields.u16(), comment_bytes = fields.u16();
    std::uint32_t disk = fields.u16();
    fields.take(6);  // attributes
    std::uint64_t header = fields.u32();
    if (fields.left() < std::size_t{name_bytes} + extra_bytes + comment_bytes) {
      return fail(at, "an entry reaches over the end of the zip directory");
    }
    record.name = fields.take(name_bytes);
    RESHARD_TRY(const auto numbers, find_zip64(at, record.name, fields.take(extra_bytes)));
    fields.take(comment_bytes);
    if (numbers) {
      Fields field(*numbers);
      for (std::uint64_t* number : {&size, &packed, &header}) {
        if (*number != kMax32) continue;
        if (field.left() < 8) return fail(at, record.name, "its 64-bit numbers are missing");
        *number = field.u64();
      }
      if (disk == kMax16 && field.left() >= 4) disk = field.u32();
      if (field.left() != 0) return fail(at, record.name, "has 64-bit numbers that nothing asks for");
    }
    if (disk != 0) return fail(at, record.name, "lies in another part of the archive: join the parts first");
    RESHARD_CHECK(check_flags(at, record.name, flags));
    if (method != 0)
      return fail(at, record.name, fmt::format("is compressed (method {}); torch stores its data as it is", method));
    if (packed != size) return fail(at, record.name, "is stored, but has two sizes");
    if (const std::string fault = check_path(record.name); !fault.empty() && !is_folder(record.name, size)) {
      return fail(at, record.name, fault);
    }
    std::string lower = record.name;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    if (!names_.insert(std::move(lower)).second) {
      return fail(at, record.name,
                  "occurs twice, if one does not look at case: programs disagree about which is meant");
    }
    if (header >= unsigned_of(directory_) || size > unsigned_of(directory_) - header) {
      return fail(
          at, record.name,
          fmt::format("{} bytes from byte {} on do not fit before the directory at byte {}", size, header, directory_));
    }
    record.header = static_cast<Index>(header);
    record.size = static_cast<Index>(size);
    listed_.push_back(std::move(listed));
    return {};
  }

  Status check_flags(Index at, const std::string& name, std::uint16_t flags) const {
    for (const Unread& unread : kUnread) {
      if ((flags & unread.flag) != 0) return fail(at, name, std::string(unread.what));
    }
    const int unknown = flags & ~(kHasDescriptor | kIsUtf8 | kPackingHints);
    if (unknown != 0) return fail(at, name, fmt::format("has flags {:#06x}, which are not known", unknown));
    return {};
  }

  // The 64-bit numbers of an entry, of which there may be one field.
  Expected<std::optional<std::string_view>> find_zip64(Index at, const std::string& name,
                                                       std::string_view fields) const {
    std::optional<std::string_view> found;
    Fields extra(fields);
    while (extra.left() >= 4) {
      const std::uint16_t id = extra.u16(), length = extra.u16();
      if (length > extra.left()) return fail(at, name, "its extra field reaches over its end");
      const std::string_view field = extra.take(length);
      if (id != kZip64) continue;
      if (found) return fail(at, name, "has its 64-bit numbers twice");
      found = field;
    }
    return found;
  }

  static bool is_folder(const std::string& name, std::uint64_t size) {
    return size == 0 && name.size() > 1 && name.ends_with('/') && check_path(name.substr(0, name.size() - 1)).empty();
  }

  // The position of an entry's data is told by its local header alone. Where the neighbours leave exactly the room that
  // torch's rule asks for, the header need not be read: a small read per tensor, all over the file.
  Status locate(std::size_t i) {
    const Listed& listed = listed_[i];
    Record& record = listed_[i].record;
    const Index next = i + 1 < listed_.size() ? listed_[i + 1].record.header : directory_;
    const Index expected = data_offset(record.header, record.name.size(), record.size);
    const bool is_as_torch_puts_it = expected + record.size + descriptor_bytes(record.header, record.size) == next &&
                                     ((listed.flags & kHasDescriptor) != 0) == (record.size > 0);
    if (is_as_torch_puts_it && headers_ == Headers::odd) {
      record.offset = expected;
      return {};
    }
    const auto refuse = [&](const std::string& what) { return fail(record.header, record.name, what); };
    if (next - record.header < kLocalBytes) return refuse("overlaps what follows");
    RESHARD_TRY(const std::string bytes, read(record.header, kLocalBytes));
    Fields fields(bytes);
    if (fields.u32() != kLocalSignature) return refuse("has no local header there");
    const std::uint16_t version = fields.u16(), flags = fields.u16(), method = fields.u16();
    const std::uint32_t time = fields.u32(), crc = fields.u32(), packed = fields.u32(), size = fields.u32();
    const std::uint16_t name_bytes = fields.u16(), extra_bytes = fields.u16();
    RESHARD_CHECK(check_flags(record.header, record.name, flags));
    const bool deferred = (flags & kHasDescriptor) != 0 && crc == 0 && packed == 0 && size == 0;
    const auto is_size = [&](std::uint32_t said) { return said == kMax32 || unsigned_of(record.size) == said; };
    const bool agrees = deferred || (crc == record.crc && is_size(packed) && is_size(size));
    if (method != 0 || flags != listed.flags || time != listed.time || name_bytes != record.name.size() || !agrees) {
      return refuse("its local header and the directory disagree");
    }
    record.offset = record.header + kLocalBytes + name_bytes + extra_bytes;
    if (is_as_torch_puts_it && record.offset != expected) {
      return refuse(fmt::format("its data begin at byte {} by its local header, at byte {} by where torch puts them",
                                record.offset, expected));
    }
    if (record.offset > next || record.size > next - record.offset) return refuse("overlaps what follows");
    RESHARD_TRY(const std::string behind, read(record.header + kLocalBytes, name_bytes + extra_bytes));
    if (!behind.starts_with(record.name)) return refuse("has another name in its local header");
    const std::string_view extra = std::string_view(behind).substr(name_bytes);
    RESHARD_TRY(const auto numbers, find_zip64(record.header, record.name, extra));
    if (size == kMax32 || packed == kMax32) {
      const std::string both = Bytes().u64(unsigned_of(record.size)).u64(unsigned_of(record.size)).take();
      if (!numbers || !numbers->starts_with(both)) return refuse("its local header and the directory disagree");
    }
    if (is_as_torch_puts_it && (version != listed.version || extra != local_extra(record))) {
      return refuse("its local header is not as torch writes it");
    }
    return check_end(listed, numbers ? kDescriptor64Bytes : kDescriptorBytes, next);
  }

  // An entry and its descriptor, if it has one, reach to the next entry: nothing is hidden in between.
  Status check_end(const Listed& listed, Index descriptor_width, Index next) {
    const Record& record = listed.record;
    const Index at = record.offset + record.size;
    const Index width = (listed.flags & kHasDescriptor) != 0 ? descriptor_width : 0;
    if (width > next - at) return fail(record.header, record.name, "leaves no room for its descriptor");
    if (at + width < next) {
      return fail(at + width, record.name, fmt::format("the {} bytes behind it belong to no entry", next - at - width));
    }
    if (width == 0 || headers_ == Headers::odd) return {};
    RESHARD_TRY(const std::string bytes, read(at, width));
    Fields fields(bytes);
    if (fields.u32() != kDescriptorSignature) return fail(at, record.name, "has no descriptor behind its data");
    const std::uint32_t crc = fields.u32();
    const auto number = [&] { return width == kDescriptor64Bytes ? fields.u64() : fields.u32(); };
    const std::uint64_t packed = number(), size = number();
    if (crc == record.crc && packed == unsigned_of(record.size) && size == packed) return {};
    return fail(at, record.name, "its descriptor and the directory disagree");
  }

  io::Source& source_;
  const std::string& path_;
  Headers headers_;
  Index directory_ = 0, directory_bytes_ = 0;
  std::uint64_t entries_ = 0;
  std::vector<Listed> listed_;
  std::unordered_set<std::string> names_;
};

}  // namespace

Expected<std::vector<Record>> read_directory(io::Source& source, const std::string& path, Headers headers) {
  return Reader(source, path, headers).run();
}

Writer::Writer(std::vector<std::string> names, const std::vector<Index>& sizes) {
  Index at = 0, directory_bytes = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    Record record{std::move(names[i]), at, 0, sizes[i], 0};
    record.offset = data_offset(at, record.name.size(), record.size);
    at = record.offset + record.size + descriptor_bytes(record.header, record.size);
    directory_bytes += kEntryBytes + static_cast<Index>(record.name.size());
    if (is_big(record.size) || is_big(record.header)) directory_bytes += 4;
    if (is_big(record.size)) directory_bytes += 16;
    if (is_big(record.header)) directory_bytes += 8;
    records_.push_back(std::move(record));
  }
  end_offset_ = at;
  size_ = at + directory_bytes + kEnd64Bytes + kLocatorBytes + kEndBytes;
}

std::string Writer::local_header(std::size_t i) const {
  const Record& record = records_[i];
  const std::string extra = local_extra(record);
  Bytes bytes;
  bytes.u32(kLocalSignature).u16(0).u16(kIsUtf8 | (record.size > 0 ? kHasDescriptor : 0U)).u16(0).u32(0);
  bytes.u32(0).u32(0).u32(0);  // CRC and sizes follow the data
  bytes.u16(record.name.size()).u16(extra.size()).text(record.name).text(extra);
  return bytes.take();
}

Index Writer::descriptor_offset(std::size_t i) const { return records_[i].offset + records_[i].size; }
Index Writer::descriptor_length(std::size_t i) const { return descriptor_bytes(records_[i].header, records_[i].size); }

std::string Writer::descriptor(std::size_t i) const {
  const Record& record = records_[i];
  if (record.size == 0) return "";
  Bytes bytes;
  bytes.u32(kDescriptorSignature).u32(record.crc);
  const auto size = unsigned_of(record.size);
  if (descriptor_length(i) == kDescriptor64Bytes) {
    bytes.u64(size).u64(size);
  } else {
    bytes.u32(size).u32(size);
  }
  return bytes.take();
}

std::string Writer::end() const {
  Bytes bytes;
  const auto capped = [](Index number) { return is_big(number) ? kMax32 : static_cast<std::uint32_t>(number); };
  for (const Record& record : records_) {
    const bool big_size = is_big(record.size), big_header = is_big(record.header);
    const std::uint64_t extra = (big_size || big_header ? 4U : 0U) + (big_size ? 16U : 0U) + (big_header ? 8U : 0U);
    bytes.u32(kEntrySignature).u16(0).u16(0).u16(kIsUtf8 | (record.size > 0 ? kHasDescriptor : 0U)).u16(0).u32(0);
    bytes.u32(record.crc).u32(capped(record.size)).u32(capped(record.size));
    bytes.u16(record.name.size()).u16(extra).u16(0).u16(0).u16(0).u32(0).u32(capped(record.header));
    bytes.text(record.name);
    if (extra > 0) bytes.u16(kZip64).u16(extra - 4);
    if (big_size) bytes.u64(unsigned_of(record.size)).u64(unsigned_of(record.size));
    if (big_header) bytes.u64(unsigned_of(record.header));
  }
  const Index end64 = size_ - kEndBytes - kLocatorBytes - kEnd64Bytes;
  const Index directory_bytes = end64 - end_offset_;
  const std::uint64_t count = records_.size();
  bytes.u32(kEnd64Signature).u64(kEnd64Bytes - 12).u16(0x031e).u16(0x002d).u32(0).u32(0);
  bytes.u64(count).u64(count).u64(unsigned_of(directory_bytes)).u64(unsigned_of(end_offset_));
  bytes.u32(kLocatorSignature).u32(0).u64(unsigned_of(end64)).u32(1);
  const std::uint64_t count16 = std::min<std::uint64_t>(count, kMax16);
  bytes.u32(kEndSignature)
      .u16(0)
      .u16(0)
      .u16(count16)
      .u16(count16)
      .u32(capped(directory_bytes))
      .u32(capped(end_offset_))
      .u16(0);
  return bytes.take();
}

}  // namespace reshard::container::zip
