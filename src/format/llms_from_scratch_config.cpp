// SPDX-License-Identifier: Apache-2.0
#include "llms_from_scratch_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "probing.h"
#include "reshard/base/text.h"
#include "reshard/io/json.h"

namespace reshard::format {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

using Names = std::pair<const char*, const char*>;  // theirs, Hugging Face's

constexpr std::array<Names, 5> kShared = {{{"vocab_size", "vocab_size"},
                                           {"context_length", "max_position_embeddings"},
                                           {"emb_dim", "hidden_size"},
                                           {"n_heads", "num_attention_heads"},
                                           {"n_layers", "num_hidden_layers"}}};
constexpr std::array<Names, 3> kRopeFrequencies = {
    {{"factor", "factor"}, {"low_freq_factor", "low_freq_factor"}, {"high_freq_factor", "high_freq_factor"}}};
constexpr double kLlamaEps = 1e-5, kQwenEps = 1e-6, kGpt2Eps = 1e-5;

bool has_entry(const Directory& directory, std::string_view name) {
  return std::any_of(directory.entries.begin(), directory.entries.end(),
                     [&](const Directory::Entry& entry) { return entry.entry.name == name; });
}

// Model type of the weights.
Expected<std::string> find_kind(const Directory& directory) {
  if (has_entry(directory, "pos_emb.weight")) return std::string("gpt2");
  if (!has_entry(directory, "trf_blocks.0.att.W_query.weight")) {
    return input_error(directory.root +
                       ": holds none of the book's models, which have trf_blocks.0.att.W_query.weight");
  }
  const bool is_qwen3 = has_entry(directory, "trf_blocks.0.att.q_norm.scale");
  if (has_entry(directory, "trf_blocks.0.ff.gate.weight")) {
    if (!is_qwen3) return input_error(directory.root + ": experts without norms of q and k: no family has them");
    return std::string("qwen3_moe");
  }
  return std::string(is_qwen3 ? "qwen3" : "llama");
}

// Fields of the dictionary, with their types checked.
class Fields {
 public:
  Fields(const json& config, const std::string& path) : config_(config), path_(path) {}

  const json* find(const char* key) const {
    const auto found = config_.find(key);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }
  Expected<Index> integer(const char* key) const {
    const json* value = find(key);
    if (value == nullptr) return input_error(fmt::format("{}: has no {}", path_, key));
    if (!value->is_number_integer() || *value < 0) return wrong(key, "a non-negative integer");
    return value->get<Index>();
  }
  Expected<double> number(const char* key, double otherwise) const {
    const json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number()) return wrong(key, "a number");
    return value->get<double>();
  }
  Error wrong(const std::string& key, const char* expected) const {
    return input_error(fmt::format("{}: {}: expected {}", path_, key, expected));
  }

 private:
  const json& config_;
  const std::string& path_;
};

Status read_gpt2(const Fields& fields, json& hf) {
  const json* bias = fields.find("qkv_bias");
  if (bias == nullptr || !bias->is_boolean()) return fields.wrong("qkv_bias", "true or false");
  if (!bias->get<bool>()) hf["qkv_bias"] = false;  // Hugging Face's has them, and no such key
  RESHARD_TRY(const double dropout, fields.number("drop_rate", 0));
  for (const char* key : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) hf[key] = dropout;
  hf["layer_norm_epsilon"] = kGpt2Eps;
  return {};
}

Status read_rope(const Fields& fields, const std::string& path, json& hf) {
  RESHARD_TRY(hf["rope_theta"], fields.number("rope_base", 10000));  // Llama 2's class has it built in
  const json* frequencies = fields.find("rope_freq");
  if (frequencies == nullptr) return {};
  if (!frequencies->is_object()) return fields.wrong("rope_freq", "an object or null");
  const std::string where = path + ": rope_freq";
  const Fields inner(*frequencies, where);
  json& scaling = hf["rope_scaling"];
  scaling["rope_type"] = "llama3";
  for (const auto& [theirs, ours] : kRopeFrequencies) {
    if (inner.find(theirs) == nullptr) return input_error(fmt::format("{}: has no {}", where, theirs));
    RESHARD_TRY(scaling[ours], inner.number(theirs, 0));
  }
  RESHARD_TRY(scaling["original_max_position_embeddings"], inner.integer("original_context_length"));
  return {};
}

