// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <tuple>

#include "hdf5_archive.h"
#include "hdf5_format.h"
#include "reshard/io/json.h"

namespace reshard::container::hdf5 {
namespace {

constexpr Index kAlignedFrom = 64 * kKiB;  // smaller arrays are packed: aligning them would waste more than it saves
constexpr Index kSmallAlignment = 8;
constexpr Index kMaxDataBytes = std::numeric_limits<Index>::max() / 2;
constexpr std::size_t kMaxPartBytes = kMaxHeapObjectBytes - 16;

/// A dataset to be: an item, or a side file. Names and digests of items are the caller's, names of side files those in
/// Content::file_names.
struct Dataset {
  std::string_view name;
  DType dtype = DType::u8;
  Shape shape;  ///< as stored
  Index length = 0;
  bool is_item = false;
  std::size_t digest_bytes = 0;
  std::string_view digest = {};  ///< empty in place of one that is not known yet
  Index place = 0;               ///< bytes behind the beginning of the data
};

struct Link {
  std::string_view name;  ///< without the groups above
  std::size_t dataset = 0;
  std::uint64_t header = 0;  ///< where it leads
  std::uint32_t hash = 0;
  std::uint64_t place = 0;  ///< in the heap
};

/// A folder of names: what lies behind a name is a dataset or a group below.
struct Group {
  std::vector<Link> datasets;
  std::map<std::string, Group, std::less<>> groups;
};

Error name_error(std::string_view name, const std::string& why) {
  return usage_error(fmt::format("{}: {}", io::in_quotes(name), why));
}

/// Begins a message; end_message says how long it is, once its body follows.
std::size_t begin_message(std::string& bytes, Message type) {
  append_number(bytes, type, kMessagePrefixBytes);  // with room for the length, and no flags
  return bytes.size();
}

void end_message(std::string& bytes, std::size_t begin) {
  put_number(bytes, begin - kMessagePrefixBytes + 1, bytes.size() - begin, 2);
}

void append_space(std::string& bytes, const Shape& shape) {
  constexpr std::uint8_t kVersion = 2, kScalar = 0, kSimple = 1;
  append_number(bytes, kVersion, 1);
  append_number(bytes, shape.size(), 1);
  append_number(bytes, 0, 1);
  append_number(bytes, shape.empty() ? kScalar : kSimple, 1);
  for (const Index size : shape) append_number(bytes, static_cast<std::uint64_t>(size), 8);
}

/// All but the value.
std::size_t begin_attribute(std::string& bytes, std::string_view name, std::string_view type) {
  constexpr std::uint8_t kVersion = 3;
  constexpr std::size_t kSpaceBytes = 4;
  const std::size_t begin = begin_message(bytes, kAttribute);
  append_number(bytes, kVersion, 1);
  append_number(bytes, 0, 1);
  append_number(bytes, name.size() + 1, 2);
  append_number(bytes, type.size(), 2);
  append_number(bytes, kSpaceBytes, 2);
  append_number(bytes, kUtf8, 1);
  bytes += name;
  bytes += '\0';
  bytes += type;
  append_space(bytes, {});
  return begin;
}

/// A text, filled up with blanks to `num_bytes`.
void append_text_attribute(std::string& bytes, std::string_view name, std::string_view text, std::size_t num_bytes) {
  const std::size_t begin = begin_attribute(bytes, name, encode_text_type(num_bytes + 1));
  bytes += text;
  bytes.append(num_bytes - text.size(), ' ');
  bytes += '\0';
  end_message(bytes, begin);
}

/// Splits a dataset's name at its slashes into groups below `root` and enters the last part.
Status enter(Group& root, std::string_view name, std::size_t dataset) {
  if (const std::string why = check_path(name); !why.empty()) return name_error(name, why);
  if (name.size() > kMaxPartBytes)
    return name_error(name.substr(0, 100), fmt::format("a name of more than {} bytes", kMaxPartBytes));
  Group* group = &root;
  std::size_t begin = 0;
  int depth = 0;
  for (auto slash = name.find('/'); slash != std::string_view::npos; begin = slash + 1, slash = name.find('/', begin)) {
    if (++depth > kMaxGroupDepth)
      return name_error(name, fmt::format("more than {} slashes in the name", kMaxGroupDepth));
    const auto part = name.substr(begin, slash - begin);
    auto below = group->groups.find(part);
    if (below == group->groups.end()) below = group->groups.try_emplace(std::string(part)).first;
    group = &below->second;
  }
  group->datasets.push_back({name.substr(begin), dataset});
  return {};
}

/// Puts the names of all groups in order.
Status sort_names(Group& group, const std::vector<Dataset>& datasets) {
  auto& names = group.datasets;
  std::sort(names.begin(), names.end(), [](const Link& a, const Link& b) { return a.name < b.name; });
  for (std::size_t i = 0; i < names.size(); ++i) {
    if ((i > 0 && names[i].name == names[i - 1].name) || group.groups.contains(names[i].name)) {
      return name_error(datasets[names[i].dataset].name,
                        "is there twice, or is a part of another name, which HDF5 cannot hold");
    }
  }
  for (auto& [name, below] : group.groups) RESHARD_CHECK(sort_names(below, datasets));
  return {};
}

/// Encodes the metadata, one structure behind the other from byte 0 on. Sizes do not depend on addresses, so that a
/// first run says where the data begin.
class Encoder {
 public:
  Encoder(const std::vector<Dataset>& datasets, Index data_begin) : datasets_(datasets), data_begin_(data_begin) {
    for (int i = 0; i < kNumDTypes; ++i) types_[static_cast<std::size_t>(i)] = encode_type(static_cast<DType>(i));
  }

