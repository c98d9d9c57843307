// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "src/format/nanotron_config.h"
#include "src/format/nanotron_files.h"
#include "src/format/python_text.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard::format {
namespace {

using nlohmann::json;

TEST(NanotronFiles, ReadsNames) {
  const auto file = NanotronFile::parse(
      "model/model/decoder/0/pp_block/attn/qkv_proj/model_weight_pp-rank-1-of-2_tp-rank-3-of-4.safetensors");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->folder, "model/model/decoder/0/pp_block/attn/qkv_proj/");
  EXPECT_EQ(file->leaf, "weight");
  EXPECT_EQ(file->place->pp, 1);
  EXPECT_EQ(file->place->pp_size, 2);
  EXPECT_EQ(file->place->tp, 3);
  EXPECT_EQ(file->place->tp_size, 4);
  EXPECT_EQ(file->key(), "model/model/decoder/0/pp_block/attn/qkv_proj/model_weight_tp-rank-3-of-4.safetensors");

  const auto old = NanotronFile::parse("a/model_model_weight.safetensors_pp-rank-0-of-1_tp-rank-1-of-2.safetensors");
  ASSERT_TRUE(old);
  EXPECT_EQ(old->key(), "a/model_weight_tp-rank-1-of-2.safetensors");
  EXPECT_EQ(NanotronFile::parse("a/model_weight.safetensors")->key(), "a/model_weight.safetensors");
  EXPECT_EQ(NanotronFile::parse("a/model_merged_gate_up_proj.safetensors")->leaf, "merged_gate_up_proj");
  EXPECT_TRUE(NanotronFile::parse("a/model_w_pp-rank-0-of-1_tp-rank-0-of-1_exp-rank-1-of-2.safetensors")->by_expert);
  for (const char* other :
       {"model_weight.safetensors", "a/weight.safetensors", "a/model_.safetensors", "a/model_weight.bin",
        "a/model_weight_pp-rank-0-of-1.safetensors", "a/model_weight_pp-rank-2-of-2_tp-rank-0-of-1.safetensors",
        "a/model_weight_pp-rank--1-of-2_tp-rank-0-of-1.safetensors",
        "a/model_weight_pp-rank-0-of-1_tp-rank-99999999999999999999-of-2.safetensors",
        "a/model_weight_pp-rank-0-of-1_tp-rank-0-of-1x.safetensors"}) {
    EXPECT_FALSE(NanotronFile::parse(other)) << other;
  }
}

TEST(NanotronFiles, ReadsTuples) {
  EXPECT_EQ(tuple_text({1024, 512}), "(1024, 512)");
  EXPECT_EQ(tuple_text({1024}), "(1024,)");
  EXPECT_EQ(*parse_tuple("(1024, 512)"), (Shape{1024, 512}));
  EXPECT_EQ(*parse_tuple("(np.int64(1024), 512)"), (Shape{1024, 512}));
  EXPECT_EQ(*parse_tuple("(np.int64(1024),)"), (Shape{1024}));
  for (const char* other :
       {"", "(", "1024", "(1024", "(1024, )x", "(-1,)", "(a,)", "(np.int64(1024, 512)", "(99999999999999999999,)"}) {
    EXPECT_FALSE(parse_tuple(other)) << other;
  }
}

// H=512, 8 heads, 4 kv heads, I=1024, V=4096 at TP 2.
constexpr const char* kModel =
    R"({"model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
  "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 4096, "torch_dtype": "bfloat16"})";

Target golden_target(const std::string& config, layout::Mesh mesh) {
  const test::TemporaryFolder folder;
  test::put_file(folder.path("config.json"), config);
  const auto source = test::open("synthetic:" + folder.path("config.json"));
  EXPECT_TRUE(source) << source.error().message;
  TargetOptions options;
  options.mesh = mesh;
  options.final_path = "/data/out";
  auto target = describe_target(*source, "nanotron", options, test::library());
  EXPECT_TRUE(target) << target.error().message;
  return *std::move(target);
}

const TargetFile& file_of(const Target& target, const std::string& path) {
  for (const TargetFile& file : target.files) {
    if (file.path == path) return file;
  }
  ADD_FAILURE() << "no file " << path << "; the first is " << target.files.front().path;
  return target.files.front();
}

