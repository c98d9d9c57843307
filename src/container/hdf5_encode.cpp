// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "hdf5_archive.h"
#include "hdf5_format.h"
#include "reshard/io/json.h"

namespace reshard::container::hdf5 {
namespace {

constexpr Index kAlignedFrom = 64 * kKiB;  // smaller arrays are packed: aligning them would waste more than it saves
constexpr Index kSmallAlignment = 8;
constexpr Index kMaxDataBytes = std::numeric_limits<Index>::max() / 2;
constexpr std::size_t kMaxNamesBytes = 512 * kMiB;  // offsets in the heaps have 32 bits
constexpr std::size_t kMaxPartBytes = kMaxHeapObjectBytes - 16;

/// A dataset to be: an item, or a side file.
struct Dataset {
  DType dtype = DType::u8;
  Shape shape;  ///< as stored
  Index length = 0;
  Index place = 0;         ///< bytes behind the beginning of the data
  std::string attributes;  ///< messages
};

/// A folder of names: what lies behind a name is a dataset or a group below.
struct Group {
  std::map<std::string, std::size_t, std::less<>> datasets;
  std::map<std::string, Group, std::less<>> groups;
};

Error name_error(std::string_view name, const std::string& why) {
  return usage_error(fmt::format("{}: {}", io::in_quotes(name), why));
}

std::string encode_message(Message type, std::string_view body) {
  std::string message(1, static_cast<char>(type));
  append_number(message, body.size(), 2);
  message += '\0';
  message += body;
  return message;
}

std::string encode_space(const Shape& shape) {
  constexpr std::uint8_t kVersion = 2, kScalar = 0, kSimple = 1;
  std::string space;
  append_number(space, kVersion, 1);
  append_number(space, shape.size(), 1);
  append_number(space, 0, 1);
  append_number(space, shape.empty() ? kScalar : kSimple, 1);
  for (const Index size : shape) append_number(space, static_cast<std::uint64_t>(size), 8);
  return space;
}

std::string encode_attribute(const std::string& name, const std::string& type, std::string_view value) {
  constexpr std::uint8_t kVersion = 3;
  const std::string space = encode_space({});
  std::string body;
  append_number(body, kVersion, 1);
  append_number(body, 0, 1);
  append_number(body, name.size() + 1, 2);
  append_number(body, type.size(), 2);
  append_number(body, space.size(), 2);
  append_number(body, kUtf8, 1);
  body.append(name.c_str(), name.size() + 1);
  body += type;
  body += space;
  body += value;
  return encode_message(kAttribute, body);
}

std::string encode_text_attribute(const std::string& name, const std::string& text) {
  return encode_attribute(name, encode_text_type(text.size() + 1), {text.c_str(), text.size() + 1});
}

/// Splits `name` at its slashes into groups below `root` and enters the last part.
Status enter(Group& root, std::string_view name, std::size_t dataset) {
  if (const std::string why = check_path(name); !why.empty()) return name_error(name, why);
  if (name.size() > kMaxPartBytes)
    return name_error(name.substr(0, 100), fmt::format("a name of more than {} bytes", kMaxPartBytes));
  Group* group = &root;
  std::size_t begin = 0;
  int depth = 0;
  for (auto slash = name.find('/'); slash != std::string_view::npos; begin = slash + 1, slash = name.find('/', begin)) {
    const auto part = name.substr(begin, slash - begin);
    if (++depth > kMaxGroupDepth)
      return name_error(name, fmt::format("more than {} slashes in the name", kMaxGroupDepth));
    if (group->datasets.contains(part))
      return name_error(name, "a part of the name is an array itself, which HDF5 cannot hold");
    group = &group->groups[std::string(part)];
  }
  const std::string last(name.substr(begin));
  if (group->groups.contains(last) || !group->datasets.emplace(last, dataset).second) {
    return name_error(name, "is there twice, or is a part of another name, which HDF5 cannot hold");
  }
  return {};
}

/// Encodes the metadata, one structure behind the other from byte 0 on. Sizes do not depend on addresses, so that a
/// first run says where the data begin.
class Encoder {
 public:
  Encoder(const std::vector<Dataset>& datasets, Index data_begin) : datasets_(datasets), data_begin_(data_begin) {}

  std::string encode(const Group& root, const std::map<std::string, std::string>& attributes, Index file_size) {
    out_.reserve(static_cast<std::size_t>(data_begin_));
    out_.assign(kSuperblockBytes, '\0');
    std::string messages;
    for (const auto& [name, text] : attributes) {
      messages += text.size() <= kMaxShortText ? encode_text_attribute(name, text) : encode_long_attribute(name, text);
    }
    const std::uint64_t header = encode_group(root, messages);
    std::string superblock(kSignature);
    append_number(superblock, 2, 1);
    append_number(superblock, 8, 1);  // bytes of an offset
    append_number(superblock, 8, 1);  // bytes of a length
    append_number(superblock, 0, 1);
    append_number(superblock, 0, 8);  // base address
    append_number(superblock, kUndefined, 8);
    append_number(superblock, static_cast<std::uint64_t>(file_size), 8);
    append_number(superblock, header, 8);
    append_checksum(superblock, 0);
    out_.replace(0, superblock.size(), superblock);
    return std::move(out_);
  }

