// SPDX-License-Identifier: Apache-2.0
#include "src/format/llms_from_scratch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "src/format/buffers.h"
#include "src/format/llms_from_scratch_config.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// --- buffers

std::vector<float> floats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

model::Spec spec_with_theta(double theta) {
  model::Spec spec;
  spec.fields["rope"] = {{"theta", theta}, {"type", "default"}};
  return spec;
}

TEST(Buffers, MasksWhatComesLater) {
  const auto mask = make_buffer("causal_mask", {}, {3, 3}, DType::f32);
  ASSERT_TRUE(mask) << mask.error().message;
  EXPECT_EQ(floats(**mask), (std::vector<float>{0, 1, 1, 0, 0, 1, 0, 0, 0}));
}

TEST(Buffers, TurnsByTheFrequencies) {
  const auto cos = make_buffer("rope_cos", spec_with_theta(10000), {4, 6}, DType::f32);
  const auto sin = make_buffer("rope_sin", spec_with_theta(10000), {4, 6}, DType::f32);
  ASSERT_TRUE(cos && sin);
  for (int position = 0; position < 4; ++position) {
    for (int column = 0; column < 6; ++column) {
      const double angle = position * std::pow(10000.0, -(column % 3) / 3.0);
      const auto at = static_cast<std::size_t>(position * 6 + column);
      EXPECT_NEAR(floats(**cos)[at], std::cos(angle), 1e-6);
      EXPECT_NEAR(floats(**sin)[at], std::sin(angle), 1e-6);
    }
  }
  const auto frequencies = make_buffer("rope_freqs", spec_with_theta(500000), {2}, DType::f32);
  ASSERT_TRUE(frequencies);
  EXPECT_EQ(floats(**frequencies).front(), 1.0F);
  EXPECT_NEAR(floats(**frequencies).back(), 1 / std::sqrt(500000.0), 1e-8);
  const auto narrow = make_buffer("rope_freqs", spec_with_theta(500000), {2}, DType::bf16);
  ASSERT_TRUE(narrow);
  EXPECT_EQ((*narrow)->substr(0, 2), std::string("\x80\x3f"));
}

TEST(Buffers, RefusesWhatItCannotMake) {
  const auto error = [](const char* name, const Shape& shape, DType dtype) {
    const auto buffer = make_buffer(name, {}, shape, dtype);
    return buffer ? "no error" : buffer.error().message;
  };
  EXPECT_SAYS(error("mask", {2, 2}, DType::f32), "there is no buffer \"mask\"");
  EXPECT_SAYS(error("causal_mask", {2, 3}, DType::f32), "expected a square");
  EXPECT_SAYS(error("causal_mask", {2, 2}, DType::boolean), "expected F32");
  EXPECT_SAYS(error("rope_cos", {2, 3}, DType::f32), "even head_dim");
  EXPECT_SAYS(error("rope_cos", {2, 0}, DType::f32), "even head_dim");
  EXPECT_SAYS(error("rope_freqs", {2, 2}, DType::f32), "one dimension");
  EXPECT_SAYS(error("causal_mask", {131072, 131072}, DType::f32), "more than 256 MiB");
  EXPECT_SAYS(error("causal_mask", {Index{1} << 40, Index{1} << 40}, DType::f32), "more than 256 MiB");
}

// --- configs

Directory directory_with(std::initializer_list<const char*> names) {
  Directory directory;
  directory.root = "x";
  for (const char* name : names) directory.entries.push_back({{name, DType::bf16, {}, 0, 0, {}}, 0});
  return directory;
}

const json kLlama = {{"vocab_size", 259},   {"context_length", 512}, {"emb_dim", 64},    {"n_heads", 8},
                     {"n_layers", 4},       {"hidden_dim", 176},     {"n_kv_groups", 4}, {"rope_base", 500000.0},
                     {"dtype", "bfloat16"}, {"rope_freq", nullptr}};

Expected<json> read(const json& config, const Directory& directory) {
  std::vector<std::string> notes;
  return read_book_config(config, directory, "x.json", notes);
}

