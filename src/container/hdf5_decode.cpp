// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string_view>

#include "child.h"
#include "hdf5_archive.h"
#include "hdf5_format.h"

namespace reshard::container::hdf5 {
namespace {

constexpr Index kWindowBytes = 1 * kMiB;
constexpr std::size_t kMaxHeaderBytes = 64 * kMiB;
constexpr std::size_t kMaxLongTextsBytes = 64 * kMiB;  // in sum; files that hold more are left to libhdf5

struct Attribute {
  std::string_view name, type, value;
};

/// Without the NUL at the end.
std::string_view text_of(std::string_view value) { return value.substr(0, value.size() - (value.empty() ? 0 : 1)); }

Attribute parse_attribute(std::string_view body) {
  Cursor fields(body);
  fields.take(2);
  const std::uint64_t name_bytes = fields.number(2);
  const std::uint64_t type_bytes = fields.number(2);
  const std::uint64_t space_bytes = fields.number(2);
  fields.take(1);
  Attribute attribute;
  attribute.name = text_of(fields.take(name_bytes));
  attribute.type = fields.take(type_bytes);
  fields.take(space_bytes);
  attribute.value = fields.rest();
  return attribute;
}

/// Calls visit(type, body) for the messages of a header; false if they do not fill it.
template <class Visit>
bool visit_messages(std::string_view messages, Visit&& visit) {
  Cursor rest(messages);
  while (!rest.is_at_end()) {
    const auto type = static_cast<std::uint8_t>(rest.number(1));
    const std::uint64_t length = rest.number(2);
    rest.take(1);
    visit(type, rest.take(length));
  }
  return !rest.ran_out();
}

/// Guesses what an archive says. It follows only what is needed to get at the arrays and checks hardly anything but
/// bounds: the proof is that build_archive gives the same bytes for what was guessed.
class Guess {
 public:
  explicit Guess(io::Source& source) : source_(source) {}

  /// False: not in our form, or error().
  bool make() {
    Cursor fields(bytes(0, kSuperblockBytes));
    fields.take(36);
    const std::uint64_t root = fields.number(8);
    return read_attributes(root) && read_group(root, "", 0);
  }
  const std::optional<Error>& error() const { return error_; }

  std::vector<Entry> arrays, files;
  std::vector<std::string> digests;  ///< of the arrays
  std::map<std::string, std::string> attributes;

 private:
  struct Link {
    std::string name;  ///< with the groups above
    std::uint64_t header;
  };
  /// Of all groups together, links to groups included; files that hold more are left to libhdf5.
  static constexpr std::size_t kMaxLinksBytes = kMaxNamesBytes + kMaxTensors * sizeof(Link);

  /// Bytes of the file until the next call; empty if it has not got them. Reads ahead: structures lie one behind the
  /// other.
  std::string_view bytes(std::uint64_t offset, std::uint64_t length) {
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
    return std::string_view(window_).substr(static_cast<std::size_t>(begin - window_begin_), length);
  }

  /// The messages of an object, as bytes() gives them; empty if there are none. Objects lie in the order of the walk:
  /// none is met twice. For links read_heap sees to that.
  std::string_view read_header(std::uint64_t address) {
    if (address < behind_) return {};
    Cursor fields(bytes(address, kHeaderPrefixBytes));
    fields.take(6);
    const std::uint64_t size = fields.number(4);
    return size > kMaxHeaderBytes ? std::string_view() : bytes(address + kHeaderPrefixBytes, size);
  }

  static bool is_group(std::string_view messages) {
    return !messages.empty() && static_cast<std::uint8_t>(messages.front()) == kLinkInfo;
  }

  bool read_group(std::uint64_t address, const std::string& prefix, int depth) {
    const std::string_view messages = read_header(address);
    if (depth > kMaxGroupDepth || !is_group(messages)) return false;
    const std::uint64_t end = address + kHeaderPrefixBytes + messages.size();
    Cursor info(messages);
    info.take(kMessagePrefixBytes + 2);
    const std::uint64_t heap = info.number(8);
    std::vector<Link> links;
    if (heap != kUndefined && !read_heap(heap, address, prefix, links)) return false;
    for (Link& link : links) {
      if (!read_object(link.header, std::move(link.name), depth)) return false;
    }
    behind_ = end;
    return true;
  }

  /// The links of the group at `group`. What was met before, what the group holds, the blocks of its links, the group:
  /// in this order they lie in the file. So no walk runs in circles, and no two groups share a block.
  bool read_heap(std::uint64_t address, std::uint64_t group, const std::string& prefix, std::vector<Link>& links) {
    Cursor fields(bytes(address, kHeapHeaderBytes));
    fields.take(54);
    const std::uint64_t allocated = fields.number(8);
    fields.take(50);
    const std::uint64_t block_bytes = fields.number(8);
    fields.take(12);
    const std::uint64_t indirect = fields.number(8);
    if (block_bytes < kMinBlockBytes || block_bytes > kMaxBlockBytes || allocated / block_bytes > kMaxTensors)
      return false;
    const std::string addresses(bytes(indirect + kHeapBlockPrefixBytes, allocated / block_bytes * 8));
    Cursor next(addresses);
    std::uint64_t first = kUndefined;  // block
    std::uint64_t behind = behind_;    // what was read last
    while (!next.is_at_end()) {
      const std::uint64_t block = next.number(8);
      if (block < behind) return false;
      Cursor objects(bytes(block, block_bytes));
      objects.take(kDirectPrefixBytes);
      if (objects.ran_out()) return false;
      first = std::min(first, block);
      behind = block + block_bytes;
      while (objects.number(1) == kLinkVersion) {
        const std::uint64_t flags = objects.number(1);
        objects.take(1);
        const std::uint64_t length = objects.number((flags & 1) + 1);
        std::string name = prefix;
        name += objects.take(length);
        const std::uint64_t header = objects.number(8);
        links_bytes_ += sizeof(Link) + name.size();
        if (header >= first || links_bytes_ > kMaxLinksBytes) return false;
        links.push_back({std::move(name), header});
      }
    }
    return !links.empty() && behind <= group;
  }

