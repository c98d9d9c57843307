// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <functional>
#include <vector>

#include "reshard/container/container.h"
#include "src/app/process.h"
#include "src/container/child.h"
#include "src/container/hdf5_archive.h"
#include "src/container/hdf5_format.h"
#include "tests/support/files.h"
#include "tests/support/hdf5_files.h"

// Numbers are those of the list in README.md.

namespace reshard::container {
namespace {

using reshard::to_string;

Expected<FileDirectory> read(const std::string& bytes) {
  test::MemorySource source(bytes);
  return find("hdf5")->read_directory(source, "f.h5");
}

std::string verdict(const std::string& bytes) {
  const auto result = read(bytes);
  if (result) return "accepted";
  EXPECT_EQ(result.error().code, Code::input);
  EXPECT_EQ(result.error().message.find('\n'), std::string::npos) << result.error().message;
  EXPECT_EQ(result.error().message.rfind("f.h5: ", 0), 0u) << result.error().message;
  return result.error().message;
}

#define EXPECT_SAYS(bytes, text)                           \
  do {                                                     \
    const std::string said = verdict(bytes);               \
    EXPECT_NE(said.find(text), std::string::npos) << said; \
  } while (false)

std::string described(const FileDirectory& directory) {
  std::string text;
  for (std::size_t i = 0; i < directory.entries.size(); ++i) {
    const Entry& e = directory.entries[i];
    text += fmt::format("{} {} {} {} {} {}\n", e.name, to_string(e.dtype), fmt::join(e.shape, ","), e.offset, e.length,
                        directory.item_digests.at(i));
  }
  for (const auto* texts : {&directory.metadata, &directory.files}) {
    for (const auto& [key, value] : *texts) text += fmt::format("{}={}\n", key, value);
  }
  return text;
}

FileSpec small_spec() {
  FileSpec spec;
  spec.items = {{"a.weight", DType::bf16, {4, 8}, 8}, {"b.weight", DType::f32, {5}, 8}, {"c", DType::u8, {}, 0}};
  spec.metadata = {{"format", "reshard-hdf5"}, {"config", "{\"model_type\": \"llama\"}"}};
  spec.files = {{"config.json", "{}\n"}};
  return spec;
}

std::string archive(bool with_finish = true) {
  const test::TemporaryFolder folder;
  test::write_archive(small_spec(), {"rd1:0000", "rd1:1111", ""}, folder.path("a.h5"), with_finish);
  return test::file_bytes(folder.path("a.h5"));
}

void add_text(hid_t object, const char* name, const std::string& text) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, text.size());
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, type, text.data());
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

struct Dataset {
  const char* name = "x";
  std::vector<hsize_t> dims = {4};
  hid_t type = H5T_IEEE_F32LE;
  std::function<void(hid_t)> prepare = [](hid_t) {};  ///< of its creation properties
  const char* dtype = nullptr;
};

hid_t add_dataset(hid_t file, const Dataset& dataset) {
  const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
  dataset.prepare(create);
  const hid_t space = H5Screate_simple(static_cast<int>(dataset.dims.size()), dataset.dims.data(), nullptr);
  const hid_t id = H5Dcreate2(file, dataset.name, dataset.type, space, H5P_DEFAULT, create, H5P_DEFAULT);
  EXPECT_GE(id, 0);
  if (dataset.dtype) add_text(id, "dtype", dataset.dtype);
  H5Sclose(space);
  H5Pclose(create);
  return id;
}

/// A file that another program wrote; `body` fills it.
std::string foreign(const std::string& complete, const std::function<void(hid_t)>& body, hsize_t user_block = 0) {
  const test::TemporaryFolder folder;
  const hid_t create = H5Pcreate(H5P_FILE_CREATE);
  H5Pset_userblock(create, user_block);
  const hid_t file = H5Fcreate(folder.path("a.h5").c_str(), H5F_ACC_TRUNC, create, H5P_DEFAULT);
  if (!complete.empty()) add_text(file, "complete", complete);
  body(file);
  H5Fclose(file);
  H5Pclose(create);
  return test::file_bytes(folder.path("a.h5"));
}