Status read_experts(const Fields& fields, json& hf, const std::string& path, std::vector<std::string>& notes) {
  RESHARD_TRY(hf["num_experts"], fields.integer("num_experts"));
  RESHARD_TRY(hf["num_experts_per_tok"], fields.integer("num_experts_per_tok"));
  const char* size = fields.find("moe_intermediate_size") != nullptr ? "moe_intermediate_size" : "moe_hidden_dim";
  RESHARD_TRY(hf["moe_intermediate_size"], fields.integer(size));
  hf["norm_topk_prob"] = true;
  notes.push_back(path + ": norm_topk_prob is taken as true, as the book's class always computes");
  return {};
}

// Fields of a config.json that the dictionary says in its own way, or that say what the class does anyway.
bool has_place(const std::string& key) {
  static const std::set<std::string> kKnown = {"vocab_size",
                                               "max_position_embeddings",
                                               "hidden_size",
                                               "num_attention_heads",
                                               "num_hidden_layers",
                                               "num_key_value_heads",
                                               "intermediate_size",
                                               "rope",
                                               "head_dim",
                                               "num_experts",
                                               "num_experts_per_tok",
                                               "moe_intermediate_size",
                                               "decoder_sparse_step",
                                               "norm_topk_prob",
                                               "rms_norm_eps",
                                               "layer_norm_epsilon",
                                               "hidden_act",
                                               "tie_word_embeddings",
                                               "attention_bias",
                                               "qkv_bias",
                                               "mlp_bias",
                                               "attn_pdrop",
                                               "embd_pdrop",
                                               "resid_pdrop",
                                               "attention_dropout",
                                               "use_cache",
                                               "initializer_range",
                                               "pretraining_tp",
                                               "scale_attn_weights",
                                               "sliding_window",
                                               "use_sliding_window",
                                               "max_window_layers",
                                               "layer_types",
                                               "router_aux_loss_coef",
                                               "_name_or_path"};
  return kKnown.count(key) != 0 || key.starts_with("summary_");
}

void warn_of_differences(const model::Spec& spec, std::vector<std::string>& notes) {
  const auto warn = [&](const std::string& what) { notes.push_back("warning: llms_from_scratch: " + what); };
  const bool is_gpt2 = spec.family == "gpt2", is_llama = spec.family == "llama";
  const char* key = is_gpt2 ? "layer_norm_epsilon" : "rms_norm_eps";
  const double eps = is_gpt2 ? kGpt2Eps : is_llama ? kLlamaEps : kQwenEps;
  if (const ordered_json& own = spec.fields.at(key); own != eps) {
    warn(fmt::format("the config has no place for {} ({}): the book's class computes with {}", key, own.dump(),
                     json(eps).dump()));
  }
  const std::string act = spec.fields.value("hidden_act", ""), built_in = is_gpt2 ? "gelu_new" : "silu";
  if (act != built_in) warn(fmt::format("the config has no place for hidden_act ({}): it is {}", act, built_in));
  const std::string type = spec.fields.value("rope", ordered_json::object()).value("type", "default");
  if (type != "default" && !(is_llama && type == "llama3")) {
    warn("the config has no place for rope_scaling of type " + io::in_quotes(type));
  }
  if (spec.family == "qwen3_moe" && !spec.flag("norm_topk_prob")) {
    warn("norm_topk_prob is false, but the book's class always normalises the weights of the chosen experts");
  }
  if (spec.flag("use_sliding_window")) warn("the config has no place for use_sliding_window and sliding_window");
}

ordered_json rope_frequencies(const ordered_json& rope) {
  if (rope.value("type", "default") != "llama3") return nullptr;
  ordered_json frequencies;
  for (const auto& [theirs, ours] : kRopeFrequencies) frequencies[theirs] = rope.value(ours, ordered_json());
  frequencies["original_context_length"] = rope.value("original_max_position_embeddings", ordered_json());
  return frequencies;
}

}  // namespace

