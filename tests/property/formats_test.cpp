// SPDX-License-Identifier: Apache-2.0
// Random models of all families through the real formats: there and back is the identity, ways do not matter, and every
// element lies where the tables have it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "reshard/format/synthetic.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/seed.h"

namespace reshard::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Random {
  std::mt19937_64 engine;
  Index any(Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(engine); }
  bool one_in(Index n) { return any(1, n) == 1; }
  template <class T>
  T one_of(std::initializer_list<T> from) {
    return *(from.begin() + any(0, std::ssize(from) - 1));
  }
};

struct Case {
  std::string family;
  Json config;
  Index groups = 1, heads = 1, ffn = 1;

  bool has(const char* flag) const { return config.value(flag, false); }
  std::string dtype() const { return config.at("torch_dtype").get<std::string>(); }
};

Case random_gpt2(Random& random) {
  Case c;
  c.family = "gpt2";
  const Index heads = random.any(1, 4), width = heads * random.any(3, 9);
  const double dropout = random.one_of({0.0, 0.1});
  c.config = {{"model_type", "gpt2"},
              {"architectures", {"GPT2LMHeadModel"}},
              {"n_embd", width},
              {"n_head", heads},
              {"n_layer", random.any(1, 3)},
              {"n_positions", random.any(5, 20)},
              {"n_inner", random.one_of<Json>({nullptr, 4 * width, 4 * width, 3 * width})},
              {"vocab_size", random.any(20, 90)},
              {"activation_function", random.one_of<const char*>({"gelu_new", "gelu"})},
              {"layer_norm_epsilon", random.one_of({1e-5, 1e-6})},
              {"attn_pdrop", dropout},
              {"embd_pdrop", dropout},
              {"resid_pdrop", dropout},
              {"bos_token_id", random.any(0, 19)},
              {"eos_token_id", random.any(0, 19)},
              {"tie_word_embeddings", random.one_in(2)},
              {"torch_dtype", "float32"}};
  return c;
}

void add_experts(Case& c, Random& random) {
  const Index experts = random.any(2, 5);
  c.config[c.family == "mixtral" ? "num_local_experts" : "num_experts"] = experts;
  c.config["num_experts_per_tok"] = random.any(1, experts);
  c.config["router_aux_loss_coef"] = random.one_of({0.001, 0.02});
  if (c.family == "mixtral") return;
  c.config["moe_intermediate_size"] = 4 * random.any(1, 4);
  c.config["norm_topk_prob"] = random.one_in(3);
  Json dense = Json::array();
  for (Index layer = 0; layer < c.config["num_hidden_layers"].get<Index>(); ++layer) {
    if (random.one_in(5)) dense.push_back(layer);
  }
  c.config["mlp_only_layers"] = dense;
  c.config["decoder_sparse_step"] = random.one_in(3) ? 2 : 1;
  if (c.family == "qwen3_moe") return;
  c.config["shared_expert_intermediate_size"] = 12 * random.any(1, 2);
  c.config["qkv_bias"] = random.one_in(2);
}

