// SPDX-License-Identifier: Apache-2.0
// Checkpoints that are broken between their files: every case is one error (input) that names what is wrong.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A copy of a reference checkpoint, to be damaged.
class Broken {
 public:
  explicit Broken(const std::string& fixture) { fs::copy(test::fixture(fixture), path(), fs::copy_options::recursive); }

  std::string path() const { return folder_.path("c"); }
  std::string path(const std::string& relative) const { return path() + "/" + relative; }
  std::string error() const { return test::open_error(path()); }

  void edit(const std::string& file, const std::function<void(json&)>& change) const {
    json value = json::parse(test::file_bytes(path(file)));
    change(value);
    test::put_file(path(file), value.dump());
  }
  void replace(const std::string& file, const std::string& from, const std::string& to) const {
    std::string bytes = test::file_bytes(path(file));
    ASSERT_EQ(from.size(), to.size());
    const std::size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    test::put_file(path(file), bytes.replace(at, from.size(), to));
  }

 private:
  test::TemporaryFolder folder_;
};

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kSecond = "model-00002-of-00005.safetensors";

TEST(HostileFormat, Nothing) {
  const test::TemporaryFolder folder;
  EXPECT_SAYS(test::open_error(folder.path("absent")), "no such file");
  EXPECT_SAYS(test::open_error(folder.path()), "an empty folder");
  test::put_file(folder.path("x.txt"), "hello");
  EXPECT_SAYS(test::open_error(folder.path()), "x.txt");
  EXPECT_SAYS(test::open_error(folder.path("x.txt")), "begins with the bytes 68 65 6c 6c 6f");
}

TEST(HostileFormat, SafetensorsUnderATorchName) {
  const Broken model("hf/llama-tied");
  fs::rename(model.path("model.safetensors"), model.path("pytorch_model.bin"));
  EXPECT_SAYS(model.error(), "pytorch_model.bin");
}

