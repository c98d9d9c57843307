// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <functional>
#include <optional>

#include "reshard/container/container.h"
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

/// A group in our form, behind `bytes`, whose links "x" and "y" both lead to `below`, or which has none. The address.
std::uint64_t append_group(std::string& bytes, std::optional<std::uint64_t> below) {
  using hdf5::append_number;
  std::uint64_t heap = hdf5::kUndefined;
  if (below) {
    const std::uint64_t block = bytes.size();
    bytes.append(hdf5::kDirectPrefixBytes, '\0');
    for (const char name : {'x', 'y'}) {
      append_number(bytes, hdf5::kLinkVersion, 1);
      append_number(bytes, hdf5::kLinkFlags, 1);
      append_number(bytes, hdf5::kUtf8, 1);
      append_number(bytes, 1, 1);
      bytes += name;
      append_number(bytes, *below, 8);
    }
    bytes.resize(block + hdf5::kMinBlockBytes, '\0');
    const std::uint64_t indirect = bytes.size();
    bytes.append(hdf5::kHeapBlockPrefixBytes, '\0');
    append_number(bytes, block, 8);
    heap = bytes.size();
    bytes.append(hdf5::kHeapHeaderBytes, '\0');
    hdf5::put_number(bytes, heap + 54, hdf5::kMinBlockBytes, 8);   // allocated
    hdf5::put_number(bytes, heap + 112, hdf5::kMinBlockBytes, 8);  // of a block
    hdf5::put_number(bytes, heap + 132, indirect, 8);
  }
  const std::uint64_t header = bytes.size();
  bytes += "OHDR\2\2";
  append_number(bytes, hdf5::kMessagePrefixBytes + 18, 4);
  append_number(bytes, hdf5::kLinkInfo, 1);
  append_number(bytes, 18, 3);
  append_number(bytes, 0, 2);
  append_number(bytes, heap, 8);
  append_number(bytes, hdf5::kUndefined, 8);
  return header;
}

/// Two links to a group of two links to a group ...: billions of names, and not one array that would be counted.
TEST(HostileHdf5, C63_GroupsThatDoubleAtEveryLevel) {
  std::string bytes(hdf5::kSignature);
  bytes.resize(hdf5::kSuperblockBytes, '\0');
  std::uint64_t group = append_group(bytes, {});
  for (int depth = 0; depth < 32; ++depth) group = append_group(bytes, group);
  hdf5::put_number(bytes, 8, 2 | 8 << 8 | 8 << 16, 4);  // version, bytes of an offset and of a length
  hdf5::put_number(bytes, 36, group, 8);
  EXPECT_NE(verdict(bytes), "accepted");
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