/// A small model with sizes that no power of two divides well.
Case random_case(Random& random) {
  Case c;
  c.family = random.one_of<std::string>({"llama", "llama", "llama", "llama", "mistral", "mistral", "qwen2", "qwen3",
                                         "mixtral", "qwen2_moe", "qwen2_moe", "qwen3_moe", "gpt2"});
  if (c.family == "gpt2") return random_gpt2(random);
  c.groups = random.one_of<Index>({1, 2, 3, 4});
  const Index heads = c.heads = c.groups * random.any(1, 3), head_dim = 2 * random.any(1, 5);
  c.ffn = 12 * random.any(1, 4);
  const bool is_qwen = c.family.starts_with("qwen"), is_qwen3 = c.family.starts_with("qwen3");
  const bool has_own_width = is_qwen3 || (c.family == "mistral" && random.one_in(4));
  const Index vocab = random.any(30, 200);
  c.config = {{"model_type", c.family},
              {"hidden_size", has_own_width ? random.any(6, 40) : heads * head_dim},
              {"intermediate_size", c.ffn},
              {"num_hidden_layers", random.any(1, 4)},
              {"num_attention_heads", heads},
              {"num_key_value_heads", c.groups},
              {"head_dim", head_dim},
              {"vocab_size", vocab},
              {"max_position_embeddings", random.any(40, 90)},
              {"hidden_act", random.one_in(6) ? "gelu" : "silu"},
              {"rms_norm_eps", random.one_of({1e-5, 1e-6})},
              {"rope_theta", random.one_of({10000.0, 500000.0, 1000000.0})},
              {"tie_word_embeddings", random.one_in(2)},
              {"bos_token_id", random.any(0, vocab - 1)},
              {"eos_token_id", random.any(0, vocab - 1)},
              {"initializer_range", random.one_of({0.02, 0.01})},
              {"use_cache", random.one_in(2)},
              {"pretraining_tp", random.any(1, 2)},
              {"attention_dropout", random.one_of({0.0, 0.1})},
              {"torch_dtype", random.one_of<std::string>({"bfloat16", "float32", "float16"})}};
  if (random.one_in(3)) c.config["eos_token_id"] = {random.any(0, vocab - 1), vocab - 1};
  if (random.one_in(2)) c.config["pad_token_id"] = random.any(0, vocab - 1);
  if (random.one_in(3)) {
    Json& scaling = c.config["rope_scaling"] = {{"rope_type", is_qwen ? "yarn" : "llama3"},
                                                {"factor", random.one_of({4.5, 8.0, 32.0})},
                                                {"original_max_position_embeddings", random.any(16, 32)}};
    if (!is_qwen) scaling.update({{"low_freq_factor", random.one_of({1.0, 1.5})}, {"high_freq_factor", 4.0}});
  }
  if (c.family == "llama" || is_qwen3) c.config["attention_bias"] = random.one_in(6);
  if (c.family == "llama") c.config["mlp_bias"] = random.one_in(6);
  if (c.family == "mistral" || c.family == "mixtral") c.config["sliding_window"] = random.any(16, 32);
  if (c.family.starts_with("qwen2") && random.one_in(2)) {
    c.config.update({{"use_sliding_window", true}, {"sliding_window", random.any(16, 32)}, {"max_window_layers", 1}});
  }
  if (c.family.find("moe") != std::string::npos || c.family == "mixtral") add_experts(c, random);
  return c;
}

/// A way through another format.
struct Way {
  std::string format, format_version;
  std::string topology;  ///< options of convert
  std::string back;      ///< options of convert, of what was converted this way

  std::string to() const {
    return " --to " + format + topology + (format_version.empty() ? "" : " --format-version " + format_version);
  }
};

/// A number of ranks that divides all of `sizes`.
Index random_divisor(Random& random, std::initializer_list<Index> sizes) {
  std::vector<Index> fitting;
  for (Index n = 1; n <= 4; ++n) {
    if (std::all_of(sizes.begin(), sizes.end(), [&](Index size) { return size % n == 0; })) fitting.push_back(n);
  }
  return fitting[static_cast<std::size_t>(random.any(0, std::ssize(fitting) - 1))];
}

/// The formats that hold the model, to draw from.
std::vector<std::string> holders_of(const Case& c) {
  static const std::map<std::string, std::vector<std::string>> kHolders = {
      {"llama", {"nanotron", "meta", "fairseq2", "llms_from_scratch"}},
      {"mistral", {"nanotron", "meta", "fairseq2"}},
      {"qwen2", {"nanotron", "fairseq2"}},
      {"qwen2_moe", {"nanotron"}},
      {"qwen3", {"fairseq2", "llms_from_scratch"}},
      {"qwen3_moe", {"llms_from_scratch"}},
      {"gpt2", {"llms_from_scratch"}}};
  std::vector<std::string> formats;
  if (const auto found = kHolders.find(c.family); found != kHolders.end()) formats = found->second;
  if (c.family == "gpt2") {
    const Json& inner = c.config.at("n_inner");
    if (!inner.is_null() && inner != 4 * c.config.at("n_embd").get<Index>()) formats.clear();  // it is built in there
  } else {
    const Index width = c.heads * c.config.at("head_dim").get<Index>();
    const bool has_own_width = c.family == "mistral" && c.config.at("hidden_size") != width;
    if (has_own_width || c.has("attention_bias") || c.has("mlp_bias")) formats.clear();
    if (c.config.at("hidden_act") != "silu") std::erase(formats, "meta");
  }
  if (c.family == "mistral" && c.has("tie_word_embeddings")) std::erase(formats, "fairseq2");
  if (c.family == "qwen2_moe" && c.has("norm_topk_prob")) std::erase(formats, "nanotron");
  const bool has_dense =
      c.config.value("decoder_sparse_step", 1) != 1 || !c.config.value("mlp_only_layers", Json()).empty();
  if (c.family == "qwen3_moe" && has_dense) std::erase(formats, "llms_from_scratch");
  // Those that hold every model come up often enough.
  const std::vector<std::string> own = formats;
  for (int again = 0; again < 2; ++again) formats.insert(formats.end(), own.begin(), own.end());
  formats.insert(formats.end(), {"hdf5", "hf_bin"});
  return formats;
}