TEST(NanotronFiles, SlicesAreTheGoldenOnes) {
  const Target target = golden_target(kModel, {2, 1, 1, 1});
  const auto metadata = [&](const std::string& parameter, int t) {
    return file_of(target, "model/model/" + parameter + "/model_weight_pp-rank-0-of-1_tp-rank-" + std::to_string(t) +
                               "-of-2.safetensors")
        .spec.metadata;
  };
  const std::string layer = "decoder/0/pp_block/";
  EXPECT_EQ(
      metadata(layer + "attn/qkv_proj", 0).at("local_global_slices_pairs"),
      "0,256,None|None,None,None#0,256,None|None,None,None;256,384,None|None,None,None#512,640,None|None,None,None;"
      "384,512,None|None,None,None#768,896,None|None,None,None");
  EXPECT_EQ(
      metadata(layer + "attn/qkv_proj", 1).at("local_global_slices_pairs"),
      "0,256,None|None,None,None#256,512,None|None,None,None;256,384,None|None,None,None#640,768,None|None,None,None;"
      "384,512,None|None,None,None#896,1024,None|None,None,None");
  EXPECT_EQ(metadata(layer + "attn/qkv_proj", 0).at("unsharded_shape"), "(1024, 512)");
  EXPECT_EQ(metadata(layer + "attn/qkv_proj", 0).at("version"), "1.4");
  EXPECT_EQ(metadata(layer + "attn/qkv_proj", 0).size(), 3u);
  EXPECT_EQ(metadata(layer + "mlp/gate_up_proj", 1).at("local_global_slices_pairs"),
            "0,512,None|None,None,None#512,1024,None|None,None,None;512,1024,None|None,None,None#1536,2048,None|None,"
            "None,None");
  EXPECT_EQ(metadata(layer + "mlp/gate_up_proj", 1).at("unsharded_shape"), "(2048, 512)");
  EXPECT_EQ(metadata(layer + "attn/o_proj", 1).at("local_global_slices_pairs"),
            "None,None,None|None,None,None#None,None,None|256,512,None");
  EXPECT_EQ(metadata("token_position_embeddings/pp_block/token_embedding", 1).at("local_global_slices_pairs"),
            "None,None,None|None,None,None#2048,4096,None|None,None,None");
  // One rank still has a pair for each part.
  const Target whole = golden_target(kModel, {1, 1, 1, 1});
  EXPECT_EQ(
      file_of(whole,
              "model/model/decoder/0/pp_block/mlp/gate_up_proj/model_weight_pp-rank-0-of-1_tp-rank-0-of-1.safetensors")
          .spec.metadata.at("local_global_slices_pairs"),
      "0,1024,None|None,None,None#0,1024,None|None,None,None;1024,2048,None|None,None,None#1024,2048,None|None,None,"
      "None");
}

TEST(NanotronFiles, BiasSlicesAreTheGoldenOnes) {
  std::string qwen2 = kModel;
  qwen2.replace(qwen2.find("llama"), 5, "qwen2");
  const Target target = golden_target(qwen2, {2, 1, 1, 1});
  const auto metadata =
      file_of(target,
              "model/model/decoder/0/pp_block/attn/qkv_proj/model_bias_pp-rank-0-of-1_tp-rank-1-of-2.safetensors")
          .spec.metadata;
  EXPECT_EQ(metadata.at("local_global_slices_pairs"),
            "0,256,None#256,512,None;256,384,None#640,768,None;384,512,None#896,1024,None");
  EXPECT_EQ(metadata.at("unsharded_shape"), "(1024,)");
}

TEST(NanotronFiles, UnshardedHeaderIsTheGoldenOne) {
  const Target target = golden_target(kModel, {2, 1, 1, 1});
  for (std::size_t f = 0; f < target.files.size(); ++f) {
    if (!target.files[f].path.ends_with("final_layer_norm/pp_block/model_weight.safetensors")) continue;
    const std::string& header = target.images[f].segments.front().bytes;
    EXPECT_EQ(header.substr(8),
              R"({"__metadata__":{},"data":{"dtype":"BF16","shape":[512],"data_offsets":[0,1024]}}       )");
    return;
  }
  FAIL() << "no final norm";
}

