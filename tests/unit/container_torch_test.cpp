// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "reshard/base/crc32.h"
#include "reshard/container/container.h"
#include "src/container/zip.h"
#include "tests/support/files.h"
#include "tests/support/paths.h"
#include "tests/support/processor_time.h"
#include "tests/support/says.h"

namespace reshard::container {
namespace {

using namespace std::string_literals;

const Container& torch() { return *find("torch"); }

std::string data_file(const std::string& name) {
  return test::file_bytes(test::source_dir() + "/tests/data/torch/" + name);
}

Expected<FileDirectory> read(const std::string& bytes) {
  test::MemorySource source(bytes);
  return torch().read_directory(source, "f.pth");
}

/// The values of a tensor, dense.
std::string values_of(const std::string& file, const Entry& entry) {
  const Index width = bytes_of(entry.dtype);
  std::vector<Index> strides = entry.strides;
  if (strides.empty()) {
    strides.resize(entry.shape.size());
    Index unit = 1;
    for (std::size_t d = strides.size(); d-- > 0; unit *= entry.shape[d]) strides[d] = unit;
  }
  std::string values;
  const Index elements = *num_elements(entry.shape);
  for (Index i = 0; i < elements; ++i) {
    Index at = 0, rest = i;
    for (std::size_t d = strides.size(); d-- > 0; rest /= entry.shape[d]) at += rest % entry.shape[d] * strides[d];
    values += file.substr(static_cast<std::size_t>(entry.offset + at * width), static_cast<std::size_t>(width));
  }
  return values;
}

/// Every tensor of a reference file, against what torch said its values are.
void expect_reference(const std::string& name) {
  SCOPED_TRACE(name);
  const std::string bytes = data_file(name + ".pth"), expected_bytes = data_file(name + ".safetensors");
  const auto directory = read(bytes);
  ASSERT_TRUE(directory) << directory.error().message;
  test::MemorySource expected_source(expected_bytes);
  const auto expected = find("safetensors")->read_directory(expected_source, name);
  ASSERT_TRUE(expected) << expected.error().message;
  std::map<std::string, const Entry*> found;
  for (const Entry& entry : directory->entries) found[entry.name] = &entry;
  EXPECT_EQ(found.size(), expected->entries.size());
  for (const Entry& wanted : expected->entries) {
    ASSERT_TRUE(found.contains(wanted.name)) << wanted.name;
    const Entry& entry = *found[wanted.name];
    EXPECT_EQ(entry.dtype, wanted.dtype) << wanted.name;
    EXPECT_EQ(entry.shape, wanted.shape) << wanted.name;
    EXPECT_EQ(values_of(bytes, entry), values_of(expected_bytes, wanted)) << wanted.name;
  }
  test::MemorySource source(bytes);
  EXPECT_TRUE(torch().check_headers(source, name));
  for (const FileDirectory::Check& check : directory->checks) {
    const auto run = bytes.substr(static_cast<std::size_t>(check.offset), static_cast<std::size_t>(check.length));
    EXPECT_EQ(crc32(0, std::as_bytes(std::span(run))), check.crc);
  }
}

TEST(Torch, ReadsWhatTorchWrote) {
  for (const char* name :
       {"dtypes", "legacy_plain", "many_keys", "no_crc", "stream", "training", "views_mix", "views_mix_legacy"}) {
    expect_reference(name);
  }
}

TEST(Torch, KeepsValuesBesideTensors) {
  const auto directory = read(data_file("training.pth"));
  ASSERT_TRUE(directory) << directory.error().message;
  EXPECT_EQ(directory->metadata.at("model_key"), "\"model\"");
  EXPECT_EQ(directory->metadata.at("epoch"), "3");
  EXPECT_EQ(directory->metadata.at("neg"), "-7");
  EXPECT_EQ(directory->metadata.at("lr"), "0.125");
  EXPECT_EQ(directory->metadata.at("flags.0"), "true");
  EXPECT_EQ(directory->metadata.at("flags.2"), "null");
  EXPECT_EQ(directory->metadata.at("args.name"), "\"caf\\u00e9\"");
  EXPECT_FALSE(directory->metadata.contains("big"));
}

TEST(Torch, SaysWhichBytesHaveACrc) {
  EXPECT_TRUE(read(data_file("no_crc.pth"))->checks.empty());
  EXPECT_TRUE(read(data_file("legacy_plain.pth"))->checks.empty());
  EXPECT_EQ(read(data_file("many_keys.pth"))->checks.size(), 130u);
}

/// A whole file of a spec whose values are zeros.
std::string zeros_file(const FileSpec& spec) {
  const auto image = torch().lay_out(spec);
  EXPECT_TRUE(image) << image.error().message;
  std::string bytes(static_cast<std::size_t>(image->size), '\0');
  const auto put = [&](const std::vector<Segment>& segments) {
    for (const Segment& segment : segments) {
      bytes.replace(static_cast<std::size_t>(segment.offset), segment.text().size(), segment.text());
    }
  };
  put(image->segments);
  DataSums sums;
  for (const Extent& extent : image->checked) {
    const std::string zeros(static_cast<std::size_t>(extent.length), '\0');
    sums.crcs.push_back(crc32(0, std::as_bytes(std::span(zeros))));
  }
  const auto last = torch().finish(spec, *image, sums);
  EXPECT_TRUE(last) << last.error().message;
  put(*last);
  return bytes;
}

TEST(Torch, WritesWhatItReads) {
  FileSpec spec;
  spec.root = "model";
  spec.items = {{"a", DType::bf16, {3, 4}},       {"b", DType::f32, {}},         {"c", DType::f8_e4m3, {5}},
                {"a.again", DType::bf16, {3, 4}}, {"empty", DType::i64, {0, 7}}, {"five", DType::u16, {1, 2, 1, 2, 1}}};
  spec.items[3].repeats = 0;
  const std::string file = zeros_file(spec);
  const auto image = torch().lay_out(spec);
  const auto directory = read(file);
  ASSERT_TRUE(directory) << directory.error().message;
  ASSERT_EQ(directory->entries.size(), spec.items.size());
  for (std::size_t i = 0; i < spec.items.size(); ++i) {
    EXPECT_EQ(image->offsets[i] % 64, 0);
    const auto entry = std::find_if(directory->entries.begin(), directory->entries.end(),
                                    [&](const Entry& e) { return e.name == spec.items[i].name; });
    ASSERT_NE(entry, directory->entries.end()) << spec.items[i].name;
    EXPECT_EQ(entry->offset, image->offsets[i]);
    EXPECT_EQ(entry->shape, spec.items[i].shape);
    EXPECT_EQ(entry->dtype, spec.items[i].dtype);
    EXPECT_TRUE(entry->strides.empty());
  }
  EXPECT_EQ(image->offsets[0], image->offsets[3]);
}

/// Says whether anything was read of some extents.
class WatchedSource : public test::MemorySource {
 public:
  WatchedSource(std::string bytes, std::vector<Extent> watched)
      : MemorySource(std::move(bytes)), watched_(std::move(watched)) {}
  Status read_at(std::span<std::byte> into, Index offset) override {
    const auto first = std::partition_point(watched_.begin(), watched_.end(),
                                            [&](const Extent& e) { return e.offset + e.length <= offset; });
    if (first != watched_.end() && first->offset < offset + std::ssize(into)) ++touched;
    bytes_read += std::ssize(into);
    return MemorySource::read_at(into, offset);
  }

