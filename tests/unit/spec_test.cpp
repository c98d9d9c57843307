// SPDX-License-Identifier: Apache-2.0
#include "reshard/model/spec.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "reshard/layout/layout.h"
#include "reshard/model/generic.h"
#include "tests/support/paths.h"
#include "tests/support/says.h"

namespace reshard::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const Library& library() {
  static const Library loaded = Library::load("").value();
  return loaded;
}

json small_llama() {
  return {{"model_type", "llama"},  {"vocab_size", 259},        {"hidden_size", 64},       {"intermediate_size", 176},
          {"num_hidden_layers", 4}, {"num_attention_heads", 8}, {"num_key_value_heads", 4}};
}

Spec parse(const json& config) {
  auto spec = parse_hf_config(config, library(), "config.json");
  if (!spec) ADD_FAILURE() << spec.error().message;
  return spec ? *spec : Spec();
}

std::string error_of(const json& config) {
  const auto spec = parse_hf_config(config, library(), "x/config.json");
  if (!spec) {
    EXPECT_EQ(spec.error().code, Code::input);
    return spec.error().message;
  }
  const auto canon = make_canon(*spec, library());
  if (canon) return "no error";
  EXPECT_EQ(canon.error().code, Code::input);
  return canon.error().message;
}

json with(json config, const std::string& key, const json& value) {
  config[key] = value;
  return config;
}

// Writing what was read keeps every key and value, and adds the other spellings only.
TEST(Spec, KeepsTheReferenceConfigs) {
  const char* full = std::getenv("RESHARD_FIXTURES");
  const fs::path folder = (full != nullptr ? fs::path(full) : fs::path(test::source_dir()) / "tests/interop") / "hf";
  const std::set<std::string> spellings = {"dtype",           "torch_dtype", "rope_theta",       "rope_scaling",
                                           "rope_parameters", "num_experts", "num_local_experts"};
  int checked = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    SCOPED_TRACE(entry.path().string());
    std::ifstream file(entry.path() / "config.json");
    const json original = json::parse(file);
    const std::string text = write_hf_config(parse(original), library());
    const json written = json::parse(text);
    for (const auto& [key, value] : original.items()) EXPECT_EQ(written.value(key, json("absent")), value) << key;
    for (const auto& [key, value] : written.items())
      EXPECT_TRUE(original.contains(key) || spellings.contains(key)) << key;
    EXPECT_EQ(text, written.dump(2) + "\n");
    EXPECT_EQ(parse(written).fields, parse(original).fields);
    ++checked;
  }
  EXPECT_GE(checked, 11);
}

TEST(Spec, ReadsBothSpellingsOfRope) {
  const json scaling = {{"factor", 8.0}, {"low_freq_factor", 1.0}, {"rope_type", "llama3"}};
  json old = with(with(small_llama(), "rope_theta", 500000.0), "rope_scaling", scaling);
  json current = with(small_llama(), "rope_parameters", with(scaling, "rope_theta", 500000.0));
  const Spec spec = parse(old);
  EXPECT_EQ(spec.fields.at("rope"), parse(current).fields.at("rope"));
  EXPECT_EQ(spec.fields.at("rope").at("theta"), 500000.0);
  EXPECT_EQ(spec.fields.at("rope").at("type"), "llama3");
  EXPECT_EQ(spec.fields.at("rope").at("factor"), 8.0);
  const json written = json::parse(write_hf_config(spec, library()));
  EXPECT_EQ(written.at("rope_scaling"), scaling);
  EXPECT_EQ(written.at("rope_parameters"), current.at("rope_parameters"));

  // The new spelling wins; without any the family's theta holds.
  EXPECT_EQ(parse(with(current, "rope_theta", 1.0)).fields.at("rope").at("theta"), 500000.0);
  EXPECT_EQ(parse(small_llama()).fields.at("rope").at("theta"), 10000.0);
  const json plain = json::parse(write_hf_config(parse(small_llama()), library()));
  EXPECT_TRUE(plain.at("rope_scaling").is_null());
  EXPECT_EQ(plain.at("rope_parameters"), json({{"rope_theta", 10000.0}, {"rope_type", "default"}}));

  // The oldest name of the type is understood and kept.
  const json oldest = {{"type", "linear"}, {"factor", 2.0}};
  const Spec linear = parse(with(small_llama(), "rope_scaling", oldest));
  EXPECT_EQ(linear.fields.at("rope").at("type"), "linear");
  EXPECT_EQ(json::parse(write_hf_config(linear, library())).at("rope_scaling"), oldest);
}