TEST(NanotronFiles, SlicesAreParsedStrictly) {
  const Shape shape = {512, 64}, whole = {1024, 64};
  const auto slices = parse_slices(
      "256,512,None|None,None,None#768,1024,None|None,None,None;0,256,None|None,None,None#0,256,None|0,64,None", shape,
      whole);
  ASSERT_TRUE(slices) << slices.error().message;
  EXPECT_EQ(slices->front().dims, (std::vector<NanotronSlice::Range>{{0, 256, 0}, {0, 64, 0}}));
  EXPECT_EQ(slices->back().dims, (std::vector<NanotronSlice::Range>{{256, 512, 768}, {0, 64, 0}}));
  for (const char* other :
       {"", "#", "0,256,None#0,256,None", "0,256,1|None,None,None#0,256,None|None,None,None",
        "0,256,None|None,None,None#0,255,None|None,None,None", "0,600,None|None,None,None#0,600,None|None,None,None",
        "256,0,None|None,None,None#256,0,None|None,None,None", "0,256,None|None,None,None#0,256,None|None,None,None;",
        "-1,256,None|None,None,None#-1,256,None|None,None,None",
        "0,256,None|None,None,None#0,256,None|None,None,None x"}) {
    EXPECT_FALSE(parse_slices(other, shape, whole)) << other;
  }
}

TEST(NanotronFiles, PlacesByCost) {
  const auto costs = [](Index layers, Index heads, Index hidden, Index ffn, Index vocab) {
    std::vector<Index> all = {0};
    all.insert(all.end(), static_cast<std::size_t>(layers), 4 * heads * hidden + 3 * ffn * hidden);
    all.push_back(0);
    all.push_back(vocab * hidden);
    return all;
  };
  EXPECT_EQ(place_by_cost(costs(8, 512, 512, 1024, 4096), 2), (std::vector<Index>{0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1}));
  const auto llama = place_by_cost(costs(32, 4096, 4096, 14336, 128256), 4);
  EXPECT_EQ(llama[9], 0);   // decoder 8
  EXPECT_EQ(llama[10], 1);  // decoder 9
  EXPECT_EQ(llama[18], 1);
  EXPECT_EQ(llama[19], 2);
  EXPECT_EQ(llama[26], 2);
  EXPECT_EQ(llama[27], 3);
  EXPECT_EQ(llama.back(), 3);
}

std::string sidecar(const Target& target, const std::string& path) {
  for (const Sidecar& one : target.sidecars) {
    if (one.path == path) return one.text;
  }
  ADD_FAILURE() << "no side file " << path;
  return "";
}

TEST(NanotronConfig, WritesTheFieldsOfEachVersion) {
  const auto source = test::open(test::fixture("hf/llama-mha"));
  ASSERT_TRUE(source) << source.error().message;
  TargetOptions options;
  const auto target = describe_target(*source, "nanotron", options, test::library());
  ASSERT_TRUE(target) << target.error().message;
  // What Nanotron wrote in the days of 1.4.
  const json theirs = json::parse(test::file_bytes(test::fixture("nanotron/llama-mha-tp2-v1.4/model_config.json")));
  const json ours = json::parse(sidecar(*target, "model_config.json"));
  for (const auto& [key, value] : theirs.items()) {
    if (key == "vocab_size") continue;
    EXPECT_EQ(ours.value(key, json("absent")), value) << key;
  }
  EXPECT_EQ(ours.size(), theirs.size());
  EXPECT_EQ(sidecar(*target, "checkpoint_metadata.json").back(), '}');

  options.format_version = "1.5";
  const auto newer = describe_target(*source, "nanotron", options, test::library());
  ASSERT_TRUE(newer) << newer.error().message;
  const std::string expected = test::file_bytes(test::fixture("nanotron/llama-mha-pp2/model_config.json"));
  EXPECT_EQ(sidecar(*newer, "model_config.json"), expected);

  options.format_version = "1.3";
  const auto older = describe_target(*source, "nanotron", options, test::library());
  ASSERT_FALSE(older);
  EXPECT_EQ(older.error().code, Code::usage);
}

TEST(NanotronConfig, WritesYamlThatPythonReadsBack) {
  const Target target = golden_target(kModel, {2, 2, 1, 1});
  const std::string yaml = sidecar(target, "config.yaml");
  EXPECT_SAYS(yaml, "general:\n  benchmark_csv_path: null\n");
  EXPECT_SAYS(yaml, "\n  init_method:\n    path: /data/out\n");
  EXPECT_SAYS(yaml, "\n    rms_norm_eps: 1.0e-06\n");
  EXPECT_SAYS(yaml, "\n    is_llama_config: true\n");
  EXPECT_SAYS(yaml, "\n  tp: 2\n");
  EXPECT_SAYS(yaml, "\n  tokenizer_name_or_path: null\n");
}

