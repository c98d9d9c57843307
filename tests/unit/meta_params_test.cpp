// SPDX-License-Identifier: Apache-2.0
#include "src/format/meta_params.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard::format {
namespace {

using nlohmann::json;

MetaParams read_well(const json& params) {
  std::vector<std::string> notes;
  const auto read = read_params(params, "params.json", notes);
  EXPECT_TRUE(read) << read.error().message;
  return *read;
}

std::string read_error(const json& params) {
  std::vector<std::string> notes;
  const auto read = read_params(params, "params.json", notes);
  return read ? "no error" : read.error().message;
}

json params_7b() {
  return {{"dim", 4096},    {"multiple_of", 256}, {"n_heads", 32},
          {"n_layers", 32}, {"norm_eps", 1e-05},  {"vocab_size", -1}};
}

// The published models: dim, multiplier, multiple_of, intermediate_size.
struct Width {
  Index dim;
  double multiplier;
  Index multiple_of, size;
};
const Width kWidths[] = {{4096, 1, 256, 11008},   {5120, 1, 256, 13824},    {6656, 1, 256, 17920},
                         {8192, 1, 256, 22016},   {8192, 1.3, 4096, 28672}, {4096, 1.0, 256, 11008},
                         {8192, 1.0, 256, 22016}, {4096, 1.3, 1024, 14336}, {16384, 1.2, 4096, 53248},
                         {2048, 1.5, 256, 8192},  {3072, 1.0, 256, 8192}};

std::optional<FfnRule> find_rule(Index dim, Index size) {
  return find_ffn_rule(dim, size, [&](const FfnRule& rule) { return meta_ffn_size(dim, rule); });
}

TEST(LlamaFfn, HasThePublishedSizes) {
  for (const Width& width : kWidths)
    EXPECT_EQ(meta_ffn_size(width.dim, {width.multiplier, width.multiple_of}), width.size);
}

TEST(LlamaFfn, IsFoundAsPublished) {
  for (const Width& width : kWidths) {
    const auto ffn = find_rule(width.dim, width.size);
    ASSERT_TRUE(ffn);
    EXPECT_EQ(meta_ffn_size(width.dim, *ffn), width.size);
    EXPECT_EQ(ffn->multiple_of, width.multiple_of) << width.dim;
    EXPECT_EQ(ffn->multiplier, width.multiplier) << width.dim;
  }
  EXPECT_EQ(find_rule(64, 176)->multiple_of, 16);  // the reference cases
  EXPECT_EQ(find_rule(64, 176)->multiplier, 1);
}

TEST(LlamaFfn, SaysAnySize) {
  std::mt19937_64 engine(7);
  const auto any = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(engine); };
  for (int i = 0; i < 20'000; ++i) {
    const Index dim = any(1, 1 << 15), size = any(1, 1 << 17);
    const auto ffn = find_rule(dim, size);
    ASSERT_TRUE(ffn) << dim << " " << size;
    // Through the text, as a reader gets it.
    MetaParams params;
    params.dim = dim;
    params.n_layers = params.n_heads = 1;
    params.ffn = *ffn;
    const MetaParams back = read_well(json::parse(write_params(params, ParamsStyle::flat, false)));
    ASSERT_EQ(meta_ffn_size(dim, back.ffn), size) << dim;
  }
}

TEST(LlamaFfn, OutOfRangeIsNothing) {
  EXPECT_FALSE(meta_ffn_size(4096, {1e300, 256}));
  EXPECT_FALSE(meta_ffn_size(4096, {1, 0}));
  EXPECT_FALSE(meta_ffn_size(-1, {1, 256}));
  EXPECT_FALSE(meta_ffn_size(Index{1} << 60, {1, 256}));
}

TEST(MetaParams, AreReadFlatAndNested) {
  const MetaParams flat = read_well(params_7b());
  EXPECT_EQ(flat.dim, 4096);
  EXPECT_EQ(flat.n_layers, 32);
  EXPECT_FALSE(flat.n_kv_heads);
  EXPECT_FALSE(flat.vocab_size);
  EXPECT_FALSE(flat.rope_theta);
  EXPECT_EQ(flat.generation(), MetaGeneration::llama2);
  const MetaParams nested = read_well({{"model",
                                        {{"dim", 4096},
                                         {"n_layers", 32},
                                         {"n_heads", 32},
                                         {"multiple_of", 1024},
                                         {"rope_theta", 500000.0},
                                         {"norm_eps", 1e-05},
                                         {"n_kv_heads", 8},
                                         {"ffn_dim_multiplier", 1.3}}}});
  EXPECT_EQ(nested.n_kv_heads, 8);
  EXPECT_EQ(meta_ffn_size(nested.dim, nested.ffn), 14336);
  EXPECT_EQ(nested.generation(), MetaGeneration::llama3);
}