TEST(Spec, FillsInTheDefaultsOfTheFamily) {
  EXPECT_EQ(parse({{"model_type", "llama"}}).integer("num_key_value_heads"), 32);
  EXPECT_EQ(parse({{"model_type", "mistral"}}).integer("num_key_value_heads"), 8);
  EXPECT_EQ(parse({{"model_type", "mistral"}, {"num_key_value_heads", nullptr}}).integer("num_key_value_heads"), 32);
  EXPECT_EQ(parse({{"model_type", "qwen3"}, {"hidden_size", 1024}}).integer("head_dim"), 128);
  EXPECT_EQ(parse({{"model_type", "qwen3_moe"}}).integer("head_dim"), 64);
  EXPECT_EQ(parse({{"model_type", "mixtral"}, {"num_local_experts", 4}}).integer("num_experts"), 4);
  EXPECT_EQ(parse({{"model_type", "gpt2"}, {"n_embd", 48}}).integer("intermediate_size"), 192);
  EXPECT_TRUE(parse({{"model_type", "gpt2"}}).flag("tie_word_embeddings"));
  EXPECT_FALSE(parse({{"model_type", "llama"}}).flag("tie_word_embeddings"));
  EXPECT_EQ(parse({{"architectures", {"LlamaForCausalLM"}}}).family, "llama");
  // What was left out stays out, unless it was changed since.
  Spec spec = parse(small_llama());
  EXPECT_FALSE(json::parse(write_hf_config(spec, library())).contains("head_dim"));
  spec.fields["tie_word_embeddings"] = true;
  EXPECT_EQ(json::parse(write_hf_config(spec, library())).at("tie_word_embeddings"), true);
  // A spec from elsewhere is written whole.
  Spec bare;
  bare.family = "llama";
  ASSERT_TRUE(complete(bare, library()));
  const json written = json::parse(write_hf_config(bare, library()));
  EXPECT_EQ(written.at("rms_norm_eps"), 1e-6);
  EXPECT_EQ(written.at("architectures"), json({"LlamaForCausalLM"}));
  EXPECT_EQ(written.at("model_type"), "llama");
  EXPECT_EQ(written.at("torch_dtype"), "bfloat16");
}

TEST(Spec, SpellsTheNumberOfExpertsTwice) {
  const json config = {{"model_type", "qwen3_moe"}, {"num_local_experts", 4}};
  const json written = json::parse(write_hf_config(parse(config), library()));
  EXPECT_EQ(written.at("num_experts"), 4);
  EXPECT_EQ(written.at("num_local_experts"), 4);
  EXPECT_SAYS(error_of(with(config, "num_experts", 8)), "disagree");
}

TEST(Spec, CarriesUnknownKeys) {
  const json config = with(small_llama(), "my_key", {{"z", 1}, {"a", {1.5, nullptr, "\u00e9"}}});
  EXPECT_EQ(json::parse(write_hf_config(parse(config), library())).at("my_key"), config.at("my_key"));
}