TEST(NanotronConfig, NamesTheTokenizerThatTravels) {
  const test::TemporaryFolder folder;
  test::put_file(folder.path("tokenizer.json"), "{}");
  SourceOptions with_tokenizer;
  with_tokenizer.tokenizer_from = folder.path();
  const auto source = test::open(test::fixture("hf/llama-mha"), with_tokenizer);
  ASSERT_TRUE(source) << source.error().message;
  TargetOptions options;
  options.final_path = "/data/out";
  const auto target = describe_target(*source, "nanotron", options, test::library());
  ASSERT_TRUE(target) << target.error().message;
  EXPECT_SAYS(sidecar(*target, "config.yaml"), "\n  tokenizer_name_or_path: /data/out\n");
  EXPECT_TRUE(std::any_of(target->sidecars.begin(), target->sidecars.end(), [&](const Sidecar& file) {
    return file.path == "tokenizer.json" && file.copy_from == folder.path("tokenizer.json");
  }));
}

TEST(NanotronConfig, QuotesTextThatLooksLikeAnotherType) {
  EXPECT_EQ(python_yaml({{"a", "1.5"}, {"b", "No"}, {"c", "/x"}, {"d", ""}, {"e", nullptr}, {"f", json::array()}}),
            "a: \"1.5\"\nb: \"No\"\nc: /x\nd: \"\"\ne: null\nf: []\n");
}

TEST(NanotronConfig, NamesWhatItCannotHold) {
  std::string config = kModel;
  config.insert(1,
                R"("made_up_field": 3, "eos_token_id": [7, 8], "rope_scaling": {"type": "linear", "factor": 2.0}, )");
  std::string notes;
  const Target target = golden_target(config, {1, 1, 1, 1});
  for (const std::string& note : target.notes) notes += note + "\n";
  EXPECT_SAYS(notes, "made_up_field");
  EXPECT_SAYS(notes, "eos_token_id");
  EXPECT_SAYS(notes, "rope_scaling");
  EXPECT_EQ(json::parse(sidecar(target, "model_config.json"))["eos_token_id"], 7);
}

std::string read_error(const json& config) {
  std::vector<std::string> notes;
  const auto model = read_model_config(config, "model_config.json", notes);
  return model ? "no error" : model.error().message;
}

TEST(NanotronConfig, RefusesModelsThatNoFamilyDescribes) {
  EXPECT_SAYS(read_error({{"is_starcoder2_config", true}}), "Starcoder2");
  EXPECT_SAYS(read_error({{"hidden_size", 64}}), "is_llama_config");
  EXPECT_SAYS(read_error({{"is_qwen2_config", true}, {"no_rope_layer", 4}}), "no_rope_layer");
  EXPECT_SAYS(read_error({{"is_qwen2_config", true}, {"moe_config", 3}}), "moe_config");
}

TEST(NanotronConfig, RowsAreInterleavedWhereTheKeyIsAbsent) {
  std::vector<std::string> notes;
  const auto interleaved = [&](const json& config) { return read_model_config(config, "", notes)->rope_interleaved; };
  EXPECT_TRUE(interleaved({{"is_llama_config", true}}));
  EXPECT_TRUE(interleaved({{"is_llama_config", true}, {"rope_interleaved", true}}));
  EXPECT_FALSE(interleaved({{"is_llama_config", true}, {"rope_interleaved", false}}));
  EXPECT_FALSE(interleaved({{"is_qwen2_config", true}}));
  EXPECT_TRUE(interleaved({{"is_qwen2_config", true}, {"interleaved_rotary", true}}));
}

TEST(NanotronConfig, ReadsWhichLayersHaveExperts) {
  std::vector<std::string> notes;
  const auto read = [&](const json& layers) {
    return read_model_config({{"is_qwen2_config", true},
                              {"num_hidden_layers", 3},
                              {"sliding_window_size", 16},
                              {"moe_config", {{"shared_expert_intermediate_size", 8}, {"layers", layers}}}},
                             "model_config.json", notes)
        ->hf;
  };
  EXPECT_EQ(read(json::array({-1}))["mlp_only_layers"], json::array());
  EXPECT_EQ(read(json::array({0, 2}))["mlp_only_layers"], json::array({1}));
  EXPECT_EQ(read(json::array())["mlp_only_layers"], json::array({0, 1, 2}));
  // Models with experts have a window with and without biases.
  EXPECT_EQ(read(json::array({-1}))["sliding_window"], 16);
  EXPECT_EQ(notes, std::vector<std::string>());
}

