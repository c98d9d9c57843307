// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <string_view>

#include "child.h"
#include "hdf5_archive.h"
#include "hdf5_format.h"

namespace reshard::container::hdf5 {
namespace {

constexpr Index kWindowBytes = 1 * kMiB;
constexpr std::size_t kMaxHeaderBytes = 64 * kMiB;

/// Guesses what an archive says. It follows only what is needed to get at the arrays and checks hardly anything but
/// bounds: the proof is that build_archive gives the same bytes for what was guessed.
class Guess {
 public:
  explicit Guess(io::Source& source) : source_(source) {}

  /// False: not in our form, or error().
  bool make() {
    const std::string superblock = bytes(0, kSuperblockBytes);
    Cursor fields(superblock);
    fields.take(36);
    return read_group(fields.number(8), "", 0);
  }
  const std::optional<Error>& error() const { return error_; }

  std::vector<Entry> arrays, files;
  std::map<std::string, std::string> attributes, digests;

 private:
  struct Link {
    std::string name;
    std::uint64_t header;
  };
  struct Header {
    std::string bytes;
    std::vector<std::pair<std::uint8_t, std::string_view>> messages;
  };

  /// Bytes of the file; empty if it has not got them. Reads ahead: structures lie one behind the other.
  std::string bytes(std::uint64_t offset, std::size_t length) {
    const auto size = static_cast<std::uint64_t>(source_.size());
    if (offset > size || length > size - offset || error_) return {};
    const auto begin = static_cast<Index>(offset);
    const auto wanted = static_cast<Index>(length);
    if (begin < window_begin_ || begin + wanted > window_begin_ + static_cast<Index>(window_.size())) {
      window_.resize(static_cast<std::size_t>(std::min(std::max(wanted, kWindowBytes), source_.size() - begin)));
      window_begin_ = begin;
      if (auto read = source_.read_at(std::as_writable_bytes(std::span(window_)), begin); !read) {
        error_ = std::move(read).error();
        return {};
      }
    }
    return window_.substr(static_cast<std::size_t>(begin - window_begin_), length);
  }

  bool read_header(std::uint64_t address, Header& header) {
    const std::string prefix = bytes(address, kHeaderPrefixBytes);
    Cursor fields(prefix);
    fields.take(6);
    const std::uint64_t size = fields.number(4);
    if (size > kMaxHeaderBytes) return false;
    header.bytes = bytes(address + kHeaderPrefixBytes, static_cast<std::size_t>(size));
    Cursor rest(header.bytes);
    while (!rest.is_at_end()) {
      const auto type = static_cast<std::uint8_t>(rest.number(1));
      const auto length = static_cast<std::size_t>(rest.number(2));
      rest.take(1);
      header.messages.emplace_back(type, rest.take(length));
    }
    return !header.messages.empty() && !rest.ran_out();
  }

  bool read_group(std::uint64_t address, const std::string& prefix, int depth) {
    Header header;
    if (depth > kMaxGroupDepth || !read_header(address, header) || header.messages[0].first != kLinkInfo) return false;
    Cursor info(header.messages[0].second);
    info.take(2);
    const std::uint64_t heap = info.number(8);
    std::vector<Link> links;
    if (heap != kUndefined && !read_heap(heap, links)) return false;
    if (depth == 0) read_attributes(header, attributes);
    for (const Link& link : links) {
      // Groups come behind what they hold, so no walk runs in circles.
      if (link.header >= address || !read_object(link.header, prefix + link.name, depth)) return false;
    }
    return true;
  }

  bool read_heap(std::uint64_t address, std::vector<Link>& links) {
    const std::string heap = bytes(address, kHeapHeaderBytes);
    Cursor fields(heap);
    fields.take(54);
    const std::uint64_t allocated = fields.number(8);
    fields.take(50);
    const std::uint64_t block_bytes = fields.number(8);
    fields.take(12);
    const std::uint64_t indirect = fields.number(8);
    if (block_bytes < kMinBlockBytes || block_bytes > kMaxBlockBytes || allocated / block_bytes > kMaxTensors)
      return false;
    const auto num_blocks = static_cast<std::size_t>(allocated / block_bytes);
    const std::string addresses = bytes(indirect + kHeapBlockPrefixBytes, num_blocks * 8);
    Cursor next(addresses);
    while (!next.is_at_end()) {
      const std::string block = bytes(next.number(8), static_cast<std::size_t>(block_bytes));
      Cursor objects(block);
      objects.take(kDirectPrefixBytes);
      if (objects.ran_out()) return false;
      while (objects.number(1) == kLinkVersion) {
        const std::uint64_t flags = objects.number(1);
        objects.take(1);
        const std::uint64_t length = objects.number((flags & 1) + 1);
        const std::string name(objects.take(static_cast<std::size_t>(length)));
        links.push_back({name, objects.number(8)});
      }
    }
    return !links.empty();
  }