/// Through this format, at a topology that it can have.
Way random_way(const Case& c, const std::string& format, Random& random) {
  Way way;
  way.format = format;
  const auto add = [&](const char* option, Index number) {
    way.topology += " --" + std::string(option) + " " + std::to_string(number);
  };
  const bool is_tied = c.has("tie_word_embeddings");
  const Index vocab = c.config["vocab_size"].get<Index>();
  const std::string keep = " --dtype " + c.dtype();  // some arrays are f32 there
  if (way.format == "nanotron") {
    add("tp", random_divisor(random, {c.groups, c.ffn}));
    add("pp", random.any(1, std::min(Index{3}, c.config["num_hidden_layers"].get<Index>())));
    add("vocab-multiple", random.any(1, 7));
    way.format_version = random.one_of({"", "1.5"});
    way.back = " --vocab-size " + std::to_string(vocab);
    if (c.family == "qwen2_moe") way.back += keep;
  } else if (way.format == "meta") {
    // Ranks beyond the kv heads hold copies of them.
    Index tp = random.any(1, c.heads);
    while (c.heads % tp != 0 || (c.groups % tp != 0 && tp % c.groups != 0) || c.ffn % tp != 0 || vocab % tp != 0) --tp;
    add("tp", tp);
    way.format_version = random.one_of({"", "3"});
  } else if (way.format == "fairseq2") {
    const bool is_whole = is_tied || c.family == "mistral" || random.any(0, 3) == 0;
    const Index tp = is_whole ? 1 : random_divisor(random, {c.groups, c.ffn, vocab});
    way.format_version = c.family.starts_with("qwen") || random.any(0, 2) > 0 ? "0.8" : "0.4";
    if (way.format_version == "0.8") add("dp", random.any(1, 9));
    add("tp", tp);
  } else if (way.format == "llms_from_scratch") {
    if (c.family == "gpt2") way.format_version = random.one_of({"", "gpt2-fast"});
    way.back = keep;
  } else if (way.format == "hf") {
    way.topology = " --max-shard-size 20KB";
  }
  return way;
}

/// What side files have no place for, so that it does not come back.
struct Lost {
  std::string format;              ///< or format and version
  std::set<std::string> families;  ///< none: all
  std::set<std::string> names;
};