std::string read_error(const json& config, const Directory& directory) {
  const auto hf = read(config, directory);
  return hf ? "no error" : hf.error().message;
}

TEST(BookConfig, TellsTheModelByItsWeights) {
  const auto kind = [](std::initializer_list<const char*> names, const json& more) {
    json config = kLlama;
    if (more.is_object()) config.update(more);
    const auto hf = read(config, directory_with(names));
    return hf ? hf->at("model_type").get<std::string>() : hf.error().message;
  };
  constexpr const char* kQuery = "trf_blocks.0.att.W_query.weight";
  EXPECT_EQ(kind({kQuery}, {}), "llama");
  EXPECT_EQ(kind({"pos_emb.weight"}, {{"qkv_bias", true}}), "gpt2");
  EXPECT_EQ(kind({kQuery, "trf_blocks.0.att.q_norm.scale"}, {{"head_dim", 16}}), "qwen3");
  EXPECT_EQ(kind({kQuery, "trf_blocks.0.att.q_norm.scale", "trf_blocks.0.ff.gate.weight"},
                 {{"num_experts", 8}, {"num_experts_per_tok", 2}, {"moe_hidden_dim", 48}}),
            "qwen3_moe");
  EXPECT_SAYS(kind({"decoder.weight"}, {}), "x: holds none of the book's models");
  EXPECT_SAYS(kind({kQuery, "trf_blocks.0.ff.gate.weight"}, {}), "no family has them");
}

TEST(BookConfig, RefusesWhatItCannotRead) {
  const Directory llama = directory_with({"trf_blocks.0.att.W_query.weight"});
  const auto changed = [](const json& patch) {
    json config = kLlama;
    config.merge_patch(patch);
    return config;
  };
  EXPECT_SAYS(read_error(json::array(), llama), "x.json: expected a JSON object");
  EXPECT_SAYS(read_error(changed({{"n_heads", nullptr}}), llama), "x.json: has no n_heads");
  EXPECT_SAYS(read_error(changed({{"n_heads", "8"}}), llama), "n_heads: expected a non-negative integer");
  EXPECT_SAYS(read_error(changed({{"rope_base", "x"}}), llama), "rope_base: expected a number");
  EXPECT_SAYS(read_error(changed({{"rope_freq", {{"factor", 8.0}}}}), llama), "rope_freq: has no low_freq_factor");
  const Directory gpt2 = directory_with({"pos_emb.weight"});
  EXPECT_SAYS(read_error(kLlama, gpt2), "x.json: qkv_bias: expected true or false");
  EXPECT_SAYS(read_error(changed({{"qkv_bias", 0}}), gpt2), "x.json: qkv_bias: expected true or false");
  // Llama 2's config says neither kv heads nor theta.
  const auto llama2 = read(changed({{"n_kv_groups", nullptr}, {"rope_base", nullptr}}), llama);
  ASSERT_TRUE(llama2) << llama2.error().message;
  EXPECT_EQ(llama2->at("num_key_value_heads"), 8);
  EXPECT_EQ(llama2->at("rope_theta"), 10000);
  EXPECT_EQ(llama2->at("rms_norm_eps"), 1e-5);
}

std::string sidecar(const Target& target, const std::string& path) {
  for (const Sidecar& one : target.sidecars) {
    if (one.path == path) return one.text;
  }
  ADD_FAILURE() << "no side file " << path;
  return "";
}

Expected<Target> describe(const std::string& src, const TargetOptions& options = {}) {
  const auto source = test::open(src);
  EXPECT_TRUE(source) << source.error().message;
  return describe_target(*source, "llms_from_scratch", options, test::library());
}

TEST(BookConfig, WritesTheDictionariesOfThePackage) {
  for (const char* base : {"llama-tied", "gpt2"}) {
    const auto target = describe(test::fixture(std::string("hf/") + base));
    ASSERT_TRUE(target) << target.error().message;
    json expected = json::parse(test::file_bytes(test::fixture(std::string("llms_from_scratch/") + base + ".json")));
    if (expected.contains("drop_rate"))
      expected["drop_rate"] = 0.1;  // as the model says; the dictionary is for inference
    EXPECT_EQ(json::parse(sidecar(*target, "model.json")), expected) << base;
  }
  const auto target = describe(test::fixture("hf/qwen3-moe"));
  std::string notes;
  for (const std::string& note : target->notes) notes += note + "\n";
  EXPECT_SAYS(notes, "norm_topk_prob is false");
}