  bool read_object(std::uint64_t address, const std::string& name, int depth) {
    Header header;
    if (arrays.size() + files.size() > kMaxTensors || !read_header(address, header)) return false;
    if (header.messages[0].first == kLinkInfo) return read_group(address, name + "/", depth + 1);
    const std::string below = std::string(kFilesName) + "/";
    const bool is_file = name.starts_with(below);
    std::map<std::string, std::string> texts;
    read_attributes(header, texts);
    Entry entry;
    entry.name = is_file ? name.substr(below.size()) : name;
    const auto dtype = is_file ? DType::u8 : parse_dtype(texts[kDTypeName]);
    if (!dtype) return false;
    entry.dtype = *dtype;
    for (const auto& [type, body] : header.messages) read_message(type, body, entry);
    const auto shape = shape_of_stored(entry.dtype, entry.shape);
    if (!shape || entry.length < 0 || (is_file && entry.length > kMaxSideFileBytes)) return false;
    entry.shape = *shape;
    if (entry.length == 0) entry.offset = 0;
    if (const auto digest = texts.find(kDigestName); digest != texts.end()) digests[name] = digest->second;
    (is_file ? files : arrays).push_back(std::move(entry));
    return true;
  }

  static void read_message(std::uint8_t type, std::string_view body, Entry& entry) {
    Cursor fields(body);
    if (type == kDataspace) {
      fields.take(1);
      const std::uint64_t rank = fields.number(1);
      fields.take(2);
      for (std::uint64_t i = 0; i < rank; ++i) entry.shape.push_back(static_cast<Index>(fields.number(8)));
    } else if (type == kLayout) {
      fields.take(2);
      entry.offset = static_cast<Index>(fields.number(8));
      entry.length = static_cast<Index>(fields.number(8));
    }
  }

  void read_attributes(const Header& header, std::map<std::string, std::string>& texts) {
    for (const auto& [type, body] : header.messages) {
      if (type != kAttribute) continue;
      Cursor fields(body);
      fields.take(2);
      const auto name_bytes = static_cast<std::size_t>(fields.number(2));
      const auto type_bytes = static_cast<std::size_t>(fields.number(2));
      const auto space_bytes = static_cast<std::size_t>(fields.number(2));
      fields.take(1);
      const auto name = fields.take(name_bytes);
      const bool is_long = fields.take(type_bytes) == encode_long_text_type();
      fields.take(space_bytes);
      const std::size_t left = body.size() - std::min(body.size(), 9 + name_bytes + type_bytes + space_bytes);
      std::string text(is_long ? read_long_text(fields) : fields.take(left));
      if (!is_long && !text.empty()) text.pop_back();
      texts[std::string(name.substr(0, name.empty() ? 0 : name.size() - 1))] = std::move(text);
    }
  }

  std::string read_long_text(Cursor& reference) {
    constexpr std::size_t kTextBegin = 32;
    const std::uint64_t length = reference.number(4);
    const std::uint64_t heap = reference.number(8);
    if (length > static_cast<std::uint64_t>(kMaxAttributeBytes)) return {};
    return bytes(heap + kTextBegin, static_cast<std::size_t>(length));
  }

  io::Source& source_;
  std::string window_;
  Index window_begin_ = 0;
  std::optional<Error> error_;
};

FileSpec spec_of(const FileDirectory& directory) {
  FileSpec spec;
  for (const Entry& entry : directory.entries) {
    const auto digest = directory.item_digests.find(entry.name);
    const auto bytes = digest == directory.item_digests.end() ? 0 : static_cast<Index>(digest->second.size());
    spec.items.push_back({entry.name, entry.dtype, entry.shape, bytes});
  }
  spec.metadata = directory.metadata;
  spec.files = directory.files;
  return spec;
}

bool begins_with(io::Source& source, const std::string& metadata, std::optional<Error>& error) {
  std::string bytes(metadata.size(), '\0');
  if (auto read = source.read_at(std::as_writable_bytes(std::span(bytes)), 0); !read) error = std::move(read).error();
  return !error && bytes == metadata;
}

}  // namespace

Expected<std::optional<FileDirectory>> decode_archive(io::Source& source) {
  const std::optional<FileDirectory> other_form;
  Guess guess(source);
  const bool is_made = guess.make();
  if (guess.error()) return *guess.error();
  if (!is_made) return other_form;
  FileDirectory directory;
  directory.entries = std::move(guess.arrays);
  std::sort(directory.entries.begin(), directory.entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.offset, a.length, a.name) < std::tie(b.offset, b.length, b.name);
  });
  directory.metadata = std::move(guess.attributes);
  directory.metadata.erase(kCompleteName);
  directory.item_digests = std::move(guess.digests);
  for (const auto* extents : {&directory.entries, &guess.files}) {
    for (const Entry& entry : *extents) {
      if (entry.offset < 0 || entry.length > source.size() || entry.offset > source.size() - entry.length)
        return other_form;
    }
  }
  RESHARD_CHECK(read_side_files(source, guess.files, directory));
  const auto archive = build_archive(spec_of(directory), &directory.item_digests);
  std::optional<Error> error;
  const bool is_ours = archive && archive->size == source.size() && begins_with(source, archive->metadata, error);
  if (error) return *error;
  return is_ours ? std::optional(std::move(directory)) : other_form;
}

}  // namespace reshard::container::hdf5