std::set<std::string> lost_on(const Way& way, const std::string& family) {
  const std::set<std::string> training = {"initializer_range", "use_cache", "pretraining_tp", "attention_dropout"};
  const std::set<std::string> tokens = {"bos_token_id", "eos_token_id", "pad_token_id"};
  const std::set<std::string> factors = {"rope.factor", "rope.low_freq_factor", "rope.high_freq_factor",
                                         "rope.original_max_position_embeddings"};
  const std::set<std::string> window = {"use_sliding_window", "sliding_window", "max_window_layers"};
  // A Llama when it comes back, which has no window but fields for biases.
  const std::set<std::string> of_mistral = {"family", "sliding_window", "attention_bias", "mlp_bias"};
  const std::vector<Lost> all = {
      {"nanotron", {}, {"attention_dropout"}},
      {"nanotron", {"mistral"}, of_mistral},
      {"nanotron", {"qwen2", "qwen2_moe"}, {"max_window_layers"}},
      {"nanotron", {"qwen2_moe"}, {"decoder_sparse_step", "mlp_only_layers"}},  // said as moe_layers
      {"meta", {}, training},
      {"meta", {}, tokens},
      {"meta", {}, {"max_position_embeddings"}},  // taken as that of the generation
      {"meta", {}, factors},                      // only whether there are any
      {"meta", {"mistral"}, of_mistral},
      {"fairseq2", {}, training},
      {"fairseq2", {}, {"rms_norm_eps", "hidden_act"}},  // built in
      {"fairseq2 0.8", {}, {"bos_token_id", "eos_token_id"}},
      {"fairseq2", {"qwen2", "qwen3"}, {"pad_token_id"}},
      {"fairseq2", {"qwen2", "qwen3", "mistral"}, {"rope.type"}},
      {"fairseq2", {"qwen2", "qwen3", "mistral"}, factors},
      {"fairseq2", {"qwen2"}, window},
      {"fairseq2", {"mistral"}, {"rope.theta"}},  // built in
      {"llms_from_scratch", {}, training},
      {"llms_from_scratch", {}, tokens},
      {"llms_from_scratch", {}, {"rms_norm_eps", "layer_norm_epsilon", "hidden_act"}},  // built in
      {"llms_from_scratch", {"qwen3", "qwen3_moe"}, {"rope.type"}},
      {"llms_from_scratch", {"qwen3", "qwen3_moe"}, factors},
      {"llms_from_scratch", {"qwen3_moe"}, {"norm_topk_prob", "router_aux_loss_coef"}}};
  std::set<std::string> names;
  for (const Lost& lost : all) {
    const bool is_format = lost.format == way.format || lost.format == way.format + " " + way.format_version;
    if (is_format && (lost.families.empty() || lost.families.contains(family))) {
      names.insert(lost.names.begin(), lost.names.end());
    }
  }
  return names;
}

/// All that a spec says, by name; what is null is not said.
std::map<std::string, nlohmann::json> told(const model::Spec& spec) {
  std::map<std::string, nlohmann::json> all = {{"family", spec.family}, {"dtype", to_string(spec.dtype)}};
  for (const auto& [key, value] : spec.fields.items()) {
    if (key != "rope") {
      if (!value.is_null()) all[key] = value;
      continue;
    }
    for (const auto& [part, part_value] : value.items()) all["rope." + part] = part_value;
  }
  const auto canon = model::make_canon(spec, library());
  EXPECT_TRUE(canon) << canon.error().message;
  const auto& sets = (*canon)->scope().sets;
  if (const auto found = sets.find("moe_layers"); found != sets.end()) all["moe_layers"] = found->second;
  return all;
}

void expect_told(std::map<std::string, nlohmann::json> first, std::map<std::string, nlohmann::json> second,
                 const std::set<std::string>& lost) {
  for (const std::string& name : lost) {
    first.erase(name);
    second.erase(name);
  }
  EXPECT_TRUE(first == second) << nlohmann::json::diff(first, second);
}

format::Checkpoint must_open(const std::string& path, const format::SourceOptions& options = {}) {
  auto opened = open(path, options);
  if (!opened) throw std::runtime_error(path + ": " + opened.error().message);
  return *std::move(opened);
}