  std::string encode(const Group& root, const std::map<std::string, std::string>& attributes, Index data_bytes) {
    constexpr std::size_t kTypicalBytes = 512;  // of an item's structures
    out_.reserve(kSuperblockBytes + datasets_.size() * kTypicalBytes);
    out_.assign(kSuperblockBytes, '\0');
    std::string messages;
    for (const auto& [name, text] : attributes) {
      if (text.size() <= kMaxShortText) {
        append_text_attribute(messages, name, text, text.size());
      } else {
        append_long_attribute(messages, name, text);
      }
    }
    const std::uint64_t header = encode_group(root, messages);
    std::string superblock(kSignature);
    append_number(superblock, 2, 1);
    append_number(superblock, 8, 1);  // bytes of an offset
    append_number(superblock, 8, 1);  // bytes of a length
    append_number(superblock, 0, 1);
    append_number(superblock, 0, 8);  // base address
    append_number(superblock, kUndefined, 8);
    append_number(superblock, address_of_data(data_bytes), 8);  // end of the file
    append_number(superblock, header, 8);
    append_checksum(superblock, 0);
    out_.replace(0, superblock.size(), superblock);
    return std::move(out_);
  }

 private:
  std::uint64_t append(std::string_view bytes) {
    const std::uint64_t address = out_.size();
    out_ += bytes;
    return address;
  }

  std::uint64_t address_of_data(Index place) const {
    return static_cast<std::uint64_t>(data_begin_) + static_cast<std::uint64_t>(place);
  }

  std::uint64_t begin_header() {
    const std::uint64_t address = append("OHDR");
    append_number(out_, kHeaderVersion, 1);
    append_number(out_, kHeaderFlags, 1);
    append_number(out_, 0, 4);  // bytes of the messages
    return address;
  }

  void end_header(std::uint64_t address) {
    const std::size_t messages = address + kHeaderPrefixBytes;
    put_number(out_, messages - 4, out_.size() - messages, 4);
    append_checksum(out_, address);
  }