TEST(Nanotron, HoldsExperts) {
  const test::TemporaryFolder folder;
  test::put_file(folder.path("config.json"), R"({"model_type": "qwen2_moe", "hidden_size": 32, "intermediate_size": 48,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "num_experts": 4, "num_experts_per_tok": 2,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 66, "mlp_only_layers": [1],
    "decoder_sparse_step": 1, "router_aux_loss_coef": 0.001, "dtype": "float32"})");
  const auto source = test::open("synthetic:" + folder.path("config.json"));
  ASSERT_TRUE(source) << source.error().message;
  for (const char* version : {"1.4", "1.5"}) {
    TargetOptions options;
    options.mesh = {2, 2, 1, 1};
    options.format_version = version;
    test::convert_naively(*source, "nanotron", options, folder.path(version));
    const auto back = test::open(folder.path(version));
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(back->probe.spec.family, "qwen2_moe");
    EXPECT_EQ(test::line_values(*back), test::line_values(*source));
    for (const char* key : {"num_experts", "num_experts_per_tok", "mlp_only_layers", "decoder_sparse_step", "qkv_bias",
                            "moe_intermediate_size", "router_aux_loss_coef", "norm_topk_prob"}) {
      EXPECT_EQ(back->probe.spec.fields[key], source->probe.spec.fields[key]) << key;
    }
  }
}

TEST(Nanotron, FindsTheStepOfARun) {
  namespace fs = std::filesystem;
  const test::TemporaryFolder run;
  fs::copy(test::fixture("nanotron/llama-mha-pp2"), run.path("900"), fs::copy_options::recursive);
  fs::copy(test::fixture("nanotron/llama-tied-tp2-pp2"), run.path("1000"), fs::copy_options::recursive);
  test::put_file(run.path("latest.txt"), "1000");
  const auto latest = test::open(run.path());
  ASSERT_TRUE(latest) << latest.error().message;
  EXPECT_EQ(latest->probe.directory.root, run.path("1000"));
  SourceOptions options;
  options.step = 900;
  const auto earlier = test::open(run.path(), options);
  ASSERT_TRUE(earlier) << earlier.error().message;
  EXPECT_EQ(earlier->probe.directory.root, run.path("900"));
  options.step = 7;
  EXPECT_SAYS(test::open_error(run.path(), options), "there is no step 7; there is 900, 1000");
  test::put_file(run.path("latest.txt"), "../x");
  EXPECT_SAYS(test::open_error(run.path()), "not the number of a step");
  fs::remove(run.path("latest.txt"));
  EXPECT_SAYS(test::open_error(run.path()),
              run.path() + ": has no latest.txt; give the folder of a step, or --step: there is 900, 1000");
  options.step = 1000;
  const auto later = test::open(run.path(), options);
  ASSERT_TRUE(later) << later.error().message;
  EXPECT_EQ(later->probe.directory.root, run.path("1000"));
}

// All entries are called "data": the file tells which parameter it is.
TEST(Nanotron, NamesArraysByTheirFiles) {
  namespace fs = std::filesystem;
  const test::TemporaryFolder folder;
  const std::string path = folder.path("nt"), known = "/model/model/decoder/0/pp_block/input_layernorm/";
  fs::copy(test::fixture("nanotron/llama-gqa-tp2-pp2"), path, fs::copy_options::recursive);
  for (const std::string unknown : {"/model/model/extra/norm/", "/model/model/decoder/7/pp_block/input_layernorm/"}) {
    fs::create_directories(path + unknown);
    fs::copy(path + known + "model_weight.safetensors", path + unknown + "model_weight.safetensors");
  }
  const std::string error = test::open_error(path);
  EXPECT_SAYS(error,
              "tensor model.extra.norm.weight [64] is not known to the model; convert, verify and diff leave "
              "it out with --exclude");
  EXPECT_SAYS(error, "tensor model.decoder.7.pp_block.input_layernorm.weight [64] is of layer 7 (counted from 0), but");
  EXPECT_EQ(error.find("--passthrough"), std::string::npos) << error;  // the format has no place for it
  SourceOptions options;
  options.exclude = {"*norm*"};
  const auto part = test::open(path, options);
  ASSERT_TRUE(part) << part.error().message;
  EXPECT_EQ(part->dropped.size(), 2u + 4 + 4 + 1);
  EXPECT_EQ(std::count(part->dropped.begin(), part->dropped.end(), "model.extra.norm.weight"), 1);
  EXPECT_EQ(std::count(part->dropped.begin(), part->dropped.end(), "model.final_layer_norm.pp_block.weight"), 1);
  for (const std::string& name : array_names(*part)) EXPECT_NE(name, "data");
}

}  // namespace
}  // namespace reshard::format