double stored_value(const std::byte* at, DType dtype) {
  if (dtype == DType::f32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  const bool is_bf16 = dtype == DType::bf16;
  const int width = is_bf16 ? 7 : 10, bias = is_bf16 ? 127 : 15;
  const int exponent = (bits & 0x7FFF) >> width, fraction = bits & ((1 << width) - 1);
  if (exponent == 0 && fraction == 0) return 0;
  EXPECT_NE(exponent, 0) << "a subnormal number";
  return std::ldexp((bits >> 15 != 0 ? -1 : 1) * ((1 << width) + fraction), exponent - bias - width);
}

/// What the synthetic source has at a canonical coordinate.
double generated_value(const layout::Canon& canon, const Element& element) {
  const auto tensor = static_cast<std::uint32_t>(element.tensor);
  Index layer = -1, expert = -1, index = 0;
  for (std::size_t k = 0; k < element.position.size(); ++k) {
    const layout::Axis& axis = canon.tensors()[tensor].axes[k];
    if (axis.name == "layer") {
      layer = element.position[k];
    } else if (axis.name == "expert") {
      expert = element.position[k];
    } else {
      index = index * axis.size + element.position[k];
    }
  }
  const std::uint16_t bits = format::synthetic_bf16(canon.line_name(canon.line_number(tensor, layer, expert)), index);
  return stored_value(reinterpret_cast<const std::byte*>(&bits), DType::bf16);
}

/// Patterns of the arrays of a checkpoint that hold anything but the synthetic model, looked at element by element.
std::set<std::string> wrong_arrays(const format::Checkpoint& checkpoint) {
  const layout::Layout& layout = *checkpoint.layout;
  layout::Scope options = library().options(std::string(checkpoint.format->name()));
  for (const auto& [name, value] : checkpoint.probe.options.numbers) options.numbers[name] = value;
  std::set<std::string> wrong;
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const layout::Array& array = layout.arrays()[a];
    const auto& [entry, file] = checkpoint.probe.directory.entries[checkpoint.locations[a]];
    std::vector<std::byte> bytes(static_cast<std::size_t>(entry.length));
    auto source = format::open_source_file(checkpoint, file, {});
    EXPECT_TRUE(source && (*source)->read_at(bytes, entry.offset));
    const Decoder decoder(layout, a, options);
    const Index elements = *num_elements(layout.shape(array)), size = bytes_of(array.dtype);
    EXPECT_EQ(elements * size, entry.length);
    for (Index i = 0; i < elements; ++i) {
      const Element element = decoder.at(i);
      const double expected = element.tensor < 0 ? 0 : generated_value(layout.canon(), element);
      if (stored_value(bytes.data() + i * size, array.dtype) != expected) wrong.insert(layout.rule(array).array);
    }
  }
  return wrong;
}

void must(const std::string& arguments, int ranks = 1) {
  const ProgramRun run = run_program(program(), arguments, ranks);
  ASSERT_EQ(run.status, 0) << arguments << "\n" << run.err;
}

/// The files of weights below a folder.
std::set<std::string> weight_files(const std::string& root) {
  std::set<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string kind = entry.path().extension().string();
    if (kind == ".safetensors" || kind == ".bin" || kind == ".pth" || kind == ".pt") {
      files.insert(fs::relative(entry.path(), root).string());
    }
  }
  return files;
}

TEST(FormatsProperty, ThereAndBackByAnyWay) {
  const std::uint64_t first_seed = seed_or(1);
  std::map<std::string, int> ways;
  for (std::uint64_t seed = first_seed; seed < first_seed + 45; ++seed) {
    Random random{std::mt19937_64(seed)};
    const Case c = random_case(random);
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed) + " " + c.config.dump());
    const TemporaryFolder folder;
    put_file(folder.path("config.json"), c.config.dump());
    const std::string source = "synthetic:" + folder.path("config.json"), a = folder.path("a");
    ASSERT_NO_FATAL_FAILURE(must("convert " + source + " " + a + " --to hf"));
    const format::Checkpoint first = must_open(a);
    EXPECT_EQ(wrong_arrays(first), std::set<std::string>());
    const auto given = model::parse_hf_config(c.config, library(), "config.json");
    ASSERT_TRUE(given) << given.error().message;
    expect_told(told(*given), told(first.probe.spec), {});

    // A -> B -> A: the same file, byte for byte.
    const std::vector<std::string> holders = holders_of(c);
    const auto any_holder = [&] { return holders[static_cast<std::size_t>(random.any(0, std::ssize(holders) - 1))]; };
    const Way way = random_way(c, any_holder(), random);
    ++ways[way.format];
    SCOPED_TRACE(way.to());
    const std::string b = folder.path(way.format == "hdf5" ? "b.h5" : "b"), a2 = folder.path("a2");
    const int ranks = random.one_of({1, 1, 2, 3});
    const std::string route = random.one_in(2) ? " --route exchange" : "";
    ASSERT_NO_FATAL_FAILURE(must("convert " + a + " " + b + way.to() + route, ranks));
    ASSERT_NO_FATAL_FAILURE(must("convert " + b + " " + a2 + " --to hf" + way.back, ranks));
    EXPECT_TRUE(file_bytes(a + "/model.safetensors") == file_bytes(a2 + "/model.safetensors"));
    format::SourceOptions padded;
    if (way.format == "nanotron") padded.vocab_size = c.config["vocab_size"].get<Index>();
    EXPECT_EQ(wrong_arrays(must_open(b, padded)), std::set<std::string>());

    // What the target's side files can hold comes back.
    auto told_first = told(first.probe.spec);
    nlohmann::json& end = told_first["eos_token_id"];
    if (end.is_array() && (way.format == "nanotron" || way.format == "fairseq2")) end = nlohmann::json(end.front());
    expect_told(told_first, told(must_open(a2).probe.spec), lost_on(way, c.family));

    // A -> C is A -> B -> C, where C may be B at another topology. Side files that B has no place for decide how some
    // formats cut the embedding: C says it.
    Way other = random_way(c, random.one_in(3) ? way.format : random.one_in(2) ? "hf" : any_holder(), random);
    if (other.format == "meta") other.format_version = "3";
    if (other.format == "fairseq2") other.format_version = "0.8";
    SCOPED_TRACE(other.to());
    const std::string kind = other.format == "hdf5" ? ".h5" : "", c1 = folder.path("c1" + kind),
                      c2 = folder.path("c2" + kind);
    ASSERT_NO_FATAL_FAILURE(must("convert " + source + " " + c1 + other.to()));
    ASSERT_NO_FATAL_FAILURE(must("convert " + b + " " + c2 + other.to() + way.back));
    if (other.format == "hdf5") {  // which has its source and side files inside
      EXPECT_TRUE(line_values(must_open(c1)) == line_values(must_open(c2)));
      continue;
    }
    EXPECT_GE(weight_files(c1).size(), 1u);
    EXPECT_EQ(weight_files(c1), weight_files(c2));
    for (const std::string& file : weight_files(c1)) {
      EXPECT_TRUE(file_bytes(c1 + "/" + file) == file_bytes(c2 + "/" + file)) << file;
    }
  }
  EXPECT_EQ(ways.size(), 6u) << "the seeds miss a format: " << Json(ways);
}