  /// The message refers to the text, which comes in a collection of its own in the global heap.
  void append_long_attribute(std::string& messages, const std::string& name, const std::string& text) {
    constexpr std::size_t kPrefix = 16, kObjectPrefix = 16, kFirst = 1;
    const std::size_t padded = (text.size() + 7) / 8 * 8;
    const std::uint64_t heap = append("GCOL");
    append_number(out_, 1, 4);  // version
    append_number(out_, kPrefix + kObjectPrefix + padded, 8);
    append_number(out_, kFirst, 2);
    append_number(out_, 1, 2);  // references
    append_number(out_, 0, 4);
    append_number(out_, text.size(), 8);
    out_ += text;
    out_.resize(heap + kPrefix + kObjectPrefix + padded, '\0');
    const std::size_t begin = begin_attribute(messages, name, encode_long_text_type());
    append_number(messages, text.size(), 4);
    append_number(messages, heap, 8);
    append_number(messages, kFirst, 4);
    end_message(messages, begin);
  }

  std::uint64_t encode_dataset(const Dataset& dataset) {
    constexpr std::uint8_t kEarlyNever = 1 | 1 << 2;  // space is allocated, nothing is filled in
    constexpr std::uint8_t kContiguous = 1;
    const std::uint64_t header = begin_header();
    std::size_t begin = begin_message(out_, kDataspace);
    append_space(out_, dataset.shape);
    end_message(out_, begin);
    begin = begin_message(out_, kDatatype);
    out_ += types_[static_cast<std::size_t>(dataset.dtype)];
    end_message(out_, begin);
    begin = begin_message(out_, kFillValue);
    append_number(out_, 3, 1);
    append_number(out_, kEarlyNever, 1);
    end_message(out_, begin);
    begin = begin_message(out_, kLayout);
    append_number(out_, 3, 1);
    append_number(out_, kContiguous, 1);
    append_number(out_, dataset.length == 0 ? kUndefined : address_of_data(dataset.place), 8);
    append_number(out_, static_cast<std::uint64_t>(dataset.length), 8);
    end_message(out_, begin);
    if (dataset.is_item) {
      const auto dtype = reshard::to_string(dataset.dtype);
      append_text_attribute(out_, kDTypeName, dtype, dtype.size());
    }
    if (dataset.digest_bytes > 0) append_text_attribute(out_, kDigestName, dataset.digest, dataset.digest_bytes);
    end_header(header);
    return header;
  }

  std::uint64_t encode_group(const Group& group, std::string_view attributes) {
    std::vector<Link> links;
    links.reserve(group.groups.size() + group.datasets.size());
    for (const auto& [name, below] : group.groups) links.push_back({name, 0, encode_group(below, "")});
    for (const Link& link : group.datasets) {
      links.push_back({link.name, link.dataset, encode_dataset(datasets_[link.dataset])});
    }
    for (Link& link : links) link.hash = checksum(link.name);
    const std::uint64_t heap = links.empty() ? kUndefined : encode_heap(links);
    const std::uint64_t tree = links.empty() ? kUndefined : encode_tree(links);

    const std::uint64_t header = begin_header();
    std::size_t begin = begin_message(out_, kLinkInfo);
    append_number(out_, 0, 2);
    append_number(out_, heap, 8);
    append_number(out_, tree, 8);
    end_message(out_, begin);
    begin = begin_message(out_, kGroupInfo);
    append_number(out_, 0, 2);
    end_message(out_, begin);
    out_ += attributes;
    end_header(header);
    return header;
  }

  static std::size_t length_bytes(const Link& link) { return link.name.size() < 256 ? 1 : 2; }
  static std::size_t object_bytes(const Link& link) { return 3 + length_bytes(link) + link.name.size() + 8; }

  /// Smallest power of two in which `fits` is true, or the largest block there is.
  template <class Fits>
  static std::size_t block_size(Fits&& fits) {
    std::size_t size = kMinBlockBytes;
    while (size < kMaxBlockBytes && !fits(size)) size *= 2;
    return size;
  }