std::string with(const Dataset& dataset) {
  return foreign("1", [&](hid_t file) { H5Dclose(add_dataset(file, dataset)); });
}

TEST(HostileHdf5, C63_PlainForeignFilesAreRead) {
  EXPECT_EQ(verdict(with({})), "accepted");
  EXPECT_EQ(verdict(with({"x", {2, 3}, H5T_STD_U8LE, [](hid_t) {}, "F8_E4M3"})), "accepted");
}

TEST(HostileHdf5, C63_NeverFinished) {
  EXPECT_SAYS(archive(false), "found a file of zeros");
  std::string torn = archive();
  torn.replace(0, 48, 48, '\0');
  EXPECT_SAYS(torn, "no HDF5 signature; the file was never finished");
}

TEST(HostileHdf5, C63_Incomplete) {
  EXPECT_SAYS(foreign("", [](hid_t file) { H5Dclose(add_dataset(file, {})); }),
              "it has no root attribute \"complete\"");
  EXPECT_SAYS(foreign("2", [](hid_t file) { H5Dclose(add_dataset(file, {})); }),
              "the archive is incomplete: 1 arrays, expected \"2\"");
}

TEST(HostileHdf5, C63_Truncated) {
  const std::string whole = archive();
  ASSERT_EQ(verdict(whole), "accepted");
  for (std::size_t n = 0; n < whole.size(); n += (n < 64 || n > whole.size() - 64) ? 1u : 37u) {
    EXPECT_NE(verdict(whole.substr(0, n)), "accepted") << n;
  }
  EXPECT_SAYS(whole.substr(0, whole.size() - 1), "truncated");
}

TEST(HostileHdf5, C63_FlippedBits) {
  const std::string whole = archive();
  const std::string meaning = described(*read(whole));
  int rejected = 0, same = 0;
  // Metadata, and the gap behind it.
  for (std::size_t n = 0; n < std::min<std::size_t>(whole.size(), 8192); n += n < 256 ? 1u : 3u) {
    std::string damaged = whole;
    damaged[n] = static_cast<char>(damaged[n] ^ (1 << n % 8));
    const auto result = read(damaged);
    if (!result) {
      ++rejected;
      continue;
    }
    ++same;
    // Side files are data; all else has checksums.
    FileDirectory undamaged = *result;
    if (described(undamaged) != meaning) {
      undamaged.files = read(whole)->files;
    }
    ASSERT_EQ(described(undamaged), meaning) << n;
  }
  EXPECT_GT(rejected, 300);
  EXPECT_GT(same, 100);
}

TEST(HostileHdf5, C63_DataThatLiesElsewhere) {
  const test::TemporaryFolder folder;
  test::put_file(folder.path("secret"), "0123456789abcdef");
  const std::string secret = folder.path("secret");
  EXPECT_SAYS(with({"x", {4}, H5T_IEEE_F32LE, [&](hid_t create) { H5Pset_external(create, secret.c_str(), 0, 16); }}),
              "object \"/x\": its data lies in another file (external storage)");
  EXPECT_SAYS(foreign("1",
                      [](hid_t file) {
                        const hsize_t n = 4;
                        const hid_t space = H5Screate_simple(1, &n, nullptr);
                        H5Dclose(add_dataset(file, {"x", {4}, H5T_IEEE_F32LE, [&](hid_t create) {
                                                      H5Pset_virtual(create, space, "other.h5", "y", space);
                                                    }}));
                        H5Sclose(space);
                      }),
              "object \"/x\": a virtual dataset");
  EXPECT_SAYS(
      foreign("0", [](hid_t file) { H5Lcreate_external("other.h5", "/y", file, "x", H5P_DEFAULT, H5P_DEFAULT); }),
      "object \"/x\": a soft or external link");
  EXPECT_SAYS(foreign("0", [](hid_t file) { H5Lcreate_soft("/y", file, "x", H5P_DEFAULT, H5P_DEFAULT); }),
              "object \"/x\": a soft or external link");
}

