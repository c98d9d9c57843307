// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "reshard/container/container.h"
#include "tests/support/files.h"

namespace reshard::container {
namespace {

using namespace std::string_literals;

const Container& safetensors() { return *find("safetensors"); }

/// The header segment as it stands in the file.
std::string header_of(const FileSpec& spec) {
  auto image = safetensors().lay_out(spec);
  if (!image) return image.error().message;
  EXPECT_EQ(image->segments.size(), 1u);
  EXPECT_EQ(image->segments[0].offset, 0);
  return image->segments[0].bytes;
}

Expected<FileDirectory> read(const std::string& bytes) {
  test::MemorySource source(bytes);
  return safetensors().read_directory(source, "f.safetensors");
}

TEST(Safetensors, WritesTheReferenceLibrarysBytes) {
  FileSpec spec;
  EXPECT_EQ(header_of(spec), "\x08\0\0\0\0\0\0\0{}      "s);
  spec.metadata = {{"framework", "pt"}};
  EXPECT_EQ(header_of(spec), "\x28\0\0\0\0\0\0\0{\"__metadata__\":{\"framework\":\"pt\"}}     "s);
  spec.metadata.clear();
  spec.items = {{"attn.0", DType::f32, {1, 2, 3}}};
  EXPECT_EQ(header_of(spec),
            "\x40\0\0\0\0\0\0\0{\"attn.0\":{\"dtype\":\"F32\",\"shape\":[1,2,3],\"data_offsets\":[0,24]}}"s);
  EXPECT_EQ(safetensors().lay_out(spec)->size, 8 + 64 + 24);
  spec.items = {{"attn.0", DType::f4, {1, 2}}};
  EXPECT_EQ(header_of(spec),
            "\x40\0\0\0\0\0\0\0{\"attn.0\":{\"dtype\":\"F4\",\"shape\":[1,2],\"data_offsets\":[0,1]}}    "s);
  EXPECT_EQ(safetensors().lay_out(spec)->size, 8 + 64 + 1);
}

TEST(Safetensors, WritesEmptyMetadataWhereItIsWanted) {
  FileSpec spec;
  spec.items = {{"data", DType::bf16, {512}}};
  spec.write_empty_metadata = true;
  EXPECT_EQ(
      header_of(spec),
      "\x58\0\0\0\0\0\0\0{\"__metadata__\":{},\"data\":{\"dtype\":\"BF16\",\"shape\":[512],\"data_offsets\":[0,1024]}}       "s);
}

TEST(Safetensors, OrdersByDtypeThenName) {
  FileSpec spec;
  spec.items = {{"b", DType::bf16, {2}}, {"z", DType::f32, {1}},         {"a", DType::bf16, {1}},
                {"B", DType::bf16, {1}}, {"\xC3\xA9", DType::bf16, {1}}, {"t", DType::boolean, {3}},
                {"i", DType::i64, {}}};
  auto image = safetensors().lay_out(spec);
  ASSERT_TRUE(image) << image.error().message;
  const std::string bytes = image->segments[0].bytes;
  const auto begin = static_cast<Index>(bytes.size());
  // i (8), z (4), B (2), a (2), b (4), é (2), t (3)
  EXPECT_EQ(image->offsets,
            (std::vector<Index>{begin + 16, begin + 8, begin + 14, begin + 12, begin + 20, begin + 22, begin}));
  EXPECT_EQ(image->size, begin + 25);
  auto back = read(bytes + std::string(25, 'x'));
  ASSERT_TRUE(back) << back.error().message;
  ASSERT_EQ(back->entries.size(), 7u);
  EXPECT_EQ(back->entries[0].name, "i");
  EXPECT_EQ(back->entries[0].shape, Shape{});
  EXPECT_EQ(back->entries[6].name, "t");
  EXPECT_EQ(back->entries[6].offset, begin + 22);
  EXPECT_EQ(back->entries[6].length, 3);
  EXPECT_EQ(back->entries[5].name, "\xC3\xA9");
}

TEST(Safetensors, EscapesAsSerdeDoes) {
  FileSpec spec;
  spec.metadata = {{"k\"\\", "/\b\f\n\r\t\x01\x1f\x7f\xC3\xA9"}};
  const std::string header = header_of(spec);
  EXPECT_NE(header.find("{\"__metadata__\":{\"k\\\"\\\\\":\"/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xC3\xA9\"}}"),
            std::string::npos)
      << header;
  EXPECT_EQ(read(header)->metadata, spec.metadata);
}

TEST(Safetensors, RefusesToWriteWhatItWouldNotRead) {
  const auto error = [](FileSpec::Item item) {
    FileSpec spec;
    spec.items = {std::move(item)};
    auto image = safetensors().lay_out(spec);
    if (image) return "none"s;
    EXPECT_EQ(image.error().code, Code::usage);
    return image.error().message;
  };
  EXPECT_NE(error({"x", DType::f4, {3}}).find("whole bytes"), std::string::npos);
  EXPECT_NE(error({"x", DType::f32, {Index{1} << 40, Index{1} << 40}}).find("overflows"), std::string::npos);
  EXPECT_NE(error({"x", DType::f32, {-1}}).find("overflows"), std::string::npos);
  EXPECT_NE(error({"x", DType::u8, {INT64_MAX}}).find("overflows"), std::string::npos);
  EXPECT_NE(error({"x", DType::u8, Shape(33, 1)}).find("more than 32 dimensions"), std::string::npos);
  EXPECT_NE(error({"\xff", DType::u8, {1}}).find("invalid JSON"), std::string::npos);
  EXPECT_NE(error({"a\nb", DType::u8, {1}}).find("control character"), std::string::npos);
  EXPECT_NE(error({"__metadata__", DType::u8, {1}}), "none");
  FileSpec twice;
  twice.items = {{"x", DType::u8, {1}}, {"x", DType::u8, {1}}};
  EXPECT_NE(safetensors().lay_out(twice).error().message.find("duplicate key \"x\""), std::string::npos);
  FileSpec large;
  for (int i = 0; i < 8; ++i) large.items.push_back({std::to_string(i), DType::u8, {INT64_MAX / 8}});
  EXPECT_NE(safetensors().lay_out(large).error().message.find("too large"), std::string::npos);
  FileSpec files;
  files.files = {{"a", "b"}};
  EXPECT_FALSE(safetensors().lay_out(files));
}

TEST(Safetensors, ReadsEveryDtypeItWrites) {
  FileSpec spec;
  for (int i = 0; i < kNumDTypes; ++i) spec.items.push_back({fmt::format("t{}", i), static_cast<DType>(i), {4, 2}});
  spec.items.push_back({"empty", DType::f32, {0, 5}});
  spec.items.push_back({"empty too", DType::i8, {5, 0}});
  auto image = safetensors().lay_out(spec);
  ASSERT_TRUE(image) << image.error().message;
  test::MemorySource source(image->segments[0].bytes, image->size);
  auto back = safetensors().read_directory(source, "f");
  ASSERT_TRUE(back) << back.error().message;
  ASSERT_EQ(back->entries.size(), spec.items.size());
  for (const Entry& entry : back->entries) {
    const auto item =
        std::find_if(spec.items.begin(), spec.items.end(), [&](const auto& x) { return x.name == entry.name; });
    ASSERT_NE(item, spec.items.end());
    EXPECT_EQ(entry.dtype, item->dtype);
    EXPECT_EQ(entry.shape, item->shape);
    EXPECT_EQ(entry.offset, image->offsets[static_cast<std::size_t>(item - spec.items.begin())]);
  }
  EXPECT_TRUE(safetensors().finish(spec, *image, {})->empty());
}

/// Tensors of Llama-3-8B in module order, cut into files of 5 GB as transformers does.
std::vector<FileSpec> llama3_8b_files() {
  constexpr Index kEmbed = 4096, kFfn = 14336, kVocab = 128256, kKeys = 1024, kLimit = 5'000'000'000;
  std::vector<FileSpec::Item> items = {{"model.embed_tokens.weight", DType::bf16, {kVocab, kEmbed}}};
  for (int layer = 0; layer < 32; ++layer) {
    const auto add = [&](const char* name, Shape shape) {
      items.push_back({fmt::format("model.layers.{}.{}.weight", layer, name), DType::bf16, std::move(shape)});
    };
    add("self_attn.q_proj", {kEmbed, kEmbed});
    add("self_attn.k_proj", {kKeys, kEmbed});
    add("self_attn.v_proj", {kKeys, kEmbed});
    add("self_attn.o_proj", {kEmbed, kEmbed});
    add("mlp.gate_proj", {kFfn, kEmbed});
    add("mlp.up_proj", {kFfn, kEmbed});
    add("mlp.down_proj", {kEmbed, kFfn});
    add("input_layernorm", {kEmbed});
    add("post_attention_layernorm", {kEmbed});
  }
  items.push_back({"model.norm.weight", DType::bf16, {kEmbed}});
  items.push_back({"lm_head.weight", DType::bf16, {kVocab, kEmbed}});
  std::vector<FileSpec> files(1);
  Index bytes = 0;
  for (const auto& item : items) {
    const Index more = 2 * *num_elements(item.shape);
    if (bytes + more > kLimit) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += more;
    files.back().items.push_back(item);
  }
  for (FileSpec& file : files) file.metadata = {{"format", "pt"}};
  return files;
}

TEST(Safetensors, ReproducesThePublishedFilesOfLlama3) {
  const std::vector<Index> headers = {9512, 12120, 11656, 560};
  const std::vector<Index> sizes = {4976698672, 4999802720, 4915916176, 1168138808};
  const std::vector<std::size_t> counts = {82, 104, 100, 5};
  const auto files = llama3_8b_files();
  ASSERT_EQ(files.size(), 4u);
  for (std::size_t i = 0; i < files.size(); ++i) {
    EXPECT_EQ(files[i].items.size(), counts[i]);
    auto image = safetensors().lay_out(files[i]);
    ASSERT_TRUE(image);
    EXPECT_EQ(static_cast<Index>(image->segments[0].bytes.size()), 8 + headers[i]);
    EXPECT_EQ(image->size, sizes[i]);
  }
  EXPECT_EQ(header_of(files[0]).substr(0, 8), "\x28\x25\0\0\0\0\0\0"s);
}

TEST(Containers, AreFoundByName) {
  ASSERT_NE(find("safetensors"), nullptr);
  EXPECT_EQ(find("safetensors")->name(), "safetensors");
  ASSERT_NE(find("hdf5"), nullptr);
  EXPECT_EQ(find("hdf5")->name(), "hdf5");
  EXPECT_EQ(find("zip"), nullptr);
}

std::string described(std::string_view bytes) { return describe_foreign(std::as_bytes(std::span(bytes))); }

TEST(Containers, RecogniseForeignFiles) {
  using namespace std::string_view_literals;
  EXPECT_NE(described("version https://git-lfs.github.com/spec/v1\noid sha256:00").find("git lfs pull"),
            std::string::npos);
  EXPECT_NE(described("\n <!DOCTYPE HTML><html>").find("an HTML page"), std::string::npos);
  EXPECT_NE(described("<HTML>").find("an HTML page"), std::string::npos);
  EXPECT_NE(described("<?xml version=\"1.0\"?><Error>").find("XML"), std::string::npos);
  EXPECT_NE(described("\x1f\x8b\x08\0\0\0\0\0\0\0"sv).find("gzip"), std::string::npos);
  EXPECT_NE(described(std::string(257, 'a') + "ustar").find("tar archive"), std::string::npos);
  EXPECT_EQ(described("GGUF\x03\0\0\0"sv), "a GGUF file");
  EXPECT_EQ(described("PK\x03\x04"sv), "a zip archive (a torch checkpoint, perhaps)");
  EXPECT_EQ(described("\x89HDF\r\n\x1a\n"sv), "");
  EXPECT_NE(read("\x89HDF\r\n\x1a\n").error().message.find("expected a safetensors file, found an HDF5 file"),
            std::string::npos);
  EXPECT_EQ(described("\x80\x02}q\0."sv), "a Python pickle");
  EXPECT_NE(described("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e\x80"sv).find("before 1.6"),
            std::string::npos);
  EXPECT_EQ(described(""), "an empty file");
  EXPECT_NE(described(std::string(100, '\0')).find("zeros"), std::string::npos);
  EXPECT_EQ(described("{\"weight_map\":{}}"), "a JSON text");
  EXPECT_EQ(described("just some text"), "");
  // The length of a safetensors header may look like the magic of something else: 0x8b1f bytes are no gzip.
  EXPECT_EQ(described("\x1f\x8b\0\0\0\0\0\0{\"a\":"sv), "");
}

}  // namespace
}  // namespace reshard::container