  /// Packs the links into direct blocks and tells each its place.
  std::uint64_t encode_heap(std::vector<Link>& links) {
    std::size_t used = 0;
    for (const Link& link : links) used += object_bytes(link);
    const std::size_t block_bytes = block_size([&](std::size_t size) { return kDirectPrefixBytes + used <= size; });

    const std::uint64_t header = out_.size();
    out_.append(kHeapHeaderBytes, '\0');  // known when all else is written
    std::vector<std::uint64_t> blocks;
    const auto end_block = [&] {
      out_.resize(blocks.back() + block_bytes, '\0');
      const std::uint32_t sum = checksum(std::string_view(out_).substr(blocks.back()));  // with a checksum of 0
      put_number(out_, blocks.back() + kHeapBlockPrefixBytes, sum, kChecksumBytes);
    };
    for (Link& link : links) {
      if (blocks.empty() || out_.size() - blocks.back() + object_bytes(link) > block_bytes) {
        if (!blocks.empty()) end_block();
        const std::size_t place = blocks.size() * block_bytes;
        blocks.push_back(append(begin_block("FHDB", header, place)));
        append_number(out_, 0, kChecksumBytes);
      }
      link.place = (blocks.size() - 1) * block_bytes + (out_.size() - blocks.back());
      append_number(out_, kLinkVersion, 1);
      append_number(out_, kLinkFlags | (length_bytes(link) - 1), 1);
      append_number(out_, kUtf8, 1);
      append_number(out_, link.name.size(), length_bytes(link));
      out_ += link.name;
      append_number(out_, link.header, 8);
    }
    end_block();
    const std::size_t width = std::bit_ceil(blocks.size());
    std::string indirect = begin_block("FHIB", header, 0);
    for (const std::uint64_t block : blocks) append_number(indirect, block, 8);
    for (std::size_t i = blocks.size(); i < width; ++i) append_number(indirect, kUndefined, 8);
    append_checksum(indirect, 0);

    const std::size_t allocated = blocks.size() * block_bytes;
    std::string heap = "FRHP";
    append_number(heap, 0, 1);
    append_number(heap, kHeapIdBytes, 2);
    append_number(heap, 0, 2);  // filters
    append_number(heap, 2, 1);  // direct blocks have checksums
    append_number(heap, kMaxHeapObjectBytes, 4);
    append_number(heap, 0, 8);           // next id of a huge object
    append_number(heap, kUndefined, 8);  // tree of huge objects
    append_number(heap, allocated - blocks.size() * kDirectPrefixBytes - used, 8);
    append_number(heap, kUndefined, 8);  // manager of the free space
    append_number(heap, width * block_bytes, 8);
    append_number(heap, allocated, 8);
    append_number(heap, allocated, 8);  // where the next block would go
    append_number(heap, links.size(), 8);
    for (int i = 0; i < 4; ++i) append_number(heap, 0, 8);  // huge and tiny objects
    append_number(heap, width, 2);
    append_number(heap, block_bytes, 8);
    append_number(heap, block_bytes, 8);
    append_number(heap, 8 * kHeapOffsetBytes, 2);
    append_number(heap, 1, 2);
    append_number(heap, append(indirect), 8);
    append_number(heap, 1, 2);  // rows in the indirect block
    append_checksum(heap, 0);
    out_.replace(header, heap.size(), heap);
    return header;
  }

  static std::string begin_block(std::string_view signature, std::uint64_t header, std::size_t offset) {
    std::string block(signature);
    append_number(block, 0, 1);
    append_number(block, header, 8);
    append_number(block, offset, kHeapOffsetBytes);
    return block;
  }

