// SPDX-License-Identifier: Apache-2.0
#include "reshard/format/synthetic.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <set>

#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"

namespace reshard::format {
namespace {

constexpr const char* kModel =
    R"({"model_type": "qwen3_moe", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 21, "num_experts": 3,
  "num_experts_per_tok": 1, "moe_intermediate_size": 10, "dtype": "DTYPE"})";

Checkpoint open_model(const std::string& dtype, const std::string& family = "qwen3_moe") {
  const test::TemporaryFolder folder;
  std::string config = kModel;
  config.replace(config.find("DTYPE"), 5, dtype);
  config.replace(config.find("qwen3_moe"), 9, family);
  test::put_file(folder.path("config.json"), config);
  auto source = test::open("synthetic:" + folder.path("config.json"));
  EXPECT_TRUE(source) << source.error().message;
  return *std::move(source);
}

float from_bf16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

TEST(Synthetic, ValuesAreNormalSmallAndVaried) {
  std::set<std::uint16_t> seen;
  int negative = 0;
  for (Index i = 0; i < 4000; ++i) {
    const float value = from_bf16(synthetic_bf16("attn.q[layer=3]", i));
    EXPECT_GE(std::abs(value), 1.0f / 128);
    EXPECT_LT(std::abs(value), 2.0f);
    negative += value < 0 ? 1 : 0;
    seen.insert(synthetic_bf16("attn.q[layer=3]", i));
  }
  EXPECT_GT(seen.size(), 1500u);  // of 2048
  EXPECT_NEAR(negative, 2000, 200);
  int same = 0;
  for (Index i = 0; i < 1000; ++i) same += synthetic_bf16("a", i) == synthetic_bf16("b", i) ? 1 : 0;
  EXPECT_LT(same, 10);
}

// Every line of every layout has the values of the rule, whatever the order of its axes.
TEST(Synthetic, FillsAnyLayout) {
  const Checkpoint source = open_model("bfloat16");
  const layout::Canon& canon = *source.canon;
  const auto lines = test::line_values(source);
  for (Index line = 0; line < canon.num_lines(); ++line) {
    const std::string& values = lines[static_cast<std::size_t>(line)];
    for (Index i = 0; i < static_cast<Index>(values.size()) / 2; ++i) {
      std::uint16_t bits;
      std::memcpy(&bits, values.data() + 2 * i, 2);
      ASSERT_EQ(bits, synthetic_bf16(canon.line_name(line), i)) << canon.line_name(line) << " " << i;
    }
  }
}

TEST(Synthetic, FillsShardsAndPadsWithZeros) {
  const test::TemporaryFolder folder;
  test::put_file(folder.path("config.json"), R"({"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 21, "dtype": "bfloat16"})");
  const auto source = test::open("synthetic:" + folder.path("config.json"));
  ASSERT_TRUE(source) << source.error().message;
  TargetOptions options;
  options.mesh.tp = 2;
  const auto target = describe_target(*source, "nanotron", options, test::library());
  ASSERT_TRUE(target) << target.error().message;
  const test::TemporaryFolder out;
  test::write_checkpoint(*target, test::line_values(*source), out.path());
  const Generator generator(target->layout);
  for (std::uint32_t a = 0; a < target->layout->arrays().size(); ++a) {
    const Index elements = *num_elements(target->layout->shape(target->layout->arrays()[a]));
    std::vector<std::byte> ours(static_cast<std::size_t>(2 * elements));
    generator.fill(a, 0, elements, ours);
    const std::string file = test::file_bytes(out.path(target->files[target->file_of_array[a]].path));
    EXPECT_EQ(std::memcmp(ours.data(), file.data() + target->offset_of_array[a], ours.size()), 0)
        << target->layout->name(target->layout->arrays()[a]);
  }
}

// Wider and narrower dtypes hold the same real values.
TEST(Synthetic, DtypesAgree) {
  const auto bf16 = test::line_values(open_model("bfloat16"));
  const auto f32 = test::line_values(open_model("float32"));
  const auto f16 = test::line_values(open_model("float16"));
  for (std::size_t line = 0; line < bf16.size(); ++line) {
    for (std::size_t i = 0; i < bf16[line].size() / 2; ++i) {
      std::uint16_t b, h;
      float f;
      std::memcpy(&b, bf16[line].data() + 2 * i, 2);
      std::memcpy(&h, f16[line].data() + 2 * i, 2);
      std::memcpy(&f, f32[line].data() + 4 * i, 4);
      ASSERT_EQ(f, from_bf16(b));
      const float half =
          std::ldexp(1.0f + static_cast<float>(h & 0x3FF) / 1024, (h >> 10 & 31) - 15) * (h >> 15 != 0 ? -1.0f : 1.0f);
      ASSERT_EQ(f, half);
    }
  }
}

// Any range of a file is the same as that part of the whole file.
TEST(Synthetic, FilesCanBeReadAnywhere) {
  for (const char* dtype : {"bfloat16", "float32"}) {
    const Checkpoint source = open_model(dtype);
    const auto file = open_source_file(source, 0, {});
    ASSERT_TRUE(file);
    std::vector<std::byte> whole(static_cast<std::size_t>((*file)->size()));
    ASSERT_TRUE((*file)->read_at(whole, 0));
    std::mt19937_64 random(7);
    for (int i = 0; i < 300; ++i) {
      const std::size_t begin = random() % whole.size(),
                        length = random() % std::min<std::size_t>(whole.size() - begin, 3000);
      std::vector<std::byte> part(length);
      ASSERT_TRUE((*file)->read_at(part, static_cast<Index>(begin)));
      ASSERT_EQ(std::memcmp(part.data(), whole.data() + begin, length), 0) << begin << " " << length;
    }
    std::vector<std::byte> beyond(1);
    EXPECT_FALSE((*file)->read_at(beyond, (*file)->size()));
  }
}

TEST(Synthetic, UnknownModelsAreRefused) {
  const auto comm = comm::make_self_comm();
  const auto opened = open_checkpoint("synthetic:llama3-8c", {}, test::library(), *comm);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, Code::usage);
  EXPECT_NE(opened.error().message.find("llama3-8b"), std::string::npos) << opened.error().message;
}

}  // namespace
}  // namespace reshard::format