TEST(Spec, RefusesConfigsThatAreWrong) {
  EXPECT_SAYS(error_of(json::array()), "x/config.json: expected a JSON object");
  EXPECT_SAYS(error_of(json::object()), "model_type: missing");
  EXPECT_SAYS(error_of({{"model_type", "t5"}}), "model_type: \"t5\" is not known; known are gpt2, llama");
  EXPECT_SAYS(error_of({{"model_type", 5}}), "model_type");
  EXPECT_SAYS(error_of(with(small_llama(), "hidden_size", "64")),
              "hidden_size: expected a non-negative integer, found \"64\"");
  EXPECT_SAYS(error_of(with(small_llama(), "hidden_size", 64.0)), "hidden_size: expected a non-negative integer");
  EXPECT_SAYS(error_of(with(small_llama(), "hidden_size", -64)), "hidden_size");
  EXPECT_SAYS(error_of(with(small_llama(), "hidden_size", std::uint64_t(1) << 63)), "hidden_size");
  EXPECT_SAYS(error_of(with(small_llama(), "tie_word_embeddings", 1)), "tie_word_embeddings: expected true or false");
  EXPECT_SAYS(error_of(with(small_llama(), "rms_norm_eps", "1e-6")), "rms_norm_eps: expected a number");
  EXPECT_SAYS(error_of(with(small_llama(), "torch_dtype", "bfloat17")), "torch_dtype: unknown dtype \"bfloat17\"");
  EXPECT_SAYS(error_of(with(small_llama(), "rope_scaling", 8)), "rope_scaling: expected an object");
  EXPECT_SAYS(error_of(with(small_llama(), "rope_parameters", {{"full_attention", json::object()}})),
              "differ between layers");
  EXPECT_SAYS(error_of(with(small_llama(), "num_key_value_heads", 3)), "num_attention_heads (8) is not a multiple");
  EXPECT_SAYS(error_of(with(small_llama(), "num_key_value_heads", 0)), "num_key_value_heads (0)");
  EXPECT_SAYS(error_of(with(small_llama(), "num_attention_heads", 7)), "head_dim: not given");
  EXPECT_SAYS(error_of(with(small_llama(), "head_dim", 7)), "head_dim (7) is odd");
  EXPECT_SAYS(error_of(with(small_llama(), "num_hidden_layers", 0)), "num_hidden_layers must be at least 1");
  EXPECT_SAYS(error_of(with(small_llama(), "num_hidden_layers", 1'000'000'000)), "num_hidden_layers is 1000000000");
  EXPECT_SAYS(error_of(with(with(small_llama(), "intermediate_size", Index(1) << 40), "hidden_size", Index(1) << 40)),
              "overflow");
  EXPECT_SAYS(error_of({{"model_type", "qwen3_moe"}, {"num_experts", 100'000'000}}), "more than");
  EXPECT_SAYS(error_of({{"model_type", "qwen3_moe"}, {"mlp_only_layers", {0, -1}}}), "mlp_only_layers");
}

TEST(Spec, TellsDenseFromSparseLayers) {
  const Spec spec = parse(
      {{"model_type", "qwen2_moe"}, {"num_hidden_layers", 6}, {"decoder_sparse_step", 2}, {"mlp_only_layers", {3}}});
  const auto canon = make_canon(spec, library());
  ASSERT_TRUE(canon) << canon.error().message;
  const layout::Canon& model = **canon;
  EXPECT_EQ(model.tensors()[static_cast<std::size_t>(model.find("moe.gate"))].layers, (std::vector<Index>{1, 5}));
  EXPECT_EQ(model.tensors()[static_cast<std::size_t>(model.find("mlp.gate"))].layers, (std::vector<Index>{0, 2, 3, 4}));
  EXPECT_GE(model.find("attn.q.bias"), 0);
  EXPECT_LT(model.find("attn.o.bias"), 0);
  // With sparse layers only, there are no dense tensors at all.
  const auto sparse = make_canon(parse({{"model_type", "qwen3_moe"}}), library());
  ASSERT_TRUE(sparse);
  EXPECT_LT((*sparse)->find("mlp.gate"), 0);
  EXPECT_TRUE((*sparse)->tensors()[static_cast<std::size_t>((*sparse)->find("moe.gate"))].layers.empty());
}

TEST(Spec, KnowsTheNamedModels) {
  // As published, where fairseq2's own numbers are not wrong (its 13B has 32 layers).
  const std::map<std::string, Index> parameters = {
      {"llama-7b", 6'738'415'616},      {"llama-13b", 13'015'864'320},   {"llama-33b", 32'528'943'616},
      {"llama-65b", 65'285'660'672},    {"llama2-7b", 6'738'415'616},    {"llama2-13b", 13'015'864'320},
      {"llama2-70b", 68'976'648'192},   {"llama3-8b", 8'030'261'248},    {"llama3-70b", 70'553'706'496},
      {"llama3-405b", 405'853'388'800}, {"llama3.1-8b", 8'030'261'248},  {"llama3.1-70b", 70'553'706'496},
      {"llama3.2-1b", 1'235'814'400},   {"llama3.2-3b", 3'212'749'824},  {"mistral-7b", 7'241'732'096},
      {"qwen2.5-1.5b", 1'543'714'304},  {"qwen2.5-3b", 3'085'938'688},   {"qwen2.5-7b", 7'615'616'512},
      {"qwen2.5-14b", 14'770'033'664},  {"qwen2.5-32b", 32'763'876'352}, {"qwen3-0.6b", 596'049'920},
      {"qwen3-1.7b", 1'720'574'976},    {"qwen3-4b", 4'022'468'096},     {"qwen3-8b", 8'190'735'360},
      {"qwen3-14b", 14'768'307'200},    {"qwen3-32b", 32'762'123'264},   {"qwen3-235b-a22b", 235'093'634'560}};
  EXPECT_EQ(model_names().size(), parameters.size());
  for (const auto& [name, expected] : parameters) {
    const auto spec = named_model(name, library());
    ASSERT_TRUE(spec) << spec.error().message;
    const auto canon = make_canon(*spec, library());
    ASSERT_TRUE(canon) << canon.error().message;
    EXPECT_EQ(find_model(name), name);
    Index total = 0;
    for (std::uint32_t t = 0; t < (*canon)->tensors().size(); ++t) {
      Index lines = 0;
      for (Index line = 0; line < (*canon)->num_lines(); ++line) lines += (*canon)->line(line).tensor == t ? 1 : 0;
      total += lines * (*canon)->line_volume(t);
    }
    EXPECT_EQ(total, expected) << name;
  }
  EXPECT_EQ(find_model("llama3_2_1b"), "llama3.2-1b");
  EXPECT_EQ(find_model("qwen25_1_5b"), "qwen2.5-1.5b");
  EXPECT_EQ(find_model("llama3"), std::nullopt);
  EXPECT_SAYS(named_model("llama3-80b", library()).error().message, "did you mean llama3-70b");
  EXPECT_EQ(named_model("llama3-80b", library()).error().code, Code::usage);
}

TEST(Generic, IsOneTensorPerArray) {
  const std::vector<NamedArray> arrays = {{"a.w", DType::bf16, {4, 6}}, {"b", DType::i64, {}}, {"c", DType::f32, {5}}};
  const auto canon = make_generic_canon(arrays);
  ASSERT_TRUE(canon) << canon.error().message;
  const auto table = make_generic_table(library(), "hf", arrays);
  ASSERT_TRUE(table) << table.error().message;
  const auto layout = layout::Layout::predict(*canon, *table, {}, {}, DType::bf16, {});
  ASSERT_TRUE(layout) << layout.error().message;
  ASSERT_EQ(layout->arrays().size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(layout->name(layout->arrays()[i]), arrays[i].name);
    EXPECT_EQ(layout->shape(layout->arrays()[i]), arrays[i].shape);
    EXPECT_EQ(layout->arrays()[i].dtype, arrays[i].dtype);
  }
  EXPECT_FALSE(make_generic_table(library(), "nanotron", arrays));
  EXPECT_FALSE(make_generic_canon({{"a{b}", DType::bf16, {1}}}));
  EXPECT_FALSE(make_generic_canon({{"a", DType::bf16, {1}}, {"a", DType::bf16, {1}}}));
  EXPECT_FALSE(make_generic_canon({{"a", DType::bf16, Shape(9, 1)}}));
  EXPECT_FALSE(make_generic_canon({{"a", DType::bf16, {Index(1) << 40, Index(1) << 40}}}));
}

TEST(Generic, TravelsBesideAFamily) {
  const Spec spec = parse(small_llama());
  const std::vector<NamedArray> arrays = {{"visual.w", DType::f16, {4, 6}}};
  const auto canon = add_passthrough(*make_canon(spec, library()).value(), arrays);
  ASSERT_TRUE(canon) << canon.error().message;
  const auto table = add_passthrough(library().table("llama", "hdf5").value(), arrays);
  ASSERT_TRUE(table) << table.error().message;
  const auto layout = layout::Layout::predict(*canon, *table, {}, {}, DType::bf16, {});
  ASSERT_TRUE(layout) << layout.error().message;
  EXPECT_EQ(layout->name(layout->arrays().back()), "visual.w");
  EXPECT_EQ(layout->shape(layout->arrays().back()), (Shape{4, 6}));
  EXPECT_FALSE(add_passthrough(library().table("llama", "nanotron").value(), arrays));
  EXPECT_FALSE(add_passthrough(*make_canon(spec, library()).value(), {{"head", DType::f16, {1}}}));
}

TEST(Spec, CarriesAGenericConfig) {
  const json config = {{"model_type", "t5"}, {"d_model", 8}};
  EXPECT_EQ(json::parse(write_hf_config(make_generic_spec(config), library())), config);
}

}  // namespace
}  // namespace reshard::model