 private:
  struct Link {
    std::uint32_t hash;
    const std::string* name;
    std::string id;
  };

  std::uint64_t append(std::string_view bytes) {
    const std::uint64_t address = out_.size();
    out_ += bytes;
    return address;
  }

  /// Reserves the place of a structure that others point to before it can be written.
  std::uint64_t reserve(std::size_t num_bytes) {
    const std::uint64_t address = out_.size();
    out_.resize(out_.size() + num_bytes, '\0');
    return address;
  }

  std::uint64_t append_header(std::string_view messages) {
    std::string header = "OHDR";
    append_number(header, kHeaderVersion, 1);
    append_number(header, kHeaderFlags, 1);
    append_number(header, messages.size(), 4);
    header += messages;
    append_checksum(header, 0);
    return append(header);
  }

  /// A text in a collection of its own in the global heap.
  std::string encode_long_attribute(const std::string& name, const std::string& text) {
    constexpr std::size_t kPrefix = 16, kObjectPrefix = 16, kFirst = 1;
    const std::size_t padded = (text.size() + 7) / 8 * 8;
    std::string heap = "GCOL";
    append_number(heap, 1, 4);  // version
    append_number(heap, kPrefix + kObjectPrefix + padded, 8);
    append_number(heap, kFirst, 2);
    append_number(heap, 1, 2);  // references
    append_number(heap, 0, 4);
    append_number(heap, text.size(), 8);
    heap += text;
    heap.resize(kPrefix + kObjectPrefix + padded, '\0');
    std::string reference;
    append_number(reference, text.size(), 4);
    append_number(reference, append(heap), 8);
    append_number(reference, kFirst, 4);
    return encode_attribute(name, encode_long_text_type(), reference);
  }

  std::uint64_t encode_dataset(const Dataset& dataset) {
    constexpr std::uint8_t kEarlyNever = 1 | 1 << 2;  // space is allocated, nothing is filled in
    constexpr std::uint8_t kContiguous = 1;
    std::string messages = encode_message(kDataspace, encode_space(dataset.shape));
    messages += encode_message(kDatatype, encode_type(dataset.dtype));
    messages += encode_message(kFillValue, std::string{3, kEarlyNever});
    std::string layout{3, kContiguous};
    append_number(layout, dataset.length == 0 ? kUndefined : static_cast<std::uint64_t>(data_begin_ + dataset.place),
                  8);
    append_number(layout, static_cast<std::uint64_t>(dataset.length), 8);
    messages += encode_message(kLayout, layout);
    messages += dataset.attributes;
    return append_header(messages);
  }

  std::uint64_t encode_group(const Group& group, const std::string& attributes) {
    std::vector<Link> links;
    std::vector<std::string> objects;
    const auto add = [&](const std::string& name, std::uint64_t header) {
      std::string link;
      const std::size_t length_bytes = name.size() < 256 ? 1 : 2;
      append_number(link, kLinkVersion, 1);
      append_number(link, kLinkFlags | (length_bytes - 1), 1);
      append_number(link, kUtf8, 1);
      append_number(link, name.size(), length_bytes);
      link += name;
      append_number(link, header, 8);
      links.push_back({checksum(name), &name, {}});
      objects.push_back(std::move(link));
    };
    for (const auto& [name, below] : group.groups) add(name, encode_group(below, ""));
    for (const auto& [name, dataset] : group.datasets) add(name, encode_dataset(datasets_[dataset]));

    std::string info(2, '\0');
    append_number(info, links.empty() ? kUndefined : encode_heap(objects, links), 8);
    append_number(info, links.empty() ? kUndefined : encode_tree(links), 8);
    return append_header(encode_message(kLinkInfo, info) + encode_message(kGroupInfo, std::string(2, '\0')) +
                         attributes);
  }

  /// Smallest power of two in which `fits` is true, or the largest block there is.
  template <class Fits>
  static std::size_t block_size(Fits&& fits) {
    std::size_t size = kMinBlockBytes;
    while (size < kMaxBlockBytes && !fits(size)) size *= 2;
    return size;
  }