  /// A leaf, or leaves of even size under a root that holds the records between them.
  std::uint64_t encode_tree(std::vector<Link>& links) {
    std::sort(links.begin(), links.end(),
              [](const Link& a, const Link& b) { return std::tie(a.hash, a.name) < std::tie(b.hash, b.name); });
    const std::size_t node_bytes = block_size([&](std::size_t size) { return links.size() <= max_leaf_records(size); });
    const std::size_t max_leaf = max_leaf_records(node_bytes);
    const std::size_t num_leaves = (links.size() + 1 + max_leaf) / (max_leaf + 1);
    const std::size_t in_leaves = links.size() - (num_leaves - 1);

    std::string records, children;
    std::uint64_t root = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < num_leaves; ++i) {
      const std::size_t num_records = in_leaves * (i + 1) / num_leaves - in_leaves * i / num_leaves;
      std::string leaf;
      for (std::size_t k = 0; k < num_records; ++k) append_record(leaf, links[at++]);
      root = append_node("BTLF", leaf, node_bytes);
      append_number(children, root, 8);
      append_number(children, num_records, 2);
      if (i + 1 < num_leaves) append_record(records, links[at++]);
    }
    if (num_leaves > 1) root = append_node("BTIN", records + children, node_bytes);

    std::string tree = "BTHD";
    append_number(tree, 0, 1);
    append_number(tree, kTreeOfLinks, 1);
    append_number(tree, node_bytes, 4);
    append_number(tree, kRecordBytes, 2);
    append_number(tree, num_leaves > 1 ? 1 : 0, 2);  // depth
    append_number(tree, 100, 1);                     // percent: split, merge
    append_number(tree, 40, 1);
    append_number(tree, root, 8);
    append_number(tree, num_leaves > 1 ? num_leaves - 1 : links.size(), 2);
    append_number(tree, links.size(), 8);
    append_checksum(tree, 0);
    return append(tree);
  }

  static void append_record(std::string& records, const Link& link) {
    append_number(records, link.hash, 4);
    append_number(records, 0, 1);
    append_number(records, link.place, kHeapOffsetBytes);
    append_number(records, object_bytes(link), kHeapLengthBytes);
  }

  std::uint64_t append_node(std::string_view signature, std::string_view content, std::size_t node_bytes) {
    std::string node(signature);
    append_number(node, 0, 1);
    append_number(node, kTreeOfLinks, 1);
    node += content;
    append_checksum(node, 0);
    node.resize(node_bytes, '\0');
    return append(node);
  }

  const std::vector<Dataset>& datasets_;
  Index data_begin_;
  std::array<std::string, kNumDTypes> types_;
  std::string out_;
};

/// What a FileSpec says, checked: datasets in the order of their data, and their names. May be moved but not copied:
/// the names of side files are views of its own.
struct Content {
  Content() = default;
  Content(Content&&) = default;

  std::vector<Dataset> datasets;
  std::vector<std::string> file_names;
  Group root;
  std::map<std::string, std::string> attributes;
  Index data_bytes = 0;
  std::size_t name_bytes = 0;