  int touched = 0;
  Index bytes_read = 0;

 private:
  std::vector<Extent> watched_;
};

TEST(Torch, OpensManyTensorsWithoutTheirData) {
  constexpr int kTensors = 100'000;
  FileSpec spec;
  for (int i = 0; i < kTensors; ++i) {
    spec.items.push_back({fmt::format("layers.{}.experts.{}.weight", i / 100, i % 100), DType::bf16, {8, 16}});
  }
  const auto image = torch().lay_out(spec);
  ASSERT_TRUE(image) << image.error().message;
  std::vector<Extent> data;
  for (const Index offset : image->offsets) data.push_back({offset, 2 * 8 * 16});
  WatchedSource source(zeros_file(spec), data);
  std::size_t found = 0;
  EXPECT_LT(test::processor_seconds([&] {
              const auto directory = torch().read_directory(source, "f.pth");
              ASSERT_TRUE(directory) << directory.error().message;
              found = directory->entries.size();
            }),
            1.0);
  EXPECT_EQ(found, std::size_t{kTensors});
  EXPECT_EQ(source.touched, 0);
  EXPECT_LT(source.bytes_read, image->size - Index{kTensors} * 2 * 8 * 16);
}

TEST(Torch, WritesThePickleThatTorchWrites) {
  // many_keys.pth is a plain dictionary of 130 matrices: everything but data and CRCs must come out the same.
  const std::string theirs = data_file("many_keys.pth");
  FileSpec spec;
  spec.root = "many_keys";
  for (int i = 0; i < 130; ++i) spec.items.push_back({fmt::format("t{:03}", i), DType::bf16, {2, 3}});
  const auto image = torch().lay_out(spec);
  ASSERT_TRUE(image) << image.error().message;
  ASSERT_EQ(image->size, std::ssize(theirs));
  for (const Segment& segment : image->segments) {
    EXPECT_EQ(theirs.substr(static_cast<std::size_t>(segment.offset), segment.text().size()), segment.text())
        << "at byte " << segment.offset;
  }
  DataSums sums;
  for (const Extent& extent : image->checked) {
    const auto run = theirs.substr(static_cast<std::size_t>(extent.offset), static_cast<std::size_t>(extent.length));
    sums.crcs.push_back(crc32(0, std::as_bytes(std::span(run))));
  }
  const auto last = torch().finish(spec, *image, sums);
  ASSERT_TRUE(last) << last.error().message;
  // The serialization id is a hash of torch's own; so its CRC differs, in its descriptor and in the directory.
  std::size_t different = 0;
  for (const Segment& segment : *last) {
    const auto there = theirs.substr(static_cast<std::size_t>(segment.offset), segment.text().size());
    if (there != segment.text()) ++different;
  }
  EXPECT_EQ(different, 3u);
}

TEST(Torch, WritesTheDictionaryBelowAKey) {
  FileSpec spec;
  spec.under = "model";
  spec.metadata = {{"fs2", "true"}, {"lr", "-0.375"}, {"model_key", "\"model\""}, {"none", "null"}, {"step", "70000"}};
  spec.items = {{"w", DType::f32, {2}}};
  const auto directory = read(zeros_file(spec));
  ASSERT_TRUE(directory) << directory.error().message;
  ASSERT_EQ(directory->entries.size(), 1u);
  EXPECT_EQ(directory->entries[0].name, "model.w");
  EXPECT_EQ(directory->metadata, spec.metadata);
  for (const char* text : {"[1, 2]", "{}", "18446744073709551615", "no JSON"}) {
    spec.metadata["odd"] = text;
    const auto refused = torch().lay_out(spec);
    ASSERT_FALSE(refused) << text;
    EXPECT_SAYS(refused.error().message, "value 'odd': a torch file cannot hold " + std::string(text));
  }
}

// --- archives beyond 4 GiB, of which only what is no data is there

/// Zeros but for a few runs of bytes.
class SparseSource : public io::Source {
 public:
  explicit SparseSource(Index size) : size_(size) {}
  void put(Index offset, const std::string& bytes) { runs_[offset] = bytes; }
  Index size() const override { return size_; }
  Status read_at(std::span<std::byte> into, Index offset) override {
    const Index end = offset + std::ssize(into);
    EXPECT_LE(end, size_);
    std::fill(into.begin(), into.end(), std::byte{0});
    for (const auto& [begin, bytes] : runs_) {
      for (Index at = std::max(begin, offset); at < std::min(begin + std::ssize(bytes), end); ++at) {
        into[static_cast<std::size_t>(at - offset)] =
            static_cast<std::byte>(bytes[static_cast<std::size_t>(at - begin)]);
      }
    }
    return {};
  }

