// SPDX-License-Identifier: Apache-2.0
#include "src/format/fairseq2.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "src/format/fairseq2_config.h"
#include "src/format/llama_ffn.h"
#include "src/format/yaml_text.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

// --- YAML

ordered_json yaml(const std::string& text) {
  const auto value = parse_yaml(text, "x.yaml");
  EXPECT_TRUE(value) << value.error().message;
  return value ? *value : ordered_json();
}

std::string yaml_error(const std::string& text) {
  const auto value = parse_yaml(text, "x.yaml");
  if (value) return "no error";
  EXPECT_EQ(value.error().code, Code::input);
  return value.error().message;
}

TEST(Yaml, TypesScalars) {
  EXPECT_EQ(yaml("a: 1\nb: -2\nc: 1.5\nd: 1e-06\ne: 1.0e-05\nf: true\ng: null\nh:\ni: text\nj: '1'\nk: \"true\"\n"),
            (ordered_json{{"a", 1},
                          {"b", -2},
                          {"c", 1.5},
                          {"d", 1e-6},
                          {"e", 1e-5},
                          {"f", true},
                          {"g", nullptr},
                          {"h", nullptr},
                          {"i", "text"},
                          {"j", "1"},
                          {"k", "true"}}));
  EXPECT_EQ(yaml("l: [1, 2]\nm: {}\nn:\n- 1.0\n- x\n"),
            (ordered_json{{"l", {1, 2}}, {"m", ordered_json::object()}, {"n", {1.0, "x"}}}));
  EXPECT_EQ(yaml("a: inf\nb: 0x10\nc: 1_000\nd: 99999999999999999999\n").at("a"), "inf");
}

TEST(Yaml, RefusesWhatNoSideFileHas) {
  EXPECT_SAYS(yaml_error("a: [1"), "x.yaml: line");
  EXPECT_SAYS(yaml_error("a: 1\na: 2\n"), "\"a\" is there twice");
  EXPECT_SAYS(yaml_error("a: !!python/object:os.system x\n"), "line 1: the tag");
  EXPECT_SAYS(yaml_error("? [1]\n: 2\n"), "expected a plain key");
  for (const char* opening : {"[", "{", "- ", "? ", "{a: "}) {
    for (const int depth : {200, 100'000}) {
      std::string deep;
      for (int i = 0; i < depth; ++i) deep += opening;
      EXPECT_SAYS(yaml_error(deep), "x.yaml: line") << opening;
    }
  }
  EXPECT_SAYS(yaml_error(std::string((1 << 20) + 1, ' ')), "too much");
  // Each line doubles what the one above stands for.
  std::string laughs = "a0: &a0 [1, 1]\n";
  for (int i = 1; i < 40; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    laughs += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before + ", " + before + "]\n";
  }
  EXPECT_SAYS(yaml_error(laughs), "values");
}

// --- size of the feed-forward layers

TEST(LlamaFfn, GivesTheSizesOfTheReleasedModels) {
  struct Released {
    Index dim, size;
    FfnRule rule;
  };
  for (const auto& [dim, size, rule] : {Released{4096, 11008, {1, 256}},
                                        {5120, 13824, {1, 256}},
                                        {6656, 17920, {1, 256}},
                                        {8192, 22016, {1, 256}},
                                        {8192, 28672, {1.3, 4096}},
                                        {4096, 14336, {1.3, 1024}},
                                        {16384, 53248, {1.2, 4096}},
                                        {2048, 8192, {1.5, 256}},
                                        {3072, 8192, {1, 256}}}) {
    const auto theirs = [dim = dim](const FfnRule& one) { return fairseq2_ffn_size(4 * dim, 2.0 / 3.0, one); };
    EXPECT_EQ(meta_ffn_size(dim, rule), size);
    EXPECT_EQ(theirs(rule), size);
    const auto found = find_ffn_rule(dim, size, theirs);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->multiplier, rule.multiplier) << dim;
    EXPECT_EQ(found->multiple_of, rule.multiple_of) << dim;
  }
}