TEST(HostileFormat, SomethingElseInPlaceOfAFile) {
  const Broken model("hf/llama-gqa-sharded");
  test::put_file(model.path(kSecond), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  EXPECT_SAYS(model.error(), "git-LFS");
  EXPECT_SAYS(model.error(), kSecond);
  test::put_file(model.path(kSecond), "<!DOCTYPE html><html><body>404</body></html>");
  EXPECT_SAYS(model.error(), "HTML");
  test::put_file(model.path(kSecond), "");
  EXPECT_SAYS(model.error(), "empty");
  test::put_file(model.path("config.json"), "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_SAYS(model.error(), "config.json");
  EXPECT_SAYS(model.error(), "git-LFS");
}

TEST(HostileFormat, ATruncatedFile) {
  const Broken model("hf/llama-gqa-sharded");
  fs::resize_file(model.path(kSecond), fs::file_size(model.path(kSecond)) - 1);
  EXPECT_SAYS(model.error(), kSecond);
}

TEST(HostileFormat, IndexPathsThatLeadAway) {
  for (const char* evil : {"../../etc/passwd", "/etc/passwd", "..", "sub/model.safetensors", "a\\b", ""}) {
    const Broken model("hf/llama-gqa-sharded");
    model.edit(kIndex, [&](json& index) { index["weight_map"]["lm_head.weight"] = evil; });
    EXPECT_SAYS(model.error(), "plain name");
  }
}

TEST(HostileFormat, IndexAgainstTheFiles) {
  {
    const Broken model("hf/llama-gqa-sharded");
    fs::remove(model.path(kSecond));
    EXPECT_SAYS(model.error(), std::string("names ") + kSecond + ", which is not there");
  }
  {
    const Broken model("hf/llama-gqa-sharded");
    model.edit(kIndex, [](json& index) { index["weight_map"]["ghost"] = kSecond; });
    EXPECT_SAYS(model.error(), "lists tensor ghost");
  }
  {
    const Broken model("hf/llama-gqa-sharded");
    model.edit(kIndex, [](json& index) { index["weight_map"].erase("lm_head.weight"); });
    EXPECT_SAYS(model.error(), "lm_head.weight");
  }
  {
    const Broken model("hf/llama-gqa-sharded");
    model.edit(kIndex, [](json& index) { index["weight_map"]["lm_head.weight"] = kSecond; });
    EXPECT_SAYS(model.error(),
                "lists tensor lm_head.weight in model-00002-of-00005.safetensors, which does not hold it");
  }
  {
    const Broken model("hf/llama-gqa-sharded");
    fs::copy(model.path(kSecond), model.path("model-00002-of-00004.safetensors"));
    EXPECT_SAYS(model.error(), "left over from another save");
    model.edit(kIndex, [](json& index) { index["weight_map"]["x"] = "model-00002-of-00004.safetensors"; });
    EXPECT_SAYS(model.error(), "mixes files of two saves");
  }
  {
    const Broken model("hf/llama-gqa-sharded");
    fs::copy(model.path(kSecond), model.path("model.safetensors"));
    EXPECT_SAYS(model.error(), "holds both");
  }
  {
    const Broken model("hf/llama-gqa-sharded");
    fs::remove(model.path(kIndex));
    EXPECT_SAYS(model.error(), "has no index beside it");
  }
  {
    const Broken model("hf/llama-gqa-sharded");
    test::put_file(model.path(kIndex), R"({"weight_map": {"a": "b", "a": "c"}})");
    EXPECT_SAYS(model.error(), "duplicate key");
  }
  {
    const Broken model("hf/llama-gqa-sharded");
    model.edit(kIndex, [](json& index) { index["metadata"]["total_size"] = 1; });
    const auto opened = test::open(model.path());
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_SAYS(opened->probe.notes.front(), "total_size is 1");
  }
}

TEST(HostileFormat, LinksThatLeadAway) {
  const Broken model("hf/llama-tied");
  const test::TemporaryFolder elsewhere;
  for (const char* file : {"model.safetensors", "config.json", "generation_config.json"}) {
    SCOPED_TRACE(file);
    fs::rename(model.path(file), elsewhere.path(file));
    fs::create_symlink(elsewhere.path(file), model.path(file));
    EXPECT_SAYS(model.error(), file);
    EXPECT_SAYS(model.error(), "--follow-symlinks");
    format::SourceOptions options;
    options.follow = io::Follow::all;
    EXPECT_TRUE(test::open(model.path(), options));
    fs::remove(model.path(file));
    fs::rename(elsewhere.path(file), model.path(file));
  }
}

TEST(HostileFormat, ConfigAgainstTheTensors) {
  const auto with = [](const char* key, const json& value) {
    const Broken model("hf/llama-mha");
    model.edit("config.json", [&](json& config) { config[key] = value; });
    return model.error();
  };
  EXPECT_SAYS(with("num_hidden_layers", 3),
              "model.layers.2.self_attn.q_proj.weight is missing, expected BF16 [64, 64]");
  EXPECT_SAYS(with("num_hidden_layers", 1), "model.layers.1.");
  EXPECT_SAYS(with("intermediate_size", 177), "has shape [176, 64], expected [177, 64]");
  EXPECT_SAYS(with("intermediate_size", 177), "config.json");
  EXPECT_SAYS(with("vocab_size", 260), "model.embed_tokens.weight has shape [259, 64], expected [260, 64]");
  EXPECT_SAYS(with("attention_bias", true), "q_proj.bias is missing");
  EXPECT_SAYS(with("num_hidden_layers", 1e3), "num_hidden_layers");
  EXPECT_SAYS(with("num_hidden_layers", -1), "num_hidden_layers");
  EXPECT_SAYS(with("num_hidden_layers", 4'000'000'000'000), "num_hidden_layers");
  EXPECT_SAYS(with("vocab_size", 9'000'000'000'000'000'000), "overflow");
  EXPECT_SAYS(with("model_type", 7), "model_type");
  // Of two checkpoints it has to be said which one is meant.
  const std::vector<std::pair<const char*, json>> contradictions = {{"num_attention_heads", 7},
                                                                    {"num_attention_heads", 0},
                                                                    {"head_dim", 7},
                                                                    {"head_dim", 0},
                                                                    {"num_hidden_layers", 0},
                                                                    {"num_hidden_layers", 70'000},
                                                                    {"vocab_size", 9'000'000'000'000'000'000}};
  for (const auto& [key, value] : contradictions) {
    SCOPED_TRACE(key);
    EXPECT_SAYS(with(key, value), "/c/config.json: ");
  }
  EXPECT_SAYS(with("num_attention_heads", 7), "/c/config.json: llama model: num_attention_heads (7) is not a multiple");
}

// What a rule describes is no stranger to be carried along: the config is wrong.
TEST(HostileFormat, TensorsThatTheConfigLeavesOut) {
  const auto error_of = [](const char* fixture, const char* key, const json& value) {
    const Broken model(fixture);
    model.edit("config.json", [&](json& config) { config[key] = value; });
    const std::string error = model.error();
    EXPECT_EQ(error.find("--passthrough carries"), std::string::npos) << error;
    return error;
  };
  EXPECT_SAYS(
      error_of("hf/llama-mha", "num_hidden_layers", 1),
      "tensor model.layers.1.input_layernorm.weight [64] is of layer 1 (counted from 0), but the configuration's "
      "number of layers is 1");
  EXPECT_SAYS(error_of("hf/gpt2", "n_layer", 1), "is of layer 1 (counted from 0), but");
  EXPECT_SAYS(error_of("hf/mixtral", "num_local_experts", 2), "but the configuration's number of experts is 2");
  EXPECT_SAYS(error_of("hf/qwen3", "attention_bias", true), "bias is missing");
}

TEST(HostileFormat, AHeadThatIsNeitherTiedNorThere) {
  const std::string error = test::open_error(test::fixture("hf/llama-tied-no-head"));
  EXPECT_SAYS(error, "lm_head.weight is missing");
  EXPECT_SAYS(error, "not tied silently");
}

TEST(HostileFormat, AWrongDtype) {
  const Broken model("hf/llama-tied");
  model.replace("model.safetensors", R"("dtype":"BF16")", R"("dtype":"I16" )");
  EXPECT_SAYS(model.error(), "is I16, expected BF16");
}

const std::string kQkv = "model/model/decoder/0/pp_block/attn/qkv_proj/";

std::string shard(const std::string& folder, int t, int size) {
  return folder + "model_weight_pp-rank-0-of-1_tp-rank-" + std::to_string(t) + "-of-" + std::to_string(size) +
         ".safetensors";
}

TEST(HostileFormat, NanotronShards) {
  const char* fixture = "nanotron/llama-gqa-tp4";
  {
    const Broken model(fixture);
    fs::remove(model.path(shard(kQkv, 2, 4)));
    EXPECT_SAYS(model.error(),
                "tp-rank-2-of-4.safetensors: tensor model.decoder.0.pp_block.attn.qkv_proj.weight is missing");
  }
  {
    const Broken model(fixture);
    fs::copy(model.path(shard(kQkv, 1, 4)), model.path(shard(kQkv, 1, 2)));
    EXPECT_SAYS(model.error(), "mixes two topologies");
  }
  {
    const Broken model(fixture);
    const std::string other = kQkv + "model_weight_pp-rank-0-of-2_tp-rank-0-of-4.safetensors";
    fs::copy(model.path(shard(kQkv, 0, 4)), model.path(other));
    EXPECT_SAYS(model.error(), "mixes two topologies");
  }
  {
    const Broken model(fixture);
    model.replace(shard(kQkv, 1, 4), "#16,32,None", "#00,16,None");
    EXPECT_SAYS(model.error(), "local_global_slices_pairs");
  }
  {
    const Broken model(fixture);
    model.replace(shard(kQkv, 1, 4), "\"(128, 64)\"", "\"(127, 64)\"");
    EXPECT_SAYS(model.error(), "unsharded_shape");
  }
  {
    const Broken model(fixture);
    model.replace(shard(kQkv, 1, 4), R"("version":"1.5")", R"("version":"1.4")");
    EXPECT_SAYS(model.error(), "version 1.4");
    EXPECT_SAYS(model.error(), "version 1.5");
  }
  {
    const Broken model(fixture);
    model.replace(shard(kQkv, 1, 4), R"("version":"1.5")", R"("version":"9.9")");
    EXPECT_SAYS(model.error(), "9.9");
  }
  {
    const Broken model(fixture);
    model.replace(shard(kQkv, 1, 4), R"("version")", R"("concat_")");
    EXPECT_SAYS(model.error(), "before 1.2");
  }
  {
    const Broken model(fixture);
    test::put_file(model.path(kQkv + "notes.txt"), "x");
    EXPECT_SAYS(model.error(), "notes.txt");
  }
  {
    const Broken model(fixture);
    fs::rename(model.path(shard(kQkv, 1, 4)),
               model.path(kQkv + "model_weight_pp-rank-0-of-1_tp-rank-1-of-4_exp-rank-0-of-2.safetensors"));
    EXPECT_SAYS(model.error(), "experts");
  }
  {
    const Broken model(fixture);
    const auto files = io::list_files(model.path());
    for (const std::string& file : *files) {
      const std::size_t at = file.rfind("-of-4");
      if (at != std::string::npos)
        fs::rename(model.path(file), model.path(std::string(file).replace(at, 5, "-of-1000000000000")));
    }
    EXPECT_SAYS(model.error(), "ranks");
  }
  {
    const Broken model(fixture);
    fs::remove_all(model.path("model"));
    EXPECT_SAYS(model.error(), "model");
  }
  {
    const Broken model(fixture);
    model.edit("model_config.json", [](json& config) { config["num_key_value_heads"] = 2; });
    EXPECT_SAYS(model.error(), "does not replicate kv heads");
  }
  {
    const Broken model(fixture);
    model.edit("model_config.json", [](json& config) { config["vocab_size"] = 261; });
    EXPECT_SAYS(model.error(), "vocab_size 261 is no multiple of the 4");
  }
}

// The same parameter saved by two pipeline stages.
TEST(HostileFormat, NanotronParametersOfTwoStages) {
  const Broken model("nanotron/llama-gqa-tp2-pp2");
  fs::copy(model.path(kQkv + "model_weight_pp-rank-0-of-2_tp-rank-0-of-2.safetensors"),
           model.path(kQkv + "model_weight_pp-rank-1-of-2_tp-rank-0-of-2.safetensors"));
  EXPECT_SAYS(model.error(), "stored twice");
}

// All ranks end with the same error, whoever met it.
TEST(HostileFormat, RanksAgreeOnErrors) {
  const Broken model("nanotron/llama-gqa-tp4");
  fs::resize_file(model.path(shard(kQkv, 2, 4)), 100);
  comm::run_virtual_ranks(3, [&](comm::Comm& comm) {
    const auto opened = format::open_checkpoint(model.path(), {}, test::library(), comm);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, Code::input);
    EXPECT_SAYS(opened.error().message, "tp-rank-2-of-4");
  });
}

TEST(HostileFormat, ASourceThatChanges) {
  const Broken model("hf/llama-tied");
  const auto opened = test::open(model.path());
  ASSERT_TRUE(opened);
  EXPECT_TRUE(format::check_unchanged(*opened));
  fs::resize_file(model.path("model.safetensors"), 1000);
  EXPECT_FALSE(format::check_unchanged(*opened));
}

}  // namespace
}  // namespace reshard