TEST(MetaParams, TellTheGeneration) {
  const auto generation = [](const json& changes) {
    json params = params_7b();
    params.update(changes);
    return read_well(params).generation();
  };
  EXPECT_EQ(generation({{"norm_eps", 1e-06}}), MetaGeneration::llama1);
  EXPECT_EQ(generation({{"dim", 8192}, {"n_layers", 80}, {"n_heads", 64}}), MetaGeneration::llama1);
  EXPECT_EQ(generation({{"dim", 8192}, {"n_layers", 80}, {"n_heads", 64}, {"n_kv_heads", 8}}), MetaGeneration::llama2);
  EXPECT_EQ(generation({{"rope_theta", 1e6}}), MetaGeneration::code_llama);
  EXPECT_EQ(generation({{"rope_theta", 1e6}, {"n_kv_heads", 8}}), MetaGeneration::code_llama);
  EXPECT_EQ(generation({{"vocab_size", 128256}}), MetaGeneration::llama3);
  EXPECT_EQ(generation({{"rope_theta", 5e5}}), MetaGeneration::code_llama);  // theta alone tells nothing
  EXPECT_EQ(generation({{"use_scaled_rope", true}}), MetaGeneration::llama3_1);
}

TEST(MetaParams, BecomeAConfig) {
  json llama3 = {{"dim", 3072},          {"n_layers", 28},
                 {"n_heads", 24},        {"n_kv_heads", 8},
                 {"multiple_of", 256},   {"ffn_dim_multiplier", 1.0},
                 {"norm_eps", 1e-05},    {"rope_theta", 5e5},
                 {"vocab_size", 128256}, {"use_scaled_rope", true}};
  json config = *read_well(llama3).hf_config();
  EXPECT_EQ(config["intermediate_size"], 8192);
  EXPECT_EQ(config["num_key_value_heads"], 8);
  EXPECT_EQ(config["max_position_embeddings"], 131072);
  EXPECT_EQ(config["bos_token_id"], 128000);
  EXPECT_EQ(config["rope_scaling"]["factor"], 32.0);  // only this and the 1B
  EXPECT_SAYS(describe_assumed(read_well(llama3)), "factor 32");
  llama3["n_layers"] = 32;
  EXPECT_EQ((*read_well(llama3).hf_config())["rope_scaling"]["factor"], 8.0);
  config = *read_well(params_7b()).hf_config();
  EXPECT_EQ(config["max_position_embeddings"], 4096);
  EXPECT_EQ(config["rope_theta"], 10000.0);
  EXPECT_TRUE(config["rope_scaling"].is_null());
  EXPECT_EQ(config["eos_token_id"], 2);
}

TEST(MetaParams, WhatTheyCannotSayIsRefused) {
  EXPECT_SAYS(read_error(json::array()), "params.json: expected a JSON object");
  EXPECT_SAYS(read_error({{"dim", 64}, {"n_heads", 8}}), "params.json: n_layers: missing");
  const auto error = [](const json& changes) {
    json params = params_7b();
    params.update(changes);
    return read_error(params);
  };
  EXPECT_SAYS(error({{"dim", "4096"}}), "dim: expected a positive integer, found \"4096\"");
  EXPECT_SAYS(error({{"dim", 1e3}}), "dim");
  EXPECT_SAYS(error({{"n_heads", 0}}), "n_heads");
  EXPECT_SAYS(error({{"n_kv_heads", -8}}), "n_kv_heads");
  EXPECT_SAYS(error({{"vocab_size", -2}}), "vocab_size");
  EXPECT_SAYS(error({{"multiple_of", 0}}), "multiple_of");
  EXPECT_SAYS(error({{"ffn_dim_multiplier", -1}}), "ffn_dim_multiplier");
  EXPECT_SAYS(error({{"use_scaled_rope", 1}}), "use_scaled_rope");
  EXPECT_SAYS(error({{"model", 3}}), "expected a JSON object");
  EXPECT_SAYS(error({{"quantization_args", {{"group_size", 32}}}}), "quantized");
  EXPECT_SAYS(error({{"lora_args", {{"rank", 16}}}}), "adapters");
  EXPECT_SAYS(error({{"moe_args", {{"num_experts", 16}}}}), "Llama 4");
  EXPECT_SAYS(error({{"vision_chunk_size", 560}}), "vision");
  EXPECT_EQ(error({{"vision_chunk_size", -1}, {"n_kv_heads", nullptr}, {"quantization_args", nullptr}}), "no error");
  MetaParams wide;
  wide.dim = 64;
  wide.ffn.multiplier = 1e300;
  EXPECT_FALSE(wide.hf_config());
  std::vector<std::string> notes;
  json params = params_7b();
  params["made_up"] = 1;
  EXPECT_TRUE(read_params(params, "params.json", notes));
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_SAYS(notes[0], "made_up");
}

model::Spec spec_of(const json& config) {
  auto spec = model::parse_hf_config(config, test::library(), "config.json");
  EXPECT_TRUE(spec) << spec.error().message;
  return *spec;
}

