// SPDX-License-Identifier: Apache-2.0
// Random models of all families through the real formats: there and back is the identity, and ways do not matter.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/support/program.h"

namespace reshard::test {
namespace {

using Json = nlohmann::ordered_json;

struct Random {
  std::mt19937_64 engine;
  Index any(Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(engine); }
  template <class T>
  T one_of(std::initializer_list<T> from) {
    return *(from.begin() + any(0, std::ssize(from) - 1));
  }
};

struct Case {
  std::string family;
  Json config;
  bool nanotron, meta;
  Index groups, heads, ffn;
};

/// A small model with sizes that no power of two divides well.
Case random_case(Random& random) {
  Case c;
  c.family = random.one_of<std::string>(
      {"llama", "llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "gpt2"});
  if (c.family == "gpt2") {
    const Index heads = random.any(1, 4);
    c.config = {{"model_type", "gpt2"},
                {"architectures", {"GPT2LMHeadModel"}},
                {"n_embd", heads * random.any(3, 9)},
                {"n_head", heads},
                {"n_layer", random.any(1, 3)},
                {"n_positions", random.any(5, 20)},
                {"vocab_size", random.any(20, 90)},
                {"torch_dtype", "float32"}};
    c.nanotron = c.meta = false;
    return c;
  }
  c.groups = random.one_of<Index>({1, 2, 3, 4});
  const Index heads = c.heads = c.groups * random.any(1, 3), head_dim = 2 * random.any(1, 5);
  c.ffn = 12 * random.any(1, 4);
  c.config = {{"model_type", c.family},
              {"hidden_size", heads * head_dim},
              {"intermediate_size", c.ffn},
              {"num_hidden_layers", random.any(1, 4)},
              {"num_attention_heads", heads},
              {"num_key_value_heads", c.groups},
              {"head_dim", head_dim},
              {"vocab_size", random.any(30, 200)},
              {"max_position_embeddings", 64},
              {"rms_norm_eps", 1e-5},
              {"rope_theta", 10000.0},
              {"tie_word_embeddings", random.any(0, 1) == 1},
              {"torch_dtype", random.one_of<std::string>({"bfloat16", "float32", "float16"})}};
  if (c.family.find("moe") != std::string::npos || c.family == "mixtral") {
    c.config["num_experts"] = c.config["num_local_experts"] = random.any(2, 5);
    c.config["num_experts_per_tok"] = 2;
    c.config["moe_intermediate_size"] = 4 * random.any(1, 4);
    c.config["shared_expert_intermediate_size"] = 12 * random.any(1, 2);
    c.config["decoder_sparse_step"] = 1;
    c.config["mlp_only_layers"] = Json::array();
  }
  c.meta = c.family == "llama" || c.family == "mistral";
  c.nanotron = c.meta || c.family == "qwen2";
  return c;
}

void must(const std::string& arguments, int ranks = 1) {
  const ProgramRun run = run_program(RESHARD_PROGRAM, arguments, ranks);
  ASSERT_EQ(run.status, 0) << arguments << "\n" << run.err;
}

TEST(FormatsProperty, ThereAndBackByAnyWay) {
  const char* set = std::getenv("RESHARD_SEED");
  const std::uint64_t first_seed = set != nullptr ? std::strtoull(set, nullptr, 10) : 1;
  int to_nanotron = 0, to_meta = 0;
  for (std::uint64_t seed = first_seed; seed < first_seed + 24; ++seed) {
    Random random{std::mt19937_64(seed)};
    const Case c = random_case(random);
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed) + " " + c.config.dump());
    const TemporaryFolder folder;
    put_file(folder.path("config.json"), c.config.dump());
    const std::string source = "synthetic:" + folder.path("config.json");
    ASSERT_NO_FATAL_FAILURE(must("convert " + source + " " + folder.path("a") + " --to hf"));

    // A -> B -> A: the same file, byte for byte.
    std::string b = folder.path("b.h5"), to_b = "--to hdf5", back = "--to hf";
    const Index way = random.any(0, 5);
    if (c.meta && way < 3) {
      ++to_meta;
      const Index vocab = c.config["vocab_size"];
      Index tp = random.any(1, c.heads);
      while (c.heads % tp != 0 || (c.groups % tp != 0 && tp % c.groups != 0) || c.ffn % tp != 0 || vocab % tp != 0)
        --tp;
      b = folder.path("b");
      to_b = "--to meta --tp " + std::to_string(tp) + random.one_of<std::string>({"", " --format-version 3"});
    } else if (way == 3) {
      b = folder.path("b");
      to_b = "--to hf_bin --max-shard-size " + std::to_string(random.any(5, 200)) + "KB";
    } else if (c.nanotron && way < 5) {
      ++to_nanotron;
      Index tp = 1;
      while (tp < 4 && c.groups % (tp + 1) == 0 && c.ffn % (tp + 1) == 0 && random.any(0, 2) > 0) ++tp;
      if (c.groups % tp != 0) tp = 1;
      b = folder.path("b");
      const Index pp = random.any(1, std::min(Index{3}, c.config["num_hidden_layers"].get<Index>()));
      to_b = "--to nanotron --tp " + std::to_string(tp) + " --pp " + std::to_string(pp) + " --vocab-multiple " +
             std::to_string(random.any(1, 7));
      back += " --vocab-size " + c.config["vocab_size"].dump();
    }
    const auto ranks = static_cast<int>(random.any(1, 3));
    const std::string route = random.any(0, 1) == 1 ? " --route exchange" : "";
    ASSERT_NO_FATAL_FAILURE(must("convert " + folder.path("a") + " " + b + " " + to_b + route, ranks));
    ASSERT_NO_FATAL_FAILURE(must("convert " + b + " " + folder.path("a2") + " " + back, ranks));
    EXPECT_TRUE(file_bytes(folder.path("a/model.safetensors")) == file_bytes(folder.path("a2/model.safetensors")))
        << to_b;

    // What the target's side files can hold comes back.
    const Json first = Json::parse(file_bytes(folder.path("a/config.json")));
    const Json second = Json::parse(file_bytes(folder.path("a2/config.json")));
    for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rope_theta",
                            "rms_norm_eps", "tie_word_embeddings", "n_embd", "n_layer", "n_head"}) {
      EXPECT_EQ(first.value(key, Json()), second.value(key, Json())) << key;
    }

    // A -> C is A -> B -> C.
    ASSERT_NO_FATAL_FAILURE(must("convert " + source + " " + folder.path("c1") + " --to hf --max-shard-size 20KB"));
    ASSERT_NO_FATAL_FAILURE(must("convert " + b + " " + folder.path("c2") + " --max-shard-size 20KB " + back));
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path("c1"))) {
      if (entry.path().extension() != ".safetensors") continue;
      ++files;
      const std::string name = entry.path().filename().string();
      EXPECT_TRUE(file_bytes(entry.path().string()) == file_bytes(folder.path("c2/" + name))) << name;
    }
    EXPECT_GE(files, 1);
  }
  EXPECT_GE(to_nanotron, 2);
  EXPECT_GE(to_meta, 2);
}

}  // namespace
}  // namespace reshard::test