// --- the format

TEST(LlmsFromScratch, RefusesWhatTheClassesCannotHold) {
  const auto error = [](const std::string& base, const std::string& version, const std::string& dst) {
    TargetOptions options;
    options.format_version = version;
    options.final_path = dst;
    const auto target = describe(test::fixture("hf/" + base), options);
    return target ? "no error" : target.error().message;
  };
  EXPECT_SAYS(error("llama-gqa", "llama2", ""), "num_key_value_heads is 4 of 8");
  EXPECT_SAYS(error("llama-gqa", "gpt2", ""), "llms_from_scratch has llama3 and llama2");
  EXPECT_SAYS(error("gpt2", "llama2", ""), "llms_from_scratch has gpt2 and gpt2-fast");
  EXPECT_SAYS(error("gpt2", "", "/out/model.pth"), "name a folder");
  EXPECT_SAYS(error("mistral", "", ""), "sliding window");
  EXPECT_SAYS(error("qwen2", "", ""), "biases on q, k and v");
  EXPECT_SAYS(error("mixtral", "", ""), "has no Mixtral");
}

TEST(LlmsFromScratch, OrdersArraysAsTheClassesDo) {
  TargetOptions options;
  options.format_version = "llama2";
  const auto names = [](const Expected<Target>& target) {
    EXPECT_TRUE(target) << target.error().message;
    std::vector<std::string> all;
    for (const auto& item : target->files.front().spec.items) all.push_back(item.name);
    return all;
  };
  const auto notebook = describe(test::fixture("hf/llama-mha"), options);
  const std::vector<std::string> llama2 = names(notebook);
  EXPECT_EQ(std::vector<std::string>(llama2.begin(), llama2.begin() + 6),
            (std::vector<std::string>{"tok_emb.weight", "trf_blocks.0.att.mask", "trf_blocks.0.att.cos",
                                      "trf_blocks.0.att.sin", "trf_blocks.0.att.W_query.weight",
                                      "trf_blocks.0.att.W_key.weight"}));
  // Layers hold one mask between them in memory.
  const auto& items = notebook->files.front().spec.items;
  const auto masks = [&](const char* name) {
    return std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.name == name; })->content;
  };
  EXPECT_EQ(masks("trf_blocks.0.att.mask"), masks("trf_blocks.1.att.mask"));
  const std::vector<std::string> experts = names(describe(test::fixture("hf/qwen3-moe")));
  const auto first = std::find(experts.begin(), experts.end(), "trf_blocks.0.ff.fc1.0.weight");
  EXPECT_EQ(first[1], "trf_blocks.0.ff.fc1.1.weight");
  EXPECT_EQ(first[8], "trf_blocks.0.ff.fc2.0.weight");
  EXPECT_EQ(first[-1], "trf_blocks.0.ff.gate.weight");
}

TEST(LlmsFromScratch, KeepsValuesInEveryClass) {
  const test::TemporaryFolder folder;
  struct Case {
    const char *base, *version;
  };
  for (const auto& [base, version] : {Case{"gpt2", "gpt2"},
                                      {"gpt2", "gpt2-fast"},
                                      {"llama-mha", "llama2"},
                                      {"llama-gqa", "llama3"},
                                      {"llama-tied", "llama3"},
                                      {"qwen3", ""},
                                      {"qwen3-moe", ""}}) {
    // In f32, as some norms are in any case.
    const std::string path = folder.path(std::string(base) + version), config_path = path + "-config.json";
    json config = json::parse(test::file_bytes(test::fixture(std::string("hf/") + base + "/config.json")));
    config["dtype"] = "float32";
    test::put_file(config_path, config.dump());
    const auto source = test::open("synthetic:" + config_path);
    ASSERT_TRUE(source) << source.error().message;
    TargetOptions options;
    options.format_version = version;
    test::convert_naively(*source, "llms_from_scratch", options, path);
    const auto back = test::open(path);
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(back->format->name(), "llms_from_scratch");
    EXPECT_EQ(back->probe.spec.family, source->probe.spec.family);
    EXPECT_EQ(test::line_values(*back), test::line_values(*source)) << path;
    EXPECT_EQ(back->probe.spec.flag("tie_word_embeddings"), source->probe.spec.flag("tie_word_embeddings"));
    // A file by itself, in a folder with others.
    EXPECT_TRUE(test::open(path + "/model.pth"));
  }
}

