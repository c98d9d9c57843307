// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <limits>
#include <set>

#include "reshard/base/hash.h"
#include "reshard/container/container.h"
#include "src/container/hdf5_archive.h"
#include "tests/support/files.h"
#include "tests/support/hdf5_files.h"

namespace reshard::container {
namespace {

using container::to_string;
using reshard::to_string;
using test::data_byte;
using test::write_archive;

const Container& hdf5() { return *find("hdf5"); }

FileSpec small_spec() {
  FileSpec spec;
  spec.items = {{"model.embed_tokens.weight", DType::bf16, {300, 128}, 20},
                {"model.layers.0.input_layernorm.weight", DType::f32, {128}, 20},
                {"scale", DType::f8_e4m3, {}, 0},
                {"group/inner/x", DType::i64, {3, 0, 2}, 20}};
  spec.metadata = {{"model_type", "llama"}, {"empty", ""}, {"text", "two\nlines, \xC3\xA9"}};
  spec.files = {{"config.json", "{}\n"}, {"tokenizer/vocab.json", std::string(70'000, 'v')}, {"empty.txt", ""}};
  return spec;
}

/// Texts that differ from item to item.
std::vector<std::string> digests_of(const FileSpec& spec, char fill) {
  std::vector<std::string> digests;
  for (const auto& item : spec.items) {
    std::string digest = fmt::format("{}{}", digests.size(), fill);
    digest.resize(static_cast<std::size_t>(item.digest_bytes), fill);
    digests.push_back(std::move(digest));
  }
  return digests;
}

Expected<FileDirectory> read(const std::string& path) {
  auto source = io::open_source(path, "", io::Follow::all, {});
  if (!source) return source.error();
  return hdf5().read_directory(**source, path);
}

TEST(Hdf5, ComesBackAsItWas) {
  const test::TemporaryFolder folder;
  const FileSpec spec = small_spec();
  const std::string path = folder.path("a.h5");
  const FileImage image = write_archive(spec, digests_of(spec, 'd'), path);
  auto back = read(path);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->metadata, spec.metadata);
  EXPECT_EQ(back->files, spec.files);
  ASSERT_EQ(back->entries.size(), spec.items.size());
  ASSERT_EQ(back->item_digests.size(), spec.items.size());
  for (std::size_t i = 0; i < spec.items.size(); ++i) {
    const auto entry = std::find_if(back->entries.begin(), back->entries.end(),
                                    [&](const Entry& e) { return e.name == spec.items[i].name; });
    ASSERT_NE(entry, back->entries.end());
    EXPECT_EQ(entry->dtype, spec.items[i].dtype);
    EXPECT_EQ(entry->shape, spec.items[i].shape);
    EXPECT_EQ(entry->offset, image.offsets[i]);
    EXPECT_EQ(entry->length, *num_elements(entry->shape) * bytes_of(entry->dtype));
    EXPECT_EQ(back->item_digests[static_cast<std::size_t>(entry - back->entries.begin())], digests_of(spec, 'd')[i]);
  }
}

TEST(Hdf5, ReadsBackThroughTheLibrary) {
  const test::TemporaryFolder folder;
  const FileSpec spec = small_spec();
  const std::string path = folder.path("a.h5");
  const FileImage image = write_archive(spec, digests_of(spec, 'd'), path);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hid_t dataset = H5Dopen2(file, "model.embed_tokens.weight", H5P_DEFAULT);
  const hid_t type = H5Dget_type(dataset);
  EXPECT_EQ(H5Tget_size(type), 2u);
  EXPECT_EQ(H5Tget_ebias(type), 127u);
  EXPECT_EQ(H5Tget_class(type), H5T_FLOAT);
  std::string bytes(300 * 128 * 2, '\0');
  ASSERT_GE(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), 0);
  for (std::size_t i = 0; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], data_byte(0, static_cast<Index>(i)));
  EXPECT_EQ(static_cast<Index>(H5Dget_offset(dataset)), image.offsets[0]);
  EXPECT_EQ(image.offsets[0] % 4096, 0) << "large arrays are aligned";
  H5Tclose(type);
  H5Dclose(dataset);
  H5Fclose(file);
}

TEST(Hdf5, EqualRunsGiveEqualBytes) {
  const test::TemporaryFolder folder;
  const FileSpec spec = small_spec();
  write_archive(spec, digests_of(spec, 'd'), folder.path("a.h5"));
  write_archive(spec, digests_of(spec, 'd'), folder.path("b.h5"));
  EXPECT_EQ(test::file_bytes(folder.path("a.h5")), test::file_bytes(folder.path("b.h5")));
}

TEST(Hdf5, SegmentsAndItemsAreDisjoint) {
  const FileSpec spec = small_spec();
  auto image = hdf5().lay_out(spec);
  ASSERT_TRUE(image);
  auto last = hdf5().finish(spec, *image, {digests_of(spec, 'd'), {}});
  ASSERT_TRUE(last) << last.error().message;
  std::vector<std::pair<Index, Index>> extents;
  for (const auto* segments : {&image->segments, &*last}) {
    for (const Segment& segment : *segments)
      extents.emplace_back(segment.offset, segment.offset + static_cast<Index>(segment.bytes.size()));
  }
  for (std::size_t i = 0; i < spec.items.size(); ++i) {
    const Index bytes = *num_elements(spec.items[i].shape) * bytes_of(spec.items[i].dtype);
    if (bytes > 0) extents.emplace_back(image->offsets[i], image->offsets[i] + bytes);
  }
  std::sort(extents.begin(), extents.end());
  for (std::size_t i = 1; i < extents.size(); ++i) EXPECT_LE(extents[i - 1].second, extents[i].first);
  EXPECT_LE(extents.back().second, image->size);
  // The superblock is what makes the file one, so it comes last, and comes whole.
  EXPECT_EQ(last->back().offset, 0);
  EXPECT_EQ(last->back().bytes.substr(0, 4), "\x89HDF");
  for (std::size_t i = 0; i + 1 < last->size(); ++i) EXPECT_GT((*last)[i].offset, 0);
  for (const Segment& segment : image->segments) EXPECT_GT(segment.offset, 0);
}

TEST(Hdf5, NothingDependsOnTheDigests) {
  const FileSpec spec = small_spec();
  auto image = hdf5().lay_out(spec);
  auto a = hdf5().finish(spec, *image, {digests_of(spec, 'a'), {}});
  auto b = hdf5().finish(spec, *image, {digests_of(spec, 'b'), {}});
  ASSERT_TRUE(a && b);
  ASSERT_EQ(a->size(), b->size());
  for (std::size_t i = 0; i < a->size(); ++i) {
    EXPECT_EQ((*a)[i].offset, (*b)[i].offset);
    EXPECT_EQ((*a)[i].bytes.size(), (*b)[i].bytes.size());
  }
  auto digests = digests_of(spec, 'a');
  digests[0] += "longer";
  EXPECT_FALSE(hdf5().finish(spec, *image, {digests, {}}));
  EXPECT_FALSE(hdf5().finish(spec, *image, {{}, {}}));
}

TEST(Hdf5, NothingDependsOnWhereTheDataAreExpected) {
  const FileSpec spec = small_spec();
  const auto digests = digests_of(spec, 'd');
  const auto image = hdf5().lay_out(spec);
  ASSERT_TRUE(image);
  const auto right = hdf5::build_archive(spec, &digests, image->offsets[0]);
  ASSERT_TRUE(right) << right.error().message;
  EXPECT_EQ(right->offsets, image->offsets);
  for (const Index expected : {Index{0}, image->offsets[0] + 1, image->size, std::numeric_limits<Index>::max()}) {
    const auto archive = hdf5::build_archive(spec, &digests, expected);
    ASSERT_TRUE(archive);
    EXPECT_EQ(archive->offsets, right->offsets) << expected;
    EXPECT_EQ(archive->size, right->size) << expected;
    EXPECT_TRUE(archive->metadata == right->metadata) << expected;
  }
}

/// Reading compares a file with what is written now: an encoder of other bytes would leave all older files to libhdf5.
TEST(Hdf5, BytesStayAsTheyAre) {
  // Groups, types of all classes, texts in the global heap, a heap of many blocks under a tree of two levels.
  FileSpec spec = small_spec();
  for (const DType dtype : {DType::c64, DType::f4, DType::boolean, DType::u32, DType::i16, DType::f16, DType::f64}) {
    spec.items.push_back({fmt::format("group/{}", to_string(dtype)), dtype, {3, 4}, 20});
  }
  for (int i = 0; i < 6000; ++i) {
    spec.items.push_back({fmt::format("many/layers.{}.weight", i), DType::u16, {i % 3, 5}, 10 * (i % 2)});
  }
  spec.metadata["long"] = std::string(70'001, 'l');
  const auto digests = digests_of(spec, 'd');
  const auto archive = hdf5::build_archive(spec, &digests, 0);
  ASSERT_TRUE(archive) << archive.error().message;
  Hasher hash;
  hash.bytes(archive->metadata);
  EXPECT_EQ(archive->metadata.size(), 1'303'295u);
  EXPECT_EQ(archive->size, 1'536'368);
  EXPECT_EQ(hash.value(), 0xe138f5ab8cadf5c3u);
}

TEST(Hdf5, HoldsEveryDtype) {
  const test::TemporaryFolder folder;
  FileSpec spec;
  for (int i = 0; i < kNumDTypes; ++i)
    spec.items.push_back({std::string(to_string(static_cast<DType>(i))), static_cast<DType>(i), {3, 8}});
  const std::string path = folder.path("a.h5");
  write_archive(spec, {}, path);
  auto back = read(path);
  ASSERT_TRUE(back) << back.error().message;
  ASSERT_EQ(back->entries.size(), spec.items.size());
  for (const Entry& entry : back->entries) {
    EXPECT_EQ(entry.name, to_string(entry.dtype));
    EXPECT_EQ(entry.shape, (Shape{3, 8}));
    EXPECT_EQ(entry.length, 24 * bits_of(entry.dtype) / 8);
  }
}

TEST(Hdf5, HoldsManyArraysAndLongAttributes) {
  const test::TemporaryFolder folder;
  FileSpec spec;
  for (int i = 0; i < 3000; ++i)
    spec.items.push_back(
        {fmt::format("model.layers.{}.mlp.experts.{}.weight", i / 60, i % 60), DType::f16, {i % 7, 64}, 38});
  for (int i = 0; i < 20; ++i)
    spec.metadata["key" + std::to_string(i)] = std::string(static_cast<std::size_t>(i * 7000), 'm');
  const std::string path = folder.path("a.h5");
  const FileImage image = write_archive(spec, digests_of(spec, 'd'), path);
  auto back = read(path);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->metadata, spec.metadata);
  EXPECT_EQ(back->entries.size(), spec.items.size());
  EXPECT_EQ(back->item_digests.size(), spec.items.size());
  std::map<std::string, Index> offsets;
  for (std::size_t i = 0; i < spec.items.size(); ++i) offsets[spec.items[i].name] = image.offsets[i];
  for (const Entry& entry : back->entries) EXPECT_EQ(entry.offset, offsets[entry.name]);
}

TEST(Hdf5, ManyLongAttributesAreLeftToTheLibrary) {
  const test::TemporaryFolder folder;
  FileSpec spec;
  spec.items = {{"a", DType::u8, {4}}};
  for (const char letter : {'a', 'b', 'c', 'd', 'e'})
    spec.metadata[std::string(1, letter)] = std::string(14 * kMiB, letter);
  const std::string path = folder.path("a.h5");
  write_archive(spec, {""}, path);
  auto source = io::open_source(path, "", io::Follow::all, {});
  auto ours = hdf5::decode_archive(**source);
  ASSERT_TRUE(ours);
  EXPECT_FALSE(ours->has_value());
  auto back = read(path);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_TRUE(back->metadata == spec.metadata);
}

TEST(Hdf5, FinishReplacesSideFilesOfTheSameLength) {
  const test::TemporaryFolder folder;
  FileSpec spec = small_spec();
  const std::string path = folder.path("a.h5");
  const FileImage image = write_archive(spec, digests_of(spec, 'd'), path);
  spec.files["config.json"] = "[]\n";
  auto last = hdf5().finish(spec, image, {digests_of(spec, 'd'), {}});
  ASSERT_TRUE(last);
  auto target = io::open_target(path, image.size, {});
  for (const Segment& segment : *last)
    ASSERT_TRUE((*target)->write_at(std::as_bytes(std::span(segment.bytes)), segment.offset));
  auto back = read(path);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->files, spec.files);
  spec.files["tokenizer/vocab.json"] += "more than was promised";
  EXPECT_FALSE(hdf5().finish(spec, image, {digests_of(spec, 'd'), {}}));
}

TEST(Hdf5, RefusesWhatItCannotHold) {
  const auto error = [](FileSpec spec) {
    auto image = hdf5().lay_out(spec);
    if (image) return std::string("none");
    EXPECT_EQ(image.error().code, Code::usage);
    return image.error().message;
  };
  const auto item_error = [&](FileSpec::Item item) {
    FileSpec spec;
    spec.items = {std::move(item)};
    return error(spec);
  };
  for (const char* name : {"", "a//b", "./a", "a/./b", "/a", "a/", "a\nb", "files", "files/x"}) {
    EXPECT_NE(item_error({name, DType::u8, {1}}), "none") << name;
  }
  EXPECT_NE(item_error({"\xff", DType::u8, {1}}), "none");
  EXPECT_NE(item_error({"x", DType::f4, {3}}).find("whole bytes"), std::string::npos);
  EXPECT_NE(item_error({"x", DType::f4, {2, 1}}).find("cannot hold F4 of shape [2, 1]"), std::string::npos);
  EXPECT_NE(item_error({"x", DType::u8, Shape(33, 1)}), "none");
  EXPECT_NE(item_error({"x", DType::u8, {Index{1} << 62, 4}}), "none");
  FileSpec spec;
  spec.items = {{"a", DType::u8, {1}}, {"a", DType::u8, {1}}};
  EXPECT_NE(error(spec), "none");
  spec.items = {{"a", DType::u8, {1}}, {"a/b", DType::u8, {1}}};
  EXPECT_NE(error(spec), "none");
  spec = {};
  spec.metadata = {{"complete", "1"}};
  EXPECT_NE(error(spec), "none");
  spec.metadata = {{"a", std::string("x\0y", 3)}};
  EXPECT_NE(error(spec), "none");
  spec = {};
  spec.files = {{"../x", ""}};
  EXPECT_NE(error(spec), "none");
}

/// Everything that a directory says.
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

TEST(Hdf5, TheLibraryReadsWhatWeRead) {
  const test::TemporaryFolder folder;
  FileSpec many = small_spec();
  // One name per form of heap and tree: single blocks, several blocks, two levels.
  for (const int n : {0, 1, 9, 45, 46, 400, 2000, 5956, 5957, 20'000}) {
    for (int i = static_cast<int>(many.items.size()) - 4; i < n; ++i) {
      many.items.push_back({fmt::format("model.layers.{}.weight", i), DType::u16, {i % 3, 5}, 10 * (i % 2)});
    }
    const std::string path = folder.path("a.h5");
    write_archive(many, digests_of(many, 'd'), path);
    auto source = io::open_source(path, "", io::Follow::all, {});
    auto ours = hdf5::decode_archive(**source);
    ASSERT_TRUE(ours);
    ASSERT_TRUE(ours->has_value()) << n;
    auto theirs = hdf5::read_with_library(**source, path);
    ASSERT_TRUE(theirs) << n << ": " << theirs.error().message;
    ASSERT_EQ(described(**ours), described(*theirs)) << n;
  }
}

TEST(Hdf5, ReadsArchivesThatOtherProgramsRewrote) {
  const test::TemporaryFolder folder;
  const FileSpec spec = small_spec();
  const std::string path = folder.path("a.h5");
  write_archive(spec, digests_of(spec, 'd'), path);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(file, "note", H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT);
  const int note = 5;
  ASSERT_GE(H5Awrite(attribute, H5T_NATIVE_INT, &note), 0);
  ASSERT_GE(H5Lmove(file, "scale", file, "other.name", H5P_DEFAULT, H5P_DEFAULT), 0);
  H5Aclose(attribute);
  H5Sclose(space);
  ASSERT_GE(H5Fclose(file), 0);
  auto back = read(path);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->metadata, spec.metadata);
  EXPECT_EQ(back->files, spec.files);
  EXPECT_EQ(back->entries.size(), spec.items.size());
  EXPECT_TRUE(
      std::any_of(back->entries.begin(), back->entries.end(), [](const Entry& e) { return e.name == "other.name"; }));
}

TEST(Hdf5, HoldsNothing) {
  const test::TemporaryFolder folder;
  write_archive({}, {}, folder.path("a.h5"));
  auto back = read(folder.path("a.h5"));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_TRUE(back->entries.empty());
}

}  // namespace
}  // namespace reshard::container