TEST(LlamaFfn, FindsARuleForAnyEvenSize) {
  for (const Index dim : {64, 96, 1000, 5120}) {
    for (Index size = 2; size < 4 * dim; size += 14) {
      const auto meta = [&](const FfnRule& one) { return meta_ffn_size(dim, one); };
      const auto found = find_ffn_rule(dim, size, meta);
      ASSERT_TRUE(found) << dim << " " << size;
      EXPECT_EQ(meta(*found), size);
    }
  }
  EXPECT_FALSE(meta_ffn_size(-1, {}));
  EXPECT_FALSE(meta_ffn_size(Index{1} << 60, {}));
  EXPECT_FALSE(fairseq2_ffn_size(256, 2.0 / 3.0, {1e300, 256}));
  EXPECT_FALSE(fairseq2_ffn_size(256, 2.0 / 3.0, {1, 0}));
}

// --- model.yaml

constexpr const char* kCard = R"(name: checkpoint
model_family: llama
model_config:
  model_dim: 64
  max_seq_len: 512
  vocab_size: 259
  pad_idx: null
  tied_embeddings: false
  num_layers: 4
  num_attn_heads: 8
  num_key_value_heads: 4
  ffn_inner_dim: 256
  ffn_inner_dim_scale: 0.6666666666666666
  ffn_inner_dim_multiplier: 1.035294117647059
  ffn_inner_dim_multiple_of: 16
  rope_theta: 500000.0
  use_scaled_rope: false
  rope_scale:
    factor: 8.0
    frequency_factors:
    - 1.0
    - 4.0
    original_context_length: 8192
)";

std::string with(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

Expected<Fairseq2Model> read(const std::string& text) {
  static std::vector<std::string> notes;
  auto card = parse_yaml(text, "model.yaml");
  if (!card) return std::move(card).error();
  return read_model_yaml(*card, "model.yaml", notes);
}

std::string read_error(const std::string& text) {
  const auto model = read(text);
  return model ? "no error" : model.error().message;
}

TEST(Fairseq2Config, ReadsACard) {
  const auto model = read(kCard);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->hf.at("model_type"), "llama");
  EXPECT_EQ(model->hf.at("intermediate_size"), 176);
  EXPECT_EQ(model->hf.at("rms_norm_eps"), 1e-5);
  // A scale that is not used must not come out, as it did in the exports of 0.5.0 and 0.5.1.
  EXPECT_FALSE(model->hf.contains("rope_scaling"));
  const auto scaled = read(with(kCard, "use_scaled_rope: false", "use_scaled_rope: true"));
  ASSERT_TRUE(scaled);
  EXPECT_EQ(scaled->hf.at("rope_scaling"), (json{{"rope_type", "llama3"},
                                                 {"factor", 8.0},
                                                 {"low_freq_factor", 1.0},
                                                 {"high_freq_factor", 4.0},
                                                 {"original_max_position_embeddings", 8192}}));
}

TEST(Fairseq2Config, RefusesWhatItCannotRead) {
  EXPECT_SAYS(read_error("- 1\n"), "expected a mapping");
  EXPECT_SAYS(read_error("name: x\n"), "has no model_family");
  EXPECT_SAYS(read_error(with(kCard, "model_family: llama", "model_family: wav2vec2")), "\"wav2vec2\": known are");
  EXPECT_SAYS(read_error(with(kCard, "model_dim: 64", "model_dimension: 64")), "model_config: has no model_dim");
  EXPECT_SAYS(read_error(with(kCard, "num_layers: 4", "num_layers: four")),
              "num_layers: expected a non-negative integer");
  EXPECT_SAYS(read_error(with(kCard, "num_layers: 4", "num_layers: -4")),
              "num_layers: expected a non-negative integer");
  EXPECT_SAYS(read_error(with(kCard, "ffn_inner_dim: 256", "ffn_inner_dim: 0")), "no size of a layer");
  EXPECT_SAYS(read_error(with(with(kCard, "use_scaled_rope: false", "use_scaled_rope: true"), "    - 4.0\n", "")),
              "expected a list of two numbers");
}