  /// Packs the objects into direct blocks and gives each link the id of its object.
  std::uint64_t encode_heap(const std::vector<std::string>& objects, std::vector<Link>& links) {
    std::size_t total = kDirectPrefixBytes;
    for (const auto& object : objects) total += object.size();
    const std::size_t block_bytes = block_size([&](std::size_t size) { return total <= size; });

    const std::uint64_t header = reserve(kHeapHeaderBytes);
    std::vector<std::string> blocks;
    std::size_t used = 0;
    for (std::size_t i = 0; i < objects.size(); ++i) {
      if (blocks.empty() || blocks.back().size() + objects[i].size() > block_bytes) {
        blocks.push_back(begin_block("FHDB", header, blocks.size() * block_bytes));
        blocks.back().resize(kDirectPrefixBytes, '\0');
      }
      std::string& id = links[i].id;
      append_number(id, 0, 1);
      append_number(id, (blocks.size() - 1) * block_bytes + blocks.back().size(), kHeapOffsetBytes);
      append_number(id, objects[i].size(), kHeapLengthBytes);
      blocks.back() += objects[i];
      used += objects[i].size();
    }
    const std::size_t width = std::bit_ceil(blocks.size());
    std::string indirect = begin_block("FHIB", header, 0);
    for (std::string& block : blocks) {
      block.resize(block_bytes, '\0');
      std::string sum;
      append_number(sum, checksum(block), kChecksumBytes);  // over the block with a checksum of 0
      block.replace(kHeapBlockPrefixBytes, sum.size(), sum);
      append_number(indirect, append(block), 8);
    }
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
    append_number(heap, objects.size(), 8);
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
              [](const Link& a, const Link& b) { return std::tie(a.hash, *a.name) < std::tie(b.hash, *b.name); });
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
    records += link.id;
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
  std::string out_;
};

/// What a FileSpec says, checked: datasets in the order of their data, and their names.
struct Content {
  std::vector<Dataset> datasets;
  Group root;
  std::map<std::string, std::string> attributes;
  Index data_bytes = 0;
  std::size_t name_bytes = 0;

  Status add(std::string_view name, Dataset dataset) {
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

/// The text to store with an item, or blanks of its length.
Expected<std::string> digest_text(const FileSpec::Item& item, const std::map<std::string, std::string>* digests) {
  std::string blanks(static_cast<std::size_t>(item.digest_bytes), ' ');
  if (!digests) return blanks;
  const auto found = digests->find(item.name);
  if (found != digests->end() && found->second.size() == blanks.size()) return found->second;
  const std::string came = found == digests->end() ? "none" : std::to_string(found->second.size());
  return name_error(item.name, fmt::format("a digest of {} bytes was promised, {} came", blanks.size(), came));
}

Status add_item(const FileSpec::Item& item, const std::map<std::string, std::string>* digests, Content& content) {
  if (item.name == kFilesName || item.name.starts_with(std::string(kFilesName) + "/")) {
    return name_error(item.name, fmt::format("the name {} is the container's own", kFilesName));
  }
  std::string why;
  const auto bytes = array_bytes(item.dtype, item.shape, why);
  if (!bytes) return name_error(item.name, why);
  const auto stored = stored_shape(item.dtype, item.shape);
  if (!stored || stored->size() > kMaxDims) {
    return name_error(item.name, fmt::format("HDF5 cannot hold {} of shape {}", reshard::to_string(item.dtype),
                                             to_string(item.shape)));
  }
  Dataset dataset{item.dtype, *stored, *bytes, 0,
                  encode_text_attribute(kDTypeName, std::string(reshard::to_string(item.dtype)))};
  if (item.digest_bytes > static_cast<Index>(kMaxShortText)) return name_error(item.name, "its digest is too long");
  if (item.digest_bytes > 0) {
    RESHARD_TRY(const std::string digest, digest_text(item, digests));
    dataset.attributes += encode_text_attribute(kDigestName, digest);
  }
  return content.add(item.name, std::move(dataset));
}

Expected<Content> check(const FileSpec& spec, const std::map<std::string, std::string>* digests) {
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
  for (const auto& item : spec.items) RESHARD_CHECK(add_item(item, digests, content));
  for (const auto& [name, text] : spec.files) {
    const auto bytes = static_cast<Index>(text.size());
    if (bytes > kMaxSideFileBytes)
      return name_error(name, fmt::format("{} bytes, at most {} are carried", bytes, kMaxSideFileBytes));
    RESHARD_CHECK(content.add(fmt::format("{}/{}", kFilesName, name), {DType::u8, {bytes}, bytes, 0, ""}));
  }
  return content;
}

}  // namespace

Expected<Archive> build_archive(const FileSpec& spec, const std::map<std::string, std::string>* digests) {
  if (spec.items.size() > kMaxTensors) return usage_error(fmt::format("more than {} arrays in a file", kMaxTensors));
  RESHARD_TRY(const Content content, check(spec, digests));
  const std::string sized = Encoder(content.datasets, 0).encode(content.root, content.attributes, 0);
  const Index data_begin = round_up(static_cast<Index>(sized.size()), io::kPage);
  Archive archive;
  archive.size = data_begin + content.data_bytes;
  if (digests)
    archive.metadata = Encoder(content.datasets, data_begin).encode(content.root, content.attributes, archive.size);
  auto dataset = content.datasets.begin();
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