TEST(HostileHdf5, C63_DataThatIsNoExtent) {
  const auto chunked = [](hid_t create) {
    const hsize_t n = 2;
    H5Pset_chunk(create, 1, &n);
  };
  EXPECT_SAYS(with({"x", {4}, H5T_IEEE_F32LE, chunked}), "object \"/x\": a chunked or compact dataset");
  EXPECT_SAYS(with({"x", {4}, H5T_IEEE_F32LE, [](hid_t create) { H5Pset_layout(create, H5D_COMPACT); }}),
              "a chunked or compact dataset");
  EXPECT_SAYS(with({"x", {4}, H5T_IEEE_F32LE, [](hid_t create) { H5Pset_alloc_time(create, H5D_ALLOC_TIME_LATE); }}),
              "object \"/x\": its shape takes 16 bytes, but 0 are stored");
}

TEST(HostileHdf5, C63_TypesThatWouldBeConverted) {
  EXPECT_SAYS(with({"x", {4}, H5T_IEEE_F32BE}), "object \"/x\": its type is none that a tensor has");
  EXPECT_SAYS(with({"x", {4}, H5T_STD_REF_OBJ}), "its type is none that a tensor has");
  EXPECT_SAYS(with({"x", {4}, H5T_IEEE_F32LE, [](hid_t) {}, "BF16"}),
              "object \"/x\": its type in the file is not that of BF16");
  EXPECT_SAYS(with({"x", {4}, H5T_IEEE_F32BE, [](hid_t) {}, "F32"}), "its type in the file is not that of F32");
  EXPECT_SAYS(with({"x", {4}, H5T_STD_U8LE, [](hid_t) {}, "f32"}), "object \"/x\": unknown dtype \"f32\"");
  EXPECT_SAYS(foreign("1",
                      [](hid_t file) {
                        const hid_t text = H5Tcopy(H5T_C_S1);
                        H5Tset_size(text, H5T_VARIABLE);
                        H5Dclose(add_dataset(file, {"x", {4}, text}));
                        H5Tclose(text);
                      }),
              "its type is none that a tensor has");
  EXPECT_SAYS(foreign("1",
                      [](hid_t file) {
                        const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
                        H5Tcommit2(file, "type", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
                        H5Tclose(type);
                      }),
              "object \"/type\": neither a group nor a dataset");
}

TEST(HostileHdf5, C63_LoopsAndSecondNames) {
  EXPECT_SAYS(foreign("2",
                      [](hid_t file) {
                        H5Dclose(add_dataset(file, {}));
                        H5Lcreate_hard(file, "x", file, "y", H5P_DEFAULT, H5P_DEFAULT);
                      }),
              "object \"/x\": 2 hard links lead here");
  EXPECT_SAYS(foreign("0",
                      [](hid_t file) {
                        const hid_t group = H5Gcreate2(file, "g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
                        H5Lcreate_hard(file, "/", group, "up", H5P_DEFAULT, H5P_DEFAULT);
                        H5Gclose(group);
                      }),
              "hard links lead here");
  EXPECT_SAYS(foreign("0",
                      [](hid_t file) {
                        std::string path = "g";
                        for (int i = 0; i < 40; ++i) {
                          H5Gclose(H5Gcreate2(file, path.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
                          path += "/g";
                        }
                      }),
              "groups nested deeper than 32");
}

// Files in our form, but for their checksums, which the decoder does not look at. Structures are put behind what there
// is of a file; their addresses come back.

using hdf5::append_number;

/// The blocks of our largest heaps, and how many links without a name fit into one.
constexpr std::size_t kBlockBytes = hdf5::kMaxBlockBytes;
constexpr std::size_t kLinkBytes = 13;
constexpr std::size_t kLinksOfABlock = (kBlockBytes - hdf5::kDirectPrefixBytes) / kLinkBytes;

struct Link {
  std::string name;
  std::uint64_t header;  ///< where it leads
};

void append_message(std::string& messages, hdf5::Message type, std::string_view body) {
  append_number(messages, type, 1);
  append_number(messages, body.size(), 3);  // and no flags
  messages += body;
}

std::uint64_t append_header(std::string& bytes, std::string_view messages) {
  const std::uint64_t address = bytes.size();
  bytes += "OHDR\2\2";
  append_number(bytes, messages.size(), 4);
  bytes += messages;
  return address;
}

std::uint64_t append_block(std::string& bytes, const std::vector<Link>& links) {
  const std::uint64_t address = bytes.size();
  bytes.append(hdf5::kDirectPrefixBytes, '\0');
  for (const Link& link : links) {
    append_number(bytes, hdf5::kLinkVersion, 1);
    append_number(bytes, hdf5::kLinkFlags | 1, 1);  // two bytes of length
    append_number(bytes, hdf5::kUtf8, 1);
    append_number(bytes, link.name.size(), 2);
    bytes += link.name;
    append_number(bytes, link.header, 8);
  }
  EXPECT_LE(bytes.size(), address + kBlockBytes);
  bytes.resize(address + kBlockBytes, '\0');
  return address;
}

/// A group whose links lie in `blocks`; its header holds `messages` too.
std::uint64_t append_group(std::string& bytes, const std::vector<std::uint64_t>& blocks,
                           std::string_view messages = {}) {
  std::uint64_t heap = hdf5::kUndefined;
  if (!blocks.empty()) {
    const std::uint64_t indirect = bytes.size();
    bytes.append(hdf5::kHeapBlockPrefixBytes, '\0');
    for (const std::uint64_t block : blocks) append_number(bytes, block, 8);
    heap = bytes.size();
    bytes.append(hdf5::kHeapHeaderBytes, '\0');
    hdf5::put_number(bytes, heap + 54, blocks.size() * kBlockBytes, 8);  // allocated
    hdf5::put_number(bytes, heap + 112, kBlockBytes, 8);
    hdf5::put_number(bytes, heap + 132, indirect, 8);
  }
  std::string info;
  append_number(info, 0, 2);
  append_number(info, heap, 8);
  append_number(info, hdf5::kUndefined, 8);
  std::string all;
  append_message(all, hdf5::kLinkInfo, info);
  all += messages;
  return append_header(bytes, all);
}

/// A file without its superblock, which put_superblock gives it.
std::string begin_file() { return std::string(hdf5::kSuperblockBytes, '\0'); }

void put_superblock(std::string& bytes, std::uint64_t root) {
  bytes.replace(0, hdf5::kSignature.size(), hdf5::kSignature);
  hdf5::put_number(bytes, 8, 2 | 8 << 8 | 8 << 16, 4);  // version, bytes of an offset and of a length
  hdf5::put_number(bytes, 36, root, 8);
}

/// Two links to a group of two links to a group ...: billions of names, and not one array that would be counted.
TEST(HostileHdf5, C63_GroupsThatDoubleAtEveryLevel) {
  std::string bytes = begin_file();
  std::uint64_t group = append_group(bytes, {});
  for (int depth = 0; depth < 32; ++depth) {
    const std::uint64_t block = append_block(bytes, {{"x", group}, {"y", group}});
    group = append_group(bytes, {block});
  }
  put_superblock(bytes, group);
  EXPECT_NE(verdict(bytes), "accepted");
}

/// How much memory it takes to see that a file is not in our form. In a process of its own, which has bounds.
Index bytes_to_refuse(const std::string& file) {
  test::MemorySource source(file);
  const auto answer = run_in_child([&]() -> std::string {
    const Index before = app::peak_rss_bytes();
    const auto ours = hdf5::decode_archive(source);
    if (before == 0 || !ours || ours->has_value()) return "";
    return std::to_string(app::peak_rss_bytes() - before);
  });
  EXPECT_TRUE(answer) << answer.error().message;
  EXPECT_TRUE(answer && !answer->empty());
  return answer && !answer->empty() ? std::stoll(*answer) : -1;
}

/// 400 attributes with one text of 1 MiB.
TEST(HostileHdf5, C63_AttributesThatShareALongText) {
  std::string bytes = begin_file();
  const std::uint64_t heap = bytes.size();
  bytes.append(32 + kMiB, 't');
  std::string messages;
  for (int i = 0; i < 400; ++i) {
    const std::string name = std::to_string(i);
    const std::string type = hdf5::encode_long_text_type();
    std::string attribute("\3\0", 2);
    append_number(attribute, name.size() + 1, 2);
    append_number(attribute, type.size(), 2);
    append_number(attribute, 4, 2);  // bytes of the dataspace
    append_number(attribute, hdf5::kUtf8, 1);
    attribute += name + '\0' + type;
    append_number(attribute, 2, 4);
    append_number(attribute, kMiB, 4);
    append_number(attribute, heap, 8);
    append_number(attribute, 1, 4);
    append_message(messages, hdf5::kAttribute, attribute);
  }
  const std::uint64_t block = append_block(bytes, {{"nothing", 0}});
  put_superblock(bytes, append_group(bytes, {block}, messages));
  EXPECT_LT(bytes_to_refuse(bytes), 200 * kMiB);
}

/// 100,000 dataspaces of 255 dimensions, all of them behind the end of the message.
TEST(HostileHdf5, C63_DimensionsThatAreNotThere) {
  std::string bytes = begin_file();
  std::string messages;
  for (int i = 0; i < 100'000; ++i) append_message(messages, hdf5::kDataspace, "\2\xff");
  const std::uint64_t dataset = append_header(bytes, messages);
  const std::uint64_t block = append_block(bytes, {{"x", dataset}});
  put_superblock(bytes, append_group(bytes, {block}));
  EXPECT_LT(bytes_to_refuse(bytes), 64 * kMiB);
}

/// A heap that lists its only block 1000 times: five million links.
TEST(HostileHdf5, C63_ABlockThatIsListedAgainAndAgain) {
  std::string bytes = begin_file();
  const std::uint64_t block = append_block(bytes, std::vector<Link>(kLinksOfABlock, {"", 0}));
  put_superblock(bytes, append_group(bytes, std::vector<std::uint64_t>(1000, block)));
  EXPECT_LT(bytes_to_refuse(bytes), 64 * kMiB);
}

/// 33 groups inside one another, all with the links of the same 4 MiB: ten million.
TEST(HostileHdf5, C63_GroupsThatShareTheirLinks) {
  std::string bytes = begin_file();
  constexpr std::size_t kGroups = 33, kShared = 64;
  const std::uint64_t shared = bytes.size() + 2 * kGroups * kBlockBytes;  // behind the groups
  std::uint64_t group = 0;
  for (std::size_t i = 0; i < kGroups; ++i) {
    std::vector<std::uint64_t> blocks{append_block(bytes, {{"x", group}})};
    for (std::size_t k = 0; k < kShared; ++k) blocks.push_back(shared + k * kBlockBytes);
    group = append_group(bytes, blocks);
  }
  ASSERT_LE(bytes.size(), shared);
  bytes.resize(shared, '\0');
  for (std::size_t k = 0; k < kShared; ++k) append_block(bytes, std::vector<Link>(kLinksOfABlock, {"", 0}));
  put_superblock(bytes, group);
  EXPECT_LT(bytes_to_refuse(bytes), 100 * kMiB);
}

/// A group whose first link leads to itself; the others take 4 MiB.
TEST(HostileHdf5, C63_AGroupInsideItself) {
  constexpr std::size_t kHeaderOfALink = 6;  // behind a name of one byte
  std::string bytes = begin_file();
  std::vector<std::uint64_t> blocks{append_block(bytes, {{"x", 0}})};
  for (int i = 0; i < 64; ++i) blocks.push_back(append_block(bytes, std::vector<Link>(kLinksOfABlock, {"", 0})));
  const std::uint64_t root = append_group(bytes, blocks);
  hdf5::put_number(bytes, blocks.front() + hdf5::kDirectPrefixBytes + kHeaderOfALink, root, 8);
  put_superblock(bytes, root);
  EXPECT_LT(bytes_to_refuse(bytes), 100 * kMiB);
}

/// Tells whether a byte is read.
class WatchedSource : public test::MemorySource {
 public:
  WatchedSource(std::string bytes, std::uint64_t byte)
      : MemorySource(std::move(bytes)), byte_(static_cast<Index>(byte)) {}
  Status read_at(std::span<std::byte> into, Index offset) override {
    is_read_ = is_read_ || (offset <= byte_ && byte_ - offset < static_cast<Index>(into.size()));
    return MemorySource::read_at(into, offset);
  }
  bool is_read() const { return is_read_; }

 private:
  Index byte_;
  bool is_read_ = false;
};

/// Groups, one after the other, below a name of 4000 bytes that each of their links repeats: 20 MB of names in each.
bool are_names_read_to_the_end(int num_groups) {
  std::string bytes = begin_file();
  std::vector<Link> groups;
  std::uint64_t last = 0;
  for (int i = 0; i < num_groups; ++i) {
    std::vector<Link> links;
    for (std::size_t k = 0; k < kLinksOfABlock; ++k) links.push_back({"", append_group(bytes, {})});
    last = links.back().header;
    const std::uint64_t block = append_block(bytes, links);
    groups.push_back({std::to_string(i), append_group(bytes, {block})});
  }
  const std::uint64_t block = append_block(bytes, groups);
  const std::uint64_t below = append_group(bytes, {block});
  const std::uint64_t top = append_block(bytes, {{std::string(4000, 'n'), below}});
  put_superblock(bytes, append_group(bytes, {top}));
  WatchedSource source(std::move(bytes), last);
  const auto ours = hdf5::decode_archive(source);
  EXPECT_TRUE(ours && !ours->has_value());
  return source.is_read();
}

TEST(HostileHdf5, C63_NamesOfGigabytes) {
  EXPECT_TRUE(are_names_read_to_the_end(20));
  EXPECT_FALSE(are_names_read_to_the_end(60));
}

TEST(HostileHdf5, C63_SideFilesThatLeadElsewhere) {
  for (const char* name : {"files/..", "files/a\nb"}) {
    EXPECT_SAYS(foreign("0",
                        [&](hid_t file) {
                          H5Gclose(H5Gcreate2(file, "files", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
                          H5Dclose(add_dataset(file, {name, {4}, H5T_STD_U8LE}));
                        }),
                "in the name");
  }
}

TEST(HostileHdf5, C63_UserBlock) {
  const std::string bytes = foreign(
      "1", [](hid_t file) { H5Dclose(add_dataset(file, {})); }, 512);
  EXPECT_NE(verdict(bytes), "accepted");
}

TEST(HostileHdf5, C63_ReadErrors) {
  class Failing : public test::MemorySource {
   public:
    using MemorySource::MemorySource;
    Status read_at(std::span<std::byte> into, Index offset) override {
      if (offset > 100) return input_error("f.h5: cannot read: Input/output error");
      return MemorySource::read_at(into.first(std::min<std::size_t>(into.size(), 100)), offset);
    }
  };
  Failing source(archive());
  const auto result = find("hdf5")->read_directory(source, "f.h5");
  ASSERT_FALSE(result);
}

}  // namespace
}  // namespace reshard::container