 private:
  Index size_;
  std::map<Index, std::string> runs_;
};

TEST(Zip, ReadsWhatItWritesBeyondThe32BitNumbers) {
  constexpr Index kFourGiB = Index{1} << 32;
  const std::vector<Index> sizes = {100, kFourGiB - 2, 0, kFourGiB - 1, 7, 5 * kFourGiB, 64, 0};
  std::vector<std::string> names;
  for (std::size_t i = 0; i < sizes.size(); ++i) names.push_back("archive/data/" + std::to_string(i));
  zip::Writer writer(names, sizes);
  SparseSource source(writer.size());
  for (std::size_t r = 0; r < sizes.size(); ++r) {
    const zip::Record& record = writer.records()[r];
    if (sizes[r] > 0) writer.set_crc(r, 0xdeadbe00 + static_cast<std::uint32_t>(r));
    source.put(record.header, writer.local_header(r));
    if (writer.descriptor_length(r) > 0) source.put(writer.descriptor_offset(r), writer.descriptor(r));
    EXPECT_EQ(record.offset % 64, 0);
    EXPECT_EQ(record.header + std::ssize(writer.local_header(r)), record.offset);
    EXPECT_EQ(std::ssize(writer.descriptor(r)), writer.descriptor_length(r));
    const bool is_big = sizes[r] >= kFourGiB - 1 || record.header >= kFourGiB - 1;
    EXPECT_EQ(writer.descriptor_length(r), sizes[r] == 0 ? 0 : is_big ? 24 : 16) << r;
  }
  const std::string end = writer.end();
  EXPECT_EQ(writer.end_offset() + std::ssize(end), writer.size());
  source.put(writer.end_offset(), end);
  for (const zip::Headers headers : {zip::Headers::odd, zip::Headers::all}) {
    const auto records = zip::read_directory(source, "f.pth", headers);
    ASSERT_TRUE(records) << records.error().message;
    ASSERT_EQ(records->size(), sizes.size());
    for (std::size_t r = 0; r < sizes.size(); ++r) {
      const zip::Record &found = (*records)[r], &written = writer.records()[r];
      EXPECT_EQ(found.name, names[r]);
      EXPECT_EQ(found.size, sizes[r]);
      EXPECT_EQ(found.header, written.header);
      EXPECT_EQ(found.offset, written.offset);
      EXPECT_EQ(found.crc, written.crc);
    }
  }
  // 64-bit numbers that are missing, and a size that the 32-bit number must not stand for.
  std::string cut = end;
  const std::size_t extra = cut.find("archive/data/5") + names[5].size();
  ASSERT_EQ(cut.substr(extra, 2), "\1\0"s);
  cut[extra] = 2;
  source.put(writer.end_offset(), cut);
  EXPECT_FALSE(zip::read_directory(source, "f.pth"));
}

TEST(Zip, CountsMoreEntriesThan16BitsHold) {
  constexpr std::size_t kEntries = 70'000;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kEntries; ++i) names.push_back("a/" + std::to_string(i));
  const zip::Writer writer(names, std::vector<Index>(kEntries, 0));
  std::string bytes;
  for (std::size_t r = 0; r < kEntries; ++r) bytes += writer.local_header(r);
  bytes += writer.end();
  test::MemorySource source(bytes);
  const auto records = zip::read_directory(source, "f.pth", zip::Headers::all);
  ASSERT_TRUE(records) << records.error().message;
  EXPECT_EQ(records->size(), kEntries);
}

}  // namespace
}  // namespace reshard::container