TEST(Fairseq2Config, TellsTheQwensApart) {
  const std::string qwen =
      with(with(kCard, "model_family: llama", "model_family: qwen"), "ffn_inner_dim: 256", "ffn_inner_dim: 176");
  const std::string norms = "rope_theta: 500000.0\n  qkv_proj_bias: false\n  q_norm: true\n  k_norm: true";
  const auto qwen3 = read(with(qwen, "rope_theta: 500000.0", norms));
  ASSERT_TRUE(qwen3) << qwen3.error().message;
  EXPECT_EQ(qwen3->hf.at("model_type"), "qwen3");
  EXPECT_EQ(qwen3->hf.at("rms_norm_eps"), 1e-6);
  EXPECT_EQ(qwen3->hf.at("head_dim"), 8);
  EXPECT_EQ(read(with(qwen, "rope_theta: 500000.0", "qkv_proj_bias: true"))->hf.at("model_type"), "qwen2");
  EXPECT_SAYS(read_error(qwen), "neither a Qwen2");
}

std::string sidecar(const Target& target, const std::string& path) {
  for (const Sidecar& one : target.sidecars) {
    if (one.path == path) return one.text;
  }
  ADD_FAILURE() << "no side file " << path;
  return "";
}

Expected<Target> describe(const std::string& src, const TargetOptions& options) {
  const auto source = test::open(src);
  EXPECT_TRUE(source) << source.error().message;
  return describe_target(*source, "fairseq2", options, test::library());
}

void expect_same_card(const std::string& ours, const std::string& theirs) {
  ordered_json a = yaml(ours), b = yaml(test::file_bytes(theirs));
  for (ordered_json* card : {&a, &b}) {
    ordered_json& config = card->at("model_config");
    ordered_json& fields = config.contains("_set_") ? config.at("_set_") : config;
    fields.erase("ffn_inner_dim_multiplier");  // 1 gives the same size as theirs
  }
  EXPECT_EQ(a, b);
}

TEST(Fairseq2Config, WritesWhatFairseq2Wrote) {
  TargetOptions options;
  const auto tied = describe(test::fixture("hf/llama-tied"), options);
  ASSERT_TRUE(tied) << tied.error().message;
  expect_same_card(sidecar(*tied, "model.yaml"), test::fixture("fairseq2/llama-tied-tp1/checkpoints/model.yaml"));
  options.format_version = "0.4";
  const auto target = describe(test::fixture("hf/llama-gqa"), options);
  ASSERT_TRUE(target) << target.error().message;
  expect_same_card(sidecar(*target, "model.yaml"), test::fixture("fairseq2/llama-gqa-v046/model.yaml"));
  EXPECT_EQ(sidecar(*target, "cc/config.json"),
            test::file_bytes(test::fixture("fairseq2/llama-gqa-v046/cc/config.json")));
  EXPECT_EQ(target->files.front().path, "step_0/model.pt");
  EXPECT_EQ(target->files.front().spec.under, "model");
  std::string notes;
  for (const std::string& note : target->notes) notes += note + "\n";
  EXPECT_SAYS(notes, "rms_norm_eps (1e-06)");
}

TEST(Fairseq2, RefusesWhatItsTableCannotHold) {
  const auto error = [](const std::string& base, layout::Mesh mesh, const std::string& version) {
    TargetOptions options;
    options.mesh = mesh;
    options.format_version = version;
    const auto target = describe(test::fixture("hf/" + base), options);
    return target ? "no error" : target.error().message;
  };
  EXPECT_SAYS(error("llama-gqa", {8, 1, 1, 1}, ""), "tp (8) must divide num_key_value_heads (4)");
  EXPECT_EQ(error("llama-gqa", {8, 1, 1, 1}, "").find("rule"), std::string::npos);
  EXPECT_SAYS(error("llama-gqa", {2, 1, 1, 1}, ""), "tp (2) must divide vocab_size (259)");
  EXPECT_SAYS(error("llama-tied", {2, 1, 1, 1}, ""), "must divide vocab_size");
  EXPECT_SAYS(error("llama-gqa", {1, 2, 1, 1}, ""), "leave --pp at 1");
  EXPECT_SAYS(error("llama-gqa", {1, 1, 1, 2}, "0.4"), "--dp: 0.4 of fairseq2");
  EXPECT_SAYS(error("llama-gqa", {}, "0.5"), "written as 0.4 or 0.8");
  EXPECT_SAYS(error("gpt2", {}, ""), "fairseq2 has no GPT-2");
  EXPECT_SAYS(error("mistral", {}, ""), "no head_dim");
  EXPECT_SAYS(error("qwen3-moe", {}, ""), "experts have no place");
}