TEST(LlmsFromScratch, TakesAModelWithoutBiasesOfQKAndV) {
  const test::TemporaryFolder folder;
  json config = json::parse(test::file_bytes(test::fixture("hf/gpt2/config.json")));
  config["dtype"] = "float32";
  config["qkv_bias"] = false;
  test::put_file(folder.path("config.json"), config.dump());
  const auto source = test::open("synthetic:" + folder.path("config.json"));
  ASSERT_TRUE(source) << source.error().message;
  for (const std::string version : {"gpt2", "gpt2-fast"}) {
    TargetOptions options;
    options.format_version = version;
    test::convert_naively(*source, "llms_from_scratch", options, folder.path(version));
    EXPECT_EQ(json::parse(test::file_bytes(folder.path(version + "/model.json"))).at("qkv_bias"), false);
    const auto book = test::open(folder.path(version));
    ASSERT_TRUE(book) << book.error().message;
    for (const Directory::Entry& entry : book->probe.directory.entries) {
      for (const char* name : {".W_query.bias", ".W_key.bias", ".W_value.bias", ".qkv.bias"}) {
        EXPECT_FALSE(entry.entry.name.ends_with(name)) << entry.entry.name;
      }
    }
    EXPECT_EQ(test::line_values(*book), test::line_values(*source));
    // Hugging Face's class has them in any case: zeros, which are no weights when they come back.
    for (const std::string format : {"hf", "hf_bin", "hdf5"}) {
      const std::string path = folder.path(version + "-" + format);
      test::convert_naively(*book, format, {}, path);
      const auto back = test::open(path);
      ASSERT_TRUE(back) << back.error().message;
      EXPECT_FALSE(back->probe.spec.flag("qkv_bias"));
      EXPECT_EQ(back->canon->find("attn.q.bias"), -1);
      EXPECT_EQ(test::line_values(*back), test::line_values(*source)) << path;
      for (const char* zeros : {"transformer.h.0.attn.c_attn.bias", "transformer.h.1.attn.c_attn.bias"}) {
        EXPECT_EQ(std::count(back->dropped.begin(), back->dropped.end(), zeros), 1) << zeros;
      }
      EXPECT_EQ(back->probe.bytes_read, 2 * 3 * 48 * 4);
    }
  }
  // What was trained since is not dropped in silence.
  const std::string file = folder.path("gpt2-hf/model.safetensors");
  const auto before = test::open(file);
  ASSERT_TRUE(before) << before.error().message;
  const auto& entries = before->probe.directory.entries;
  const auto trained = std::find_if(entries.begin(), entries.end(), [](const Directory::Entry& entry) {
    return entry.entry.name == "transformer.h.1.attn.c_attn.bias";
  });
  ASSERT_NE(trained, entries.end());
  std::string bytes = test::file_bytes(file);
  bytes[static_cast<std::size_t>(trained->entry.offset + trained->entry.length - 1)] = 1;
  test::put_file(file, bytes);
  EXPECT_SAYS(test::open_error(folder.path("gpt2-hf")), "tensor transformer.h.1.attn.c_attn.bias is not all zeros");
  EXPECT_SAYS(test::open_error(folder.path("gpt2-hf")), "config.json says that qkv_bias is false: correct that");
}