  Status add(Dataset dataset) {
    const std::string_view name = dataset.name;
    if (dataset.length > 0) {
      dataset.place = round_up(data_bytes, dataset.length >= kAlignedFrom ? io::kPage : kSmallAlignment);
      if (dataset.length > kMaxDataBytes - dataset.place) return name_error(name, "the file would be too large");
      data_bytes = dataset.place + dataset.length;
    }
    name_bytes += name.size();
    if (name_bytes > kMaxNamesBytes)
      return name_error(name, fmt::format("more than {} bytes of names", kMaxNamesBytes));
    datasets.push_back(std::move(dataset));
    return enter(root, name, datasets.size() - 1);
  }
};

Status add_item(const FileSpec::Item& item, std::string_view digest, Content& content) {
  const std::string_view name = item.name;
  if (name == kFilesName || name.starts_with(kFilesPrefix)) {
    return name_error(item.name, fmt::format("the name {} is the container's own", kFilesName));
  }
  std::string why;
  const auto bytes = array_bytes(item.dtype, item.shape, why);
  if (!bytes) return name_error(item.name, why);
  auto stored = stored_shape(item.dtype, item.shape);
  if (!stored || stored->size() > kMaxDims) {
    return name_error(item.name, fmt::format("HDF5 cannot hold {} of shape {}", reshard::to_string(item.dtype),
                                             to_string(item.shape)));
  }
  if (item.digest_bytes > static_cast<Index>(kMaxShortText)) return name_error(item.name, "its digest is too long");
  return content.add(
      {item.name, item.dtype, *std::move(stored), *bytes, true, static_cast<std::size_t>(item.digest_bytes), digest});
}

Expected<Content> check(const FileSpec& spec, const std::vector<std::string>* digests) {
  Content content;
  content.attributes = spec.metadata;
  for (const auto& [name, text] : content.attributes) {
    if (name == kCompleteName) return name_error(name, "the attribute is the container's own");
    if (name.empty() || name.size() > kMaxNameBytes || (name + text).find('\0') != std::string::npos ||
        text.size() > static_cast<std::size_t>(kMaxAttributeBytes)) {
      return name_error(name, "the attribute has no name, a NUL byte or too many bytes");
    }
  }
  content.attributes[kCompleteName] = std::to_string(spec.items.size());
  content.datasets.reserve(spec.items.size() + spec.files.size());
  for (std::size_t i = 0; i < spec.items.size(); ++i) {
    const FileSpec::Item& item = spec.items[i];
    const std::string_view digest = digests && i < digests->size() ? (*digests)[i] : std::string_view();
    if (digests && static_cast<Index>(digest.size()) != item.digest_bytes) {
      return name_error(item.name,
                        fmt::format("a digest of {} bytes was promised, {} came", item.digest_bytes, digest.size()));
    }
    RESHARD_CHECK(add_item(item, digest, content));
  }
  content.file_names.reserve(spec.files.size());  // others point into it
  for (const auto& [name, text] : spec.files) {
    const auto bytes = static_cast<Index>(text.size());
    if (bytes > kMaxSideFileBytes)
      return name_error(name, fmt::format("{} bytes, at most {} are carried", bytes, kMaxSideFileBytes));
    content.file_names.push_back(fmt::format("{}{}", kFilesPrefix, name));
    RESHARD_CHECK(content.add({content.file_names.back(), DType::u8, {bytes}, bytes}));
  }
  RESHARD_CHECK(sort_names(content.root, content.datasets));
  return content;
}

}  // namespace

Expected<Archive> build_archive(const FileSpec& spec, const std::vector<std::string>* digests, Index expected_begin) {
  if (spec.items.size() > kMaxTensors) return usage_error(fmt::format("more than {} arrays in a file", kMaxTensors));
  RESHARD_TRY(const Content content, check(spec, digests));
  const auto encode = [&](Index data_begin) {
    return Encoder(content.datasets, data_begin).encode(content.root, content.attributes, content.data_bytes);
  };
  Archive archive;
  archive.metadata = encode(expected_begin);
  const Index data_begin = round_up(static_cast<Index>(archive.metadata.size()), io::kPage);
  if (digests && data_begin != expected_begin) archive.metadata = encode(data_begin);
  archive.size = data_begin + content.data_bytes;
  auto dataset = content.datasets.begin();
  archive.offsets.reserve(spec.items.size());
  for (std::size_t i = 0; i < spec.items.size(); ++i, ++dataset) {
    archive.offsets.push_back(dataset->length > 0 ? data_begin + dataset->place : 0);
  }
  for (const auto& [name, text] : spec.files) {
    if (!text.empty()) archive.files.push_back({data_begin + dataset->place, text});
    ++dataset;
  }
  return archive;
}

}  // namespace reshard::container::hdf5