// A model of its own, tied or not, whose vocabulary divides.
std::string synthetic(const test::TemporaryFolder& folder, const json& more) {
  json config = {{"model_type", "llama"},     {"hidden_size", 64},
                 {"intermediate_size", 176},  {"num_hidden_layers", 3},
                 {"num_attention_heads", 8},  {"num_key_value_heads", 4},
                 {"vocab_size", 256},         {"rms_norm_eps", 1e-5},
                 {"torch_dtype", "bfloat16"}, {"max_position_embeddings", 512}};
  if (more.is_object()) config.update(more);
  test::put_file(folder.path("config.json"), config.dump());
  return "synthetic:" + folder.path("config.json");
}

TEST(Fairseq2, RefusesToCutTiedEmbeddings) {
  const test::TemporaryFolder folder;
  TargetOptions options;
  options.mesh.tp = 2;
  const auto target = describe(synthetic(folder, {{"tie_word_embeddings", true}}), options);
  ASSERT_FALSE(target);
  EXPECT_SAYS(target.error().message, "does not cut a model with tied embeddings");
}

TEST(Fairseq2, CutsTheEmbeddingByTheGeneration) {
  const test::TemporaryFolder folder;
  const auto shape = [&](const json& more, const std::string& version) {
    TargetOptions options;
    options.mesh.tp = 2;
    options.format_version = version;
    const auto target = describe(synthetic(folder, more), options);
    EXPECT_TRUE(target) << target.error().message;
    return target->layout->shape(target->layout->arrays().front());
  };
  EXPECT_EQ(shape({}, ""), (Shape{256, 32}));
  EXPECT_EQ(shape({{"rope_theta", 500000.0}}, ""), (Shape{128, 64}));
  EXPECT_EQ(shape({{"rope_theta", 500000.0}}, "0.4"), (Shape{256, 32}));
  EXPECT_EQ(shape({{"max_position_embeddings", 8192}}, "0.4"), (Shape{128, 64}));
}

TEST(Fairseq2, KeepsValuesThroughEveryTopology) {
  const test::TemporaryFolder folder;
  const auto source = test::open(synthetic(folder, {{"rope_theta", 500000.0}}));
  ASSERT_TRUE(source) << source.error().message;
  struct Case {
    const char* version;
    layout::Mesh mesh;
  };
  for (const auto& [version, mesh] : {Case{"0.8", {1, 1, 1, 1}},
                                      {"0.8", {2, 1, 1, 1}},
                                      {"0.8", {1, 1, 1, 3}},
                                      {"0.8", {4, 1, 1, 5}},
                                      {"0.8", {1, 1, 1, 48}},  // norms leave the last ranks empty
                                      {"0.4", {1, 1, 1, 1}},
                                      {"0.4", {4, 1, 1, 1}}}) {
    TargetOptions options;
    options.format_version = version;
    options.mesh = mesh;
    const std::string path =
        folder.path(std::string(version) + std::to_string(mesh.tp) + "-" + std::to_string(mesh.dp));
    test::convert_naively(*source, "fairseq2", options, path);
    const auto back = test::open(path);
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(back->format->name(), "fairseq2");
    EXPECT_EQ(back->probe.mesh, mesh);
    EXPECT_EQ(test::line_values(*back), test::line_values(*source)) << path;
    for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads", "rope",
                            "vocab_size", "max_position_embeddings", "tie_word_embeddings"}) {
      EXPECT_EQ(back->probe.spec.fields[key], source->probe.spec.fields[key]) << key;
    }
  }
}

