// SPDX-License-Identifier: Apache-2.0
// Random models of all families through the real formats: there and back is the identity, and ways do not matter.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/seed.h"

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
  Index groups = 1, heads = 1, ffn = 1;
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
  return c;
}

/// A way through another format.
struct Way {
  std::string format, to, back = "--to hf";
};

/// A number of ranks that divides all of `sizes`.
Index random_divisor(Random& random, std::initializer_list<Index> sizes) {
  std::vector<Index> fitting;
  for (Index n = 1; n <= 4; ++n) {
    if (std::all_of(sizes.begin(), sizes.end(), [&](Index size) { return size % n == 0; })) fitting.push_back(n);
  }
  return fitting[static_cast<std::size_t>(random.any(0, std::ssize(fitting) - 1))];
}

/// Through a format that holds the model, at a topology that it can have.
Way random_way(const Case& c, Random& random) {
  const bool is_tied = c.config.value("tie_word_embeddings", false);
  const std::map<std::string, std::vector<std::string>> holders = {
      {"llama", {"nanotron", "meta", "fairseq2", "llms_from_scratch"}},
      {"mistral", {"nanotron", "meta", "fairseq2"}},
      {"qwen2", {"nanotron", "fairseq2"}},
      {"qwen3", {"fairseq2", "llms_from_scratch"}},
      {"qwen3_moe", {"llms_from_scratch"}},
      {"gpt2", {"llms_from_scratch"}}};
  std::vector<std::string> formats = {"hdf5", "hf_bin"};
  if (const auto found = holders.find(c.family); found != holders.end()) {
    formats.insert(formats.end(), found->second.begin(), found->second.end());
  }
  if (c.family == "mistral" && is_tied) std::erase(formats, "fairseq2");  // it ties no Mistral
  Way way;
  way.format = formats[static_cast<std::size_t>(random.any(0, std::ssize(formats) - 1))];
  way.to = "--to " + way.format;
  const auto add = [&](const char* option, Index number) {
    way.to += " --" + std::string(option) + " " + std::to_string(number);
  };
  const Index vocab = c.config["vocab_size"].get<Index>();
  if (way.format == "nanotron") {
    add("tp", random_divisor(random, {c.groups, c.ffn}));
    add("pp", random.any(1, std::min(Index{3}, c.config["num_hidden_layers"].get<Index>())));
    add("vocab-multiple", random.any(1, 7));
    way.back += " --vocab-size " + std::to_string(vocab);
  } else if (way.format == "meta") {
    // Ranks beyond the kv heads hold copies of them.
    Index tp = random.any(1, c.heads);
    while (c.heads % tp != 0 || (c.groups % tp != 0 && tp % c.groups != 0) || c.ffn % tp != 0 || vocab % tp != 0) --tp;
    add("tp", tp);
    way.to += random.one_of<std::string>({"", " --format-version 3"});
  } else if (way.format == "fairseq2") {
    const bool is_whole = is_tied || c.family == "mistral" || random.any(0, 3) == 0;
    const Index tp = is_whole ? 1 : random_divisor(random, {c.groups, c.ffn, vocab});
    if (!c.family.starts_with("qwen") && random.any(0, 2) == 0) {
      way.to += " --format-version 0.4";
    } else {
      add("dp", random.any(1, 9));
    }
    add("tp", tp);
  } else if (way.format == "llms_from_scratch") {
    if (c.family == "gpt2") way.to += random.one_of<const char*>({"", " --format-version gpt2-fast"});
    way.back += " --dtype " + c.config["torch_dtype"].get<std::string>();  // some norms are f32 there
  }
  return way;
}

void must(const std::string& arguments, int ranks = 1) {
  const ProgramRun run = run_program(program(), arguments, ranks);
  ASSERT_EQ(run.status, 0) << arguments << "\n" << run.err;
}

TEST(FormatsProperty, ThereAndBackByAnyWay) {
  const std::uint64_t first_seed = seed_or(1);
  std::map<std::string, int> ways;
  for (std::uint64_t seed = first_seed; seed < first_seed + 40; ++seed) {
    Random random{std::mt19937_64(seed)};
    const Case c = random_case(random);
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed) + " " + c.config.dump());
    const TemporaryFolder folder;
    put_file(folder.path("config.json"), c.config.dump());
    const std::string source = "synthetic:" + folder.path("config.json");
    ASSERT_NO_FATAL_FAILURE(must("convert " + source + " " + folder.path("a") + " --to hf"));

    // A -> B -> A: the same file, byte for byte.
    const Way way = random_way(c, random);
    ++ways[way.format];
    const std::string b = folder.path(way.format == "hdf5" ? "b.h5" : "b"), to_b = way.to, back = way.back;
    const auto ranks = static_cast<int>(random.any(1, 3));
    const std::string route = random.any(0, 1) == 1 ? " --route exchange" : "";
    ASSERT_NO_FATAL_FAILURE(must("convert " + folder.path("a") + " " + b + " " + to_b + route, ranks));
    ASSERT_NO_FATAL_FAILURE(must("convert " + b + " " + folder.path("a2") + " " + back, ranks));
    EXPECT_TRUE(file_bytes(folder.path("a/model.safetensors")) == file_bytes(folder.path("a2/model.safetensors")))
        << to_b;

    // What the target's side files can hold comes back.
    const Json first = Json::parse(file_bytes(folder.path("a/config.json")));
    const Json second = Json::parse(file_bytes(folder.path("a2/config.json")));
    for (const char* key :
         {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
          "vocab_size", "rope_theta", "tie_word_embeddings", "n_embd", "n_layer", "n_head"}) {
      EXPECT_EQ(first.value(key, Json()), second.value(key, Json())) << key;
    }
    if (way.format != "fairseq2" && way.format != "llms_from_scratch") {
      EXPECT_EQ(first.value("rms_norm_eps", Json()), second.value("rms_norm_eps", Json()));
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
  EXPECT_EQ(ways.size(), 6u) << "the seeds miss a format";
}

}  // namespace
}  // namespace reshard::test