json config_8b() {
  return {{"model_type", "llama"},      {"hidden_size", 4096},
          {"intermediate_size", 14336}, {"num_hidden_layers", 32},
          {"num_attention_heads", 32},  {"num_key_value_heads", 8},
          {"vocab_size", 128256},       {"rms_norm_eps", 1e-05},
          {"rope_theta", 500000.0},     {"max_position_embeddings", 8192},
          {"bos_token_id", 128000},     {"eos_token_id", 128001}};
}

TEST(MetaParams, AreWrittenAsPublished) {
  const auto params = MetaParams::of(spec_of(config_8b()), 1);
  ASSERT_TRUE(params) << params.error().message;
  EXPECT_EQ(write_params(*params, ParamsStyle::flat, true),
            R"({"dim": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 128256, "n_kv_heads": 8, )"
            R"("ffn_dim_multiplier": 1.3, "multiple_of": 1024, "norm_eps": 1e-05, "rope_theta": 500000.0})");
  EXPECT_EQ(write_params(*params, ParamsStyle::fairseq2, true),
            R"({"model": {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 1024, "rope_theta": 500000.0, )"
            R"("norm_eps": 1e-05, "n_kv_heads": 8, "ffn_dim_multiplier": 1.3}})");
  json llama2 = config_8b();
  llama2.update(
      {{"intermediate_size", 11008}, {"num_key_value_heads", 32}, {"vocab_size", 32000}, {"rope_theta", 10000}});
  EXPECT_EQ(json::parse(write_params(*MetaParams::of(spec_of(llama2), 1), ParamsStyle::flat, false)), params_7b());
}

TEST(MetaParams, EveryRankHasAKvHead) {
  EXPECT_EQ(MetaParams::of(spec_of(config_8b()), 8)->n_kv_heads, 8);
  EXPECT_EQ(MetaParams::of(spec_of(config_8b()), 16)->n_kv_heads, 16);
  EXPECT_FALSE(MetaParams::of(spec_of(config_8b()), 32)->n_kv_heads);  // as many as heads
}

TEST(MetaParams, OtherActivationsAreRefused) {
  json config = config_8b();
  config["hidden_act"] = "gelu";
  const auto params = MetaParams::of(spec_of(config), 1);
  ASSERT_FALSE(params);
  EXPECT_SAYS(params.error().message, "gelu");
}

std::vector<std::string> lost(const json& config, ParamsStyle style = ParamsStyle::flat, Index tp = 1) {
  const model::Spec spec = spec_of(config);
  std::vector<std::string> notes;
  const Status status = note_lost(spec, *MetaParams::of(spec, tp), style, test::library(), notes);
  EXPECT_TRUE(status) << status.error().message;
  return notes;
}

TEST(MetaParams, WhatIsLostIsNamed) {
  EXPECT_EQ(lost(config_8b()), std::vector<std::string>());
  json config = config_8b();
  config.update({{"max_position_embeddings", 512},
                 {"eos_token_id", {128001, 128009}},
                 {"rope_scaling",
                  {{"rope_type", "llama3"},
                   {"factor", 16.0},
                   {"low_freq_factor", 1.0},
                   {"high_freq_factor", 4.0},
                   {"original_max_position_embeddings", 64}}}});
  const auto notes = lost(config);
  ASSERT_EQ(notes.size(), 2U);
  EXPECT_EQ(notes[0].rfind("warning: ", 0), 0U);  // the model computes otherwise
  for (const char* part : {"rope_scaling.factor (16.0)", "rope_scaling.original_max_position_embeddings (64)"}) {
    EXPECT_SAYS(notes[0], part);
  }
  for (const char* part : {"max_position_embeddings (512)", "eos_token_id ([128001,128009])"}) {
    EXPECT_SAYS(notes[1], part);
  }
  EXPECT_EQ(notes[0].find("low_freq"), std::string::npos);
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  EXPECT_SAYS(lost(config).front(), "rope_scaling.type (\"linear\")");
  const auto repeated = lost(config_8b(), ParamsStyle::flat, 16);
  ASSERT_EQ(repeated.size(), 1U);
  EXPECT_SAYS(repeated[0], "num_key_value_heads (8) becomes n_kv_heads 16");
}

TEST(MetaParams, Fairseq2LosesScaledRope) {
  json config = config_8b();
  config.update({{"max_position_embeddings", 131072},
                 {"rope_scaling",
                  {{"rope_type", "llama3"},
                   {"factor", 8.0},
                   {"low_freq_factor", 1.0},
                   {"high_freq_factor", 4.0},
                   {"original_max_position_embeddings", 8192}}}});
  EXPECT_EQ(lost(config), std::vector<std::string>());
  EXPECT_SAYS(lost(config, ParamsStyle::fairseq2).front(), "rope_scaling.factor (8.0)");
}

}  // namespace
}  // namespace reshard::format