TEST(LlmsFromScratch, SharesATiedHeadWhereItsClassDoes) {
  const auto head = [](const char* base) {
    const auto target = describe(test::fixture(std::string("hf/") + base));
    EXPECT_TRUE(target) << target.error().message;
    return target->files.front().spec.items.back();
  };
  EXPECT_EQ(head("llama-tied").name, "out_head.weight");
  EXPECT_EQ(head("llama-tied").repeats, 0);
  EXPECT_EQ(head("gpt2").name, "out_head.weight");
  EXPECT_EQ(head("gpt2").repeats, -1);
}

// The target of a base with every item renamed by `rename`, written below `path`.
void write_renamed(const std::string& base, const std::function<std::string(const std::string&)>& rename,
                   const std::string& path, const std::vector<container::FileSpec::Item>& more = {}) {
  const auto source = test::open(test::fixture("hf/" + base));
  ASSERT_TRUE(source) << source.error().message;
  auto target = describe_target(*source, "llms_from_scratch", {}, test::library());
  ASSERT_TRUE(target) << target.error().message;
  TargetFile& file = target->files.front();
  for (auto& item : file.spec.items) item.name = rename(item.name);
  file.spec.items.insert(file.spec.items.end(), more.begin(), more.end());
  file.arrays.resize(file.spec.items.size(), kExtra);
  const auto image = container::find("torch")->lay_out(file.spec);
  ASSERT_TRUE(image) << image.error().message;
  target->images.front() = *image;
  for (std::size_t i = 0; i < file.arrays.size(); ++i) {
    if (file.arrays[i] != kExtra) target->offset_of_array[file.arrays[i]] = image->offsets[i];
  }
  test::write_checkpoint(*target, test::line_values(*source), path);
}

TEST(LlmsFromScratch, UnwrapsWhatTrainingCodeWraps) {
  const test::TemporaryFolder folder;
  const auto source = test::open(test::fixture("hf/llama-gqa"));
  for (const char* prefix : {"_orig_mod.", "module.", "model_state_dict.", "model_state_dict._orig_mod."}) {
    const std::string path = folder.path(prefix);
    write_renamed(
        "llama-gqa", [&](const std::string& name) { return prefix + name; }, path);
    const auto back = test::open(path);
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(test::line_values(*back), test::line_values(*source)) << prefix;
  }
  // Optimizer states are no weights; buffers may lie anywhere.
  const auto extra = [](const char* name, const Shape& shape) {
    const auto bytes = std::make_shared<const std::string>(static_cast<std::size_t>(4 * *num_elements(shape)), '\1');
    return container::FileSpec::Item{name, DType::f32, shape, 0, -1, bytes};
  };
  write_renamed("llama-gqa", [](const std::string& name) { return "model_state_dict." + name; },
                folder.path("training"),
                {extra("model_state_dict.mask", {4, 4}), extra("model_state_dict.trf_blocks.0.att.cos", {4, 2}),
                 extra("optimizer_state_dict.state.0.exp_avg", {259, 64})});
  const auto training = test::open(folder.path("training"));
  ASSERT_TRUE(training) << training.error().message;
  EXPECT_EQ(test::line_values(*training), test::line_values(*source));
  EXPECT_SAYS(training->probe.conversion_notes.front(), "not converted: optimizer_state_dict");
  EXPECT_EQ(training->dropped.size(), 3u);
}

TEST(LlmsFromScratch, FindsItsConfig) {
  const test::TemporaryFolder folder;
  write_renamed(
      "llama-gqa", [](const std::string& name) { return name; }, folder.path("a"));
  fs::rename(folder.path("a/model.json"), folder.path("other.json"));
  EXPECT_SAYS(test::open_error(folder.path("a")), "has no model.json");
  SourceOptions options;
  options.config_from = folder.path("other.json");
  EXPECT_TRUE(test::open(folder.path("a"), options));
  options.config_from = test::fixture("hf/llama-gqa");
  EXPECT_TRUE(test::open(folder.path("a"), options));
  options.config_from = test::fixture("hf/llama-mha");
  EXPECT_SAYS(test::open_error(folder.path("a"), options), "does not hold what");
  fs::copy(folder.path("a/model.pth"), folder.path("a/second.pth"));
  EXPECT_SAYS(test::open_error(folder.path("a")), "holds several, model.pth, second.pth");
}

}  // namespace
}  // namespace reshard::format