Expected<json> read_book_config(const json& config, const Directory& directory, const std::string& path,
                                std::vector<std::string>& notes) {
  if (!config.is_object()) return input_error(path + ": expected a JSON object");
  const Fields fields(config, path);
  json hf;
  RESHARD_TRY(const std::string kind, find_kind(directory));
  hf["model_type"] = kind;
  hf["tie_word_embeddings"] = false;  // until the weights have told
  for (const auto& [theirs, ours] : kShared) {
    RESHARD_TRY(hf[ours], fields.integer(theirs));
  }
  if (kind == "gpt2") {
    RESHARD_CHECK(read_gpt2(fields, hf));
    return hf;
  }
  if (fields.find("orig_context_length") != nullptr) {
    // A shorter context, for which its model rescales the rotary base by itself.
    RESHARD_TRY(hf["max_position_embeddings"], fields.integer("orig_context_length"));
    notes.push_back(path + ": orig_context_length is taken as the context; rope_base must be that of this length");
  }
  RESHARD_TRY(hf["intermediate_size"], fields.integer("hidden_dim"));
  hf["num_key_value_heads"] = hf["num_attention_heads"];
  if (fields.find("n_kv_groups") != nullptr) {
    RESHARD_TRY(hf["num_key_value_heads"], fields.integer("n_kv_groups"));
  }
  hf["head_dim"] = hf["hidden_size"].get<Index>() / std::max<Index>(1, hf["num_attention_heads"].get<Index>());
  if (fields.find("head_dim") != nullptr) {
    RESHARD_TRY(hf["head_dim"], fields.integer("head_dim"));
  }
  hf["rms_norm_eps"] = kind == "llama" ? kLlamaEps : kQwenEps;
  hf["hidden_act"] = "silu";
  RESHARD_CHECK(read_rope(fields, path, hf));
  if (kind == "llama") assume_llama_tokens(hf, path, notes);
  if (kind == "qwen3_moe") RESHARD_CHECK(read_experts(fields, hf, path, notes));
  return hf;
}

std::string write_book_config(const model::Spec& spec, std::vector<std::string>& notes) {
  warn_of_differences(spec, notes);
  std::vector<std::string> homeless;
  for (const auto& [key, value] : spec.fields.items()) {
    const bool says_nothing = value.is_null() || value == 0 || value == false || value.empty();
    if (!says_nothing && !has_place(key)) homeless.push_back(key);
  }
  if (!homeless.empty()) notes.push_back("llms_from_scratch: the config has no place for " + join(homeless, ", "));

  ordered_json config;
  for (const auto& [theirs, ours] : kShared) config[theirs] = spec.integer(ours);
  if (spec.family == "gpt2") {
    const auto dropout = spec.fields.find("resid_pdrop");
    config["drop_rate"] = dropout != spec.fields.end() && dropout->is_number() ? *dropout : ordered_json(0.0);
    config["qkv_bias"] = spec.flag("qkv_bias");
    return config.dump(2) + "\n";
  }
  const ordered_json rope = spec.fields.value("rope", ordered_json::object());
  config["hidden_dim"] = spec.integer("intermediate_size");
  config["n_kv_groups"] = spec.integer("num_key_value_heads");
  config["rope_base"] = rope.value("theta", 10000.0);
  config["dtype"] = std::string(torch_name(spec.dtype));
  if (spec.family == "llama") {
    config["rope_freq"] = rope_frequencies(rope);
    return config.dump(2) + "\n";
  }
  config["head_dim"] = spec.integer("head_dim");
  config["qk_norm"] = true;
  if (spec.family == "qwen3_moe") {
    config["num_experts"] = spec.integer("num_experts");
    config["num_experts_per_tok"] = spec.integer("num_experts_per_tok");
    config["moe_hidden_dim"] = spec.integer("moe_intermediate_size");
    config["moe_intermediate_size"] = spec.integer("moe_intermediate_size");
  }
  return config.dump(2) + "\n";
}

}  // namespace reshard::format