  bool read_object(std::uint64_t address, std::string name, int depth) {
    const std::string_view messages = read_header(address);
    if (arrays.size() + files.size() > kMaxTensors || messages.empty()) return false;
    if (is_group(messages)) return read_group(address, name + "/", depth + 1);
    const bool is_file = name.starts_with(kFilesPrefix);
    Entry entry;
    std::optional<DType> dtype;
    std::string digest;
    const bool is_whole = visit_messages(messages, [&](std::uint8_t type, std::string_view body) {
      if (type != kAttribute) return read_message(type, body, entry);
      const Attribute attribute = parse_attribute(body);
      if (attribute.name == kDTypeName) dtype = parse_dtype(text_of(attribute.value));
      if (attribute.name == kDigestName) digest = text_of(attribute.value);
    });
    if (is_file) dtype = DType::u8;
    if (!is_whole || !dtype) return false;
    entry.dtype = *dtype;
    auto shape = shape_of_stored(entry.dtype, std::move(entry.shape));
    if (!shape || entry.length < 0 || (is_file && entry.length > kMaxSideFileBytes)) return false;
    entry.shape = *std::move(shape);
    entry.name = is_file ? name.substr(kFilesPrefix.size()) : std::move(name);
    if (entry.length == 0) entry.offset = 0;
    behind_ = address + kHeaderPrefixBytes + messages.size();
    if (is_file) {
      files.push_back(std::move(entry));
    } else {
      arrays.push_back(std::move(entry));
      digests.push_back(std::move(digest));
    }
    return true;
  }

  static void read_message(std::uint8_t type, std::string_view body, Entry& entry) {
    Cursor fields(body);
    if (type == kDataspace) {
      fields.take(4);
      entry.shape.clear();  // the last message counts
      while (!fields.is_at_end()) entry.shape.push_back(static_cast<Index>(fields.number(8)));
    } else if (type == kLayout) {
      fields.take(2);
      entry.offset = static_cast<Index>(fields.number(8));
      entry.length = static_cast<Index>(fields.number(8));
    }
  }

  bool read_attributes(std::uint64_t address) {
    const std::string messages(read_header(address));  // long texts are read meanwhile
    const std::string long_text = encode_long_text_type();
    const bool is_whole = visit_messages(messages, [&](std::uint8_t type, std::string_view body) {
      if (type != kAttribute) return;
      const Attribute attribute = parse_attribute(body);
      attributes[std::string(attribute.name)] =
          attribute.type == long_text ? read_long_text(attribute.value) : text_of(attribute.value);
    });
    return is_whole && long_texts_bytes_ <= kMaxLongTextsBytes;
  }

  /// Any number of attributes may refer to the same bytes.
  std::string_view read_long_text(std::string_view reference) {
    constexpr std::size_t kTextBegin = 32;
    Cursor fields(reference);
    const std::uint64_t length = fields.number(4);
    const std::uint64_t heap = fields.number(8);
    long_texts_bytes_ += length;
    return long_texts_bytes_ > kMaxLongTextsBytes ? std::string_view() : bytes(heap + kTextBegin, length);
  }

  io::Source& source_;
  std::string window_;
  Index window_begin_ = 0;
  std::uint64_t behind_ = 0;  ///< of the last object
  std::size_t links_bytes_ = 0, long_texts_bytes_ = 0;
  std::optional<Error> error_;
};

FileSpec spec_of(const FileDirectory& directory) {
  FileSpec spec;
  spec.items.reserve(directory.entries.size());
  for (std::size_t i = 0; i < directory.entries.size(); ++i) {
    const Entry& entry = directory.entries[i];
    spec.items.push_back({entry.name, entry.dtype, entry.shape, static_cast<Index>(directory.item_digests[i].size())});
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
  directory.item_digests = std::move(guess.digests);
  sort_by_extent(directory);
  directory.metadata = std::move(guess.attributes);
  directory.metadata.erase(kCompleteName);
  Index data_begin = source.size();
  for (const auto* extents : {&directory.entries, &guess.files}) {
    for (const Entry& entry : *extents) {
      if (entry.offset < 0 || entry.length > source.size() || entry.offset > source.size() - entry.length)
        return other_form;
      if (entry.length > 0) data_begin = std::min(data_begin, entry.offset);
    }
  }
  RESHARD_CHECK(read_side_files(source, guess.files, directory));
  const auto archive = build_archive(spec_of(directory), &directory.item_digests, data_begin);
  std::optional<Error> error;
  const bool is_ours = archive && archive->size == source.size() && begins_with(source, archive->metadata, error);
  if (error) return *error;
  return is_ours ? std::optional(std::move(directory)) : other_form;
}

}  // namespace reshard::container::hdf5