// The whole way there and back goes by one table, so that a mistake in it cancels: only the elements tell.
TEST(FormatsProperty, AWrongRuleOfAShippedTableIsCaught) {
  struct Mistake {
    std::string format, right, wrong;
    std::set<std::string> arrays;
  };
  const std::vector<Mistake> mistakes = {{"nanotron",
                                          "([mlp.gate: ffn | mlp.up: ffn]) embed",
                                          "([mlp.up: ffn | mlp.gate: ffn]) embed",
                                          {"model.decoder.{layer}.pp_block.mlp.gate_up_proj.weight"}},
                                         {"meta",
                                          "(group query pair half) embed",
                                          "(group query half pair) embed",
                                          {"layers.{layer}.attention.wq.weight"}}};
  for (const Mistake& mistake : mistakes) {
    SCOPED_TRACE(mistake.format);
    const TemporaryFolder folder;
    put_file(folder.path("config.json"), R"({"model_type": "llama", "hidden_size": 24, "intermediate_size": 36,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50,
      "torch_dtype": "bfloat16"})");
    std::string table = file_bytes(source_dir() + "/configs/format/" + mistake.format + ".json");
    const std::size_t at = table.find(mistake.right);
    ASSERT_NE(at, std::string::npos);
    table.replace(at, mistake.right.size(), mistake.wrong);
    put_file(folder.path("tables/format/" + mistake.format + ".json"), table);
    const std::string source = "synthetic:" + folder.path("config.json"),
                      tables = " --config-dir " + folder.path("tables");
    const std::string to = " --tp 2 --to " + mistake.format;
    ASSERT_NO_FATAL_FAILURE(must("convert " + source + " " + folder.path("right") + to));
    ASSERT_NO_FATAL_FAILURE(must("convert " + source + " " + folder.path("wrong") + to + tables));
    EXPECT_EQ(wrong_arrays(must_open(folder.path("right"))), std::set<std::string>());
    EXPECT_EQ(wrong_arrays(must_open(folder.path("wrong"))), mistake.arrays);

    ASSERT_NO_FATAL_FAILURE(must("convert " + source + " " + folder.path("a") + " --to hf"));
    ASSERT_NO_FATAL_FAILURE(must("convert " + folder.path("wrong") + " " + folder.path("back") + " --to hf" + tables));
    EXPECT_TRUE(file_bytes(folder.path("a/model.safetensors")) == file_bytes(folder.path("back/model.safetensors")));
  }
}

}  // namespace
}  // namespace reshard::test