TEST(Fairseq2, ReadsEmptyShardsInAnyForm) {
  const test::TemporaryFolder folder;
  const auto source = test::open(synthetic(folder, {{"num_hidden_layers", 1}}));
  TargetOptions options;
  options.mesh.dp = 48;
  auto target = describe_target(*source, "fairseq2", options, test::library());
  ASSERT_TRUE(target) << target.error().message;
  // FSDP1 leaves [0] of f32, or nothing.
  int emptied = 0;
  for (std::size_t f = 0; f < target->files.size(); ++f) {
    auto& items = target->files[f].spec.items;
    auto& arrays = target->files[f].arrays;
    for (std::size_t i = items.size(); i-- > 0;) {
      if (items[i].shape.front() != 0) continue;
      if (++emptied % 2 == 0) {
        items[i].shape = {0};
        items[i].dtype = DType::f32;
      } else {
        items.erase(items.begin() + static_cast<std::ptrdiff_t>(i));
        arrays.erase(arrays.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    const auto image = container::find("torch")->lay_out(target->files[f].spec);
    ASSERT_TRUE(image) << image.error().message;
    target->images[f] = *image;
    for (std::size_t i = 0; i < arrays.size(); ++i) target->offset_of_array[arrays[i]] = image->offsets[i];
  }
  EXPECT_GT(emptied, 20);
  test::write_checkpoint(*target, test::line_values(*source), folder.path("out"));
  const auto back = test::open(folder.path("out"));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(test::line_values(*back), test::line_values(*source));
}

TEST(Fairseq2, TakesTheStepAndItsCardFromAnyPath) {
  const test::TemporaryFolder folder;
  const auto source = test::open(synthetic(folder, {}));
  test::convert_naively(*source, "fairseq2", {}, folder.path("run/checkpoints"));
  const std::string run = folder.path("run"), steps = run + "/checkpoints";
  fs::copy(steps + "/step_0", steps + "/step_7", fs::copy_options::recursive);
  fs::create_directories(steps + "/step_9/trainer");  // its model was not kept
  fs::create_directories(steps + "/step_11.tmp/model/pp_00");
  const auto weights = [&](const std::string& path, Index step) {
    SourceOptions options;
    options.step = step;
    const auto opened = test::open(path, options);
    if (!opened) return opened.error().message;
    return opened->probe.directory.root + "/" + opened->probe.directory.files.front();
  };
  const std::string file = "/model/pp_00/tp_00/sdp_00.pt";
  EXPECT_EQ(weights(run, -1), steps + "/step_7" + file);
  EXPECT_EQ(weights(steps, -1), steps + "/step_7" + file);
  EXPECT_EQ(weights(steps, 0), steps + "/step_0" + file);
  for (const char* path : {"", "/model", "/model/pp_00/tp_00/sdp_00.pt"}) {
    EXPECT_EQ(weights(steps + "/step_0" + path, -1), steps + "/step_0" + file);
  }
  EXPECT_SAYS(weights(run, 9), "there is no step 9 with model weights; there is 0, 7");
  EXPECT_SAYS(weights(steps + "/step_0", 3), "is a checkpoint, not a run");
  test::put_file(folder.path("old/step_3/rank_0.pt"), "");
  SourceOptions from;
  from.from = "fairseq2";
  EXPECT_SAYS(test::open_error(folder.path("old"), from), "step_3/rank_0.pt: data-parallel shards of fairseq2 0.3");
  // A resharded checkpoint stays that of its step.
  const auto opened = test::open(run);
  const auto again = describe_target(*opened, "fairseq2", {}, test::library());
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->files.front().path, "step_7/model/pp_00/tp_00/sdp_00.pt");
}

TEST(Fairseq2, NamesTheFileThatIsMissing) {
  const test::TemporaryFolder folder;
  const auto source = test::open(synthetic(folder, {}));
  ASSERT_TRUE(source) << source.error().message;
  TargetOptions options;
  options.mesh.tp = 2;
  options.mesh.dp = 3;
  const std::string grid = folder.path("grid"), cells = grid + "/step_0/model/pp_00/";
  test::convert_naively(*source, "fairseq2", options, grid);
  const auto error_without = [&](const std::string& path) {
    fs::rename(path, folder.path("away"));
    std::string error = test::open_error(grid);
    fs::rename(folder.path("away"), path);
    return error;
  };
  for (const char* cell : {"tp_00/sdp_00.pt", "tp_00/sdp_02.pt", "tp_01/sdp_01.pt", "tp_01/sdp_02.pt"}) {
    EXPECT_SAYS(error_without(cells + cell), cells + cell + " is missing: ");
  }
  EXPECT_SAYS(error_without(cells + "tp_01"), cells + "tp_01/sdp_00.pt is missing: ");
  EXPECT_SAYS(error_without(cells + "tp_01"), "of 2 tensor-parallel ranks");
  for (const char* tp : {"tp_00", "tp_01"}) fs::remove(cells + tp + "/sdp_02.pt");
  EXPECT_SAYS(test::open_error(grid), cells + "tp_00/sdp_02.pt is missing: ");
  EXPECT_SAYS(test::open_error(grid), "of 3 data-parallel ranks");
  test::put_file(cells + "tp_99999/sdp_99999.pt", "");
  EXPECT_SAYS(test::open_error(grid), cells + "tp_00/sdp_02.pt is missing: ");

  options = {};
  options.mesh.tp = 4;
  options.format_version = "0.4";
  const std::string old = folder.path("old");
  test::convert_naively(*source, "fairseq2", options, old);
  fs::rename(old + "/step_0/model.3.pt", folder.path("away"));
  EXPECT_SAYS(test::open_error(old), "/step_0/model.3.pt is missing: ");
  fs::rename(folder.path("away"), old + "/step_0/model.3.pt");
  fs::remove(old + "/step_0/model.0.pt");
  EXPECT_SAYS(test::open_error(old), "/step_0/model.0.pt is missing: ");
}

TEST(Fairseq2, CountsLayersAndTakesAModelByName) {
  const test::TemporaryFolder folder;
  const auto source = test::open(synthetic(folder, {}));
  test::convert_naively(*source, "fairseq2", {}, folder.path("out"));
  const std::string card = folder.path("out/model.yaml"), text = test::file_bytes(card);
  test::put_file(card, with(text, "num_layers: 3", "num_layers: 2"));
  const auto counted = test::open(folder.path("out"));
  ASSERT_TRUE(counted) << counted.error().message;
  EXPECT_EQ(counted->probe.spec.integer("num_hidden_layers"), 3);
  test::put_file(card, with(text, "num_layers: 3", "num_layers: 4"));
  EXPECT_SAYS(test::open_error(folder.path("out")), "decoder.layers.3.self_attn_layer_norm.weight is missing");
  SourceOptions replaced;
  replaced.config_from = folder.path("config.json");
  test::put_file(card, with(text, "max_seq_len: 512", "max_seq_len: 99"));
  test::put_file(folder.path("out/cc/tokenizer.json"), "{}");
  const auto other = test::open(folder.path("out"), replaced);
  ASSERT_TRUE(other) << other.error().message;
  ASSERT_EQ(other->probe.config_notes.size(), 1u);
  EXPECT_SAYS(other->probe.config_notes.front(), "max_position_embeddings 99 becomes 512");
  EXPECT_TRUE(other->probe.config_notes.front().ends_with(": max_position_embeddings 99 becomes 512"));
  EXPECT_EQ(other->probe.carried.size(), 1u);
  test::put_file(card, "no card: [");
  EXPECT_SAYS(test::open(folder.path("out"), replaced)->probe.config_notes.front(), "which cannot be read");
  fs::remove(card);
  EXPECT_SAYS(test::open_error(folder.path("out")), "name the model by --model");
  SourceOptions options;
  options.model = "llama3_80b";
  EXPECT_SAYS(test::open_error(folder.path("out"), options, Code::usage), "there is no such model");
  EXPECT_SAYS(test::open_error(folder.path("out"), options, Code::usage), "did you mean llama3-70b?");
  options.model = "7b";
  EXPECT_SAYS(test::open_error(folder.path("out"), options), "--model 7b says");
  options.config_from = folder.path("config.json");
  EXPECT_SAYS(test::open_error(folder.path("out"), options, Code::usage), "give one");
  options.model.clear();
  options.config_from = folder.path("config.json");
  const auto named = test::open(folder.path("out"), options);
  ASSERT_TRUE(named) << named.error().message;
  EXPECT_EQ(test::line_values(*named), test::line_values(*source));
}

}  // namespace
}  // namespace reshard::format
