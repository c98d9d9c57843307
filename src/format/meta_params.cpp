// SPDX-License-Identifier: Apache-2.0
#include "meta_params.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "python_text.h"
#include "reshard/base/text.h"

namespace reshard::format {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr Index kMostSize = Index{1} << 40;  // of a dimension
constexpr Index kLlama3Vocabulary = 128256;
constexpr double kOldTheta = 10000.0;
constexpr double kLlama3Theta = 500000.0;

// The member `key` of a params.json, which is absent if it is null.
const json* find(const json& params, const char* key) {
  const auto found = params.find(key);
  return found == params.end() || found->is_null() ? nullptr : &*found;
}

Error fault(const char* key, const json& value, const char* expected) {
  return input_error(fmt::format("{}: expected {}, found {}", key, expected, value.dump().substr(0, 80)));
}

Expected<std::optional<Index>> take_integer(const json& params, const char* key, Index least) {
  const json* value = find(params, key);
  if (value == nullptr) return std::optional<Index>();
  const bool in_range = value->is_number_integer() && *value >= least && *value <= kMostSize;
  if (!in_range) return fault(key, *value, least > 0 ? "a positive integer" : "an integer");
  return std::optional<Index>(value->get<Index>());
}

Expected<Index> take_required(const json& params, const char* key) {
  RESHARD_TRY(const std::optional<Index> value, take_integer(params, key, 1));
  if (!value) return input_error(std::string(key) + ": missing");
  return *value;
}

Expected<std::optional<double>> take_number(const json& params, const char* key) {
  const json* value = find(params, key);
  if (value == nullptr) return std::optional<double>();
  if (!value->is_number() || !(value->get<double>() > 0)) return fault(key, *value, "a positive number");
  return std::optional<double>(value->get<double>());
}

// Models of other kinds, by what only they have.
Status refuse_others(const json& params) {
  const auto refuse = [](const char* key, const char* what) {
    return input_error(fmt::format("{}: {} are not read", key, what));
  };
  if (find(params, "quantization_args") != nullptr) return refuse("quantization_args", "quantized weights");
  if (find(params, "lora_args") != nullptr) return refuse("lora_args", "weights with adapters");
  if (find(params, "moe_args") != nullptr) return refuse("moe_args", "Llama 4 models (experts)");
  const json* vision = find(params, "vision_chunk_size");
  if (vision != nullptr && vision->is_number() && *vision > 0) {
    return refuse("vision_chunk_size", "Llama 3.2 models with vision");
  }
  return {};
}

Expected<MetaParams> parse(const json& params, std::vector<std::string>& unknown) {
  static const std::set<std::string> kKnown = {
      "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
      "rope_theta", "use_scaled_rope", "quantization_args", "lora_args", "moe_args", "vision_chunk_size",
      // Settings of a run, and of parts that the model does not have.
      "max_batch_size", "max_seq_len", "vision_max_num_chunks", "vision_num_cross_attention_layers"};
  if (!params.is_object()) return input_error("expected a JSON object");
  RESHARD_CHECK(refuse_others(params));
  MetaParams read;
  RESHARD_TRY(read.dim, take_required(params, "dim"));
  RESHARD_TRY(read.n_layers, take_required(params, "n_layers"));
  RESHARD_TRY(read.n_heads, take_required(params, "n_heads"));
  RESHARD_TRY(read.n_kv_heads, take_integer(params, "n_kv_heads", 1));
  RESHARD_TRY(read.vocab_size, take_integer(params, "vocab_size", -1));
  if (read.vocab_size && *read.vocab_size <= 0) read.vocab_size.reset();
  RESHARD_TRY(const auto multiple_of, take_integer(params, "multiple_of", 1));
  read.ffn.multiple_of = multiple_of.value_or(read.ffn.multiple_of);
  RESHARD_TRY(const auto multiplier, take_number(params, "ffn_dim_multiplier"));
  read.ffn.multiplier = multiplier.value_or(read.ffn.multiplier);
  RESHARD_TRY(const auto norm_eps, take_number(params, "norm_eps"));
  read.norm_eps = norm_eps.value_or(read.norm_eps);
  RESHARD_TRY(read.rope_theta, take_number(params, "rope_theta"));
  if (const json* scaled = find(params, "use_scaled_rope")) {
    if (!scaled->is_boolean()) return fault("use_scaled_rope", *scaled, "true or false");
    read.use_scaled_rope = scaled->get<bool>();
  }
  for (const auto& [key, value] : params.items()) {
    if (kKnown.count(key) == 0) unknown.push_back(key);
  }
  return read;
}

// The two models of Llama 3.2 scale by another factor than all others, which Meta's code does not know.
double rope_factor(const MetaParams& params) {
  const bool is_1b = params.dim == 2048 && params.n_layers == 16;
  const bool is_3b = params.dim == 3072 && params.n_layers == 28;
  return is_1b || is_3b ? 32.0 : 8.0;
}

Index context_length(MetaGeneration generation) {
  switch (generation) {
    case MetaGeneration::llama1:
      return 2048;
    case MetaGeneration::llama2:
      return 4096;
    case MetaGeneration::code_llama:
      return 16384;
    case MetaGeneration::llama3:
      return 8192;
    case MetaGeneration::llama3_1:
      break;
  }
  return 131072;
}

const char* name_of(MetaGeneration generation) {
  switch (generation) {
    case MetaGeneration::llama1:
      return "Llama 1";
    case MetaGeneration::llama2:
      return "Llama 2";
    case MetaGeneration::code_llama:
      return "Code Llama";
    case MetaGeneration::llama3:
      return "Llama 3";
    case MetaGeneration::llama3_1:
      break;
  }
  return "Llama 3.1 and later";
}

bool says_nothing(const ordered_json& value) {
  return value.is_null() || value == 0 || value == false || value.empty();
}

// "max_position_embeddings (512)"
std::string with_value(const std::string& key, const ordered_json& value) {
  const std::string text = value.dump();
  return text.size() > 40 ? key : fmt::format("{} ({})", key, text);
}

}  // namespace

Expected<MetaParams> MetaParams::of(const model::Spec& spec, Index tp) {
  MetaParams params;
  params.dim = spec.integer("hidden_size");
  params.n_layers = spec.integer("num_hidden_layers");
  params.n_heads = spec.integer("num_attention_heads");
  const Index kv_heads = std::max(tp, spec.integer("num_key_value_heads"));
  if (kv_heads != params.n_heads) params.n_kv_heads = kv_heads;
  params.own_kv_heads = spec.integer("num_key_value_heads");
  params.vocab_size = spec.integer("vocab_size");
  const std::string activation = spec.fields.value("hidden_act", "silu");
  if (activation != "silu") {
    return usage_error(
        fmt::format("format meta: Meta's models use silu, but hidden_act of this model is {}", activation));
  }
  const Index size = spec.integer("intermediate_size");
  const auto size_of = [&](const FfnRule& rule) { return meta_ffn_size(params.dim, rule); };
  const std::optional<FfnRule> ffn = find_ffn_rule(spec, size_of);
  if (!ffn) {
    return usage_error(
        fmt::format("format meta: intermediate_size ({}) cannot be said by ffn_dim_multiplier and multiple_of at "
                    "hidden_size {}",
                    size, params.dim));
  }
  params.ffn = *ffn;
  params.norm_eps = spec.fields.value("rms_norm_eps", params.norm_eps);
  const ordered_json rope = spec.fields.value("rope", ordered_json::object());
  params.rope_theta = rope.value("theta", kOldTheta);
  params.use_scaled_rope = rope.value("type", "default") == "llama3";
  params.is_tied = spec.flag("tie_word_embeddings");
  return params;
}

MetaGeneration MetaParams::generation() const {
  const double theta = rope_theta.value_or(kOldTheta);
  const bool is_grouped = own_kv_heads.value_or(n_kv_heads.value_or(n_heads)) != n_heads;
  if (use_scaled_rope) return MetaGeneration::llama3_1;
  // A theta alone tells nothing.
  if (vocab_size >= kLlama3Vocabulary || (theta == kLlama3Theta && is_grouped)) return MetaGeneration::llama3;
  if (theta > kOldTheta) return MetaGeneration::code_llama;
  const bool is_65b = dim == 8192 && n_layers == 80;
  const bool is_old = is_65b || norm_eps == 1e-6;
  return is_old && !is_grouped && ffn.multiplier == 1 ? MetaGeneration::llama1 : MetaGeneration::llama2;
}

Expected<json> MetaParams::hf_config() const {
  const std::optional<Index> size = meta_ffn_size(dim, ffn);
  if (!size) return input_error("ffn_dim_multiplier: the width of the MLP is out of range");
  const bool is_llama3_tokenizer = vocab_size >= kLlama3Vocabulary;
  json config = {{"model_type", "llama"},
                 {"attention_bias", false},
                 {"attention_dropout", 0.0},
                 {"bos_token_id", is_llama3_tokenizer ? 128000 : 1},
                 {"eos_token_id", is_llama3_tokenizer ? 128001 : 2},
                 {"hidden_act", "silu"},
                 {"hidden_size", dim},
                 {"initializer_range", 0.02},
                 {"intermediate_size", *size},
                 {"max_position_embeddings", context_length(generation())},
                 {"mlp_bias", false},
                 {"num_attention_heads", n_heads},
                 {"num_hidden_layers", n_layers},
                 {"num_key_value_heads", n_kv_heads.value_or(n_heads)},
                 {"pretraining_tp", 1},
                 {"rms_norm_eps", norm_eps},
                 {"rope_scaling", nullptr},
                 {"rope_theta", rope_theta.value_or(kOldTheta)},
                 {"tie_word_embeddings", is_tied},
                 {"use_cache", true},
                 {"vocab_size", vocab_size.value_or(0)}};
  if (n_heads > 0 && dim % n_heads == 0) config["head_dim"] = dim / n_heads;
  if (use_scaled_rope) {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", rope_factor(*this)},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 8192}};
  }
  return config;
}

Expected<MetaParams> read_params(const json& whole, const std::string& path, std::vector<std::string>& notes) {
  std::vector<std::string> unknown;
  auto params = parse(whole.is_object() && whole.contains("model") ? whole.at("model") : whole, unknown);
  if (!params) return std::move(params).error().at(path);
  if (!unknown.empty()) notes.push_back(path + ": not understood: " + join(unknown, ", "));
  return params;
}

std::string describe_assumed(const MetaParams& params) {
  std::string text = fmt::format("max_position_embeddings {}", context_length(params.generation()));
  if (params.use_scaled_rope) text += fmt::format(", rope_scaling with factor {}", rope_factor(params));
  return fmt::format(
      "{} and the token ids of begin and end of text are taken as those of {}, as params.json does not say them; "
      "--config-from names a folder with the model's config.json",
      text, name_of(params.generation()));
}

std::string write_params(const MetaParams& params, ParamsStyle style, bool by_rows) {
  ordered_json json;
  json["dim"] = params.dim;
  json["n_layers"] = params.n_layers;
  json["n_heads"] = params.n_heads;
  const auto add_optional = [&] {
    if (params.n_kv_heads) json["n_kv_heads"] = *params.n_kv_heads;
    if (params.ffn.multiplier != 1) json["ffn_dim_multiplier"] = params.ffn.multiplier;
  };
  if (style == ParamsStyle::fairseq2) {
    json["multiple_of"] = params.ffn.multiple_of;
    json["rope_theta"] = params.rope_theta.value_or(kOldTheta);
    json["norm_eps"] = params.norm_eps;
    add_optional();
    return python_dumps({{"model", json}});
  }
  // The classes of Llama 1 and 2 fail on keys that came later.
  json["vocab_size"] = by_rows ? params.vocab_size.value_or(-1) : -1;
  add_optional();
  json["multiple_of"] = params.ffn.multiple_of;
  json["norm_eps"] = params.norm_eps;
  const double theta = params.rope_theta.value_or(kOldTheta);
  if (by_rows || theta != kOldTheta) json["rope_theta"] = theta;
  if (params.use_scaled_rope) json["use_scaled_rope"] = true;
  return python_dumps(json);
}

Status note_lost(const model::Spec& spec, const MetaParams& params, ParamsStyle style, const model::Library& library,
                 std::vector<std::string>& notes) {
  MetaParams written = params;
  if (style == ParamsStyle::fairseq2) written.use_scaled_rope = false;
  RESHARD_TRY(const json config, written.hf_config());
  RESHARD_TRY(const model::Spec back, model::parse_hf_config(config, library, "params.json"));
  const auto same = [](const ordered_json& fields, const std::string& key, const ordered_json& value) {
    return fields.contains(key) ? fields.at(key) == value : says_nothing(value);
  };
  std::vector<std::string> lost, felt;  // felt: the model answers otherwise without it
  for (const auto& [key, value] : spec.fields.items()) {
    if (key == "num_key_value_heads" && value != back.fields.at(key)) {
      notes.push_back(
          fmt::format("meta: num_key_value_heads ({}) becomes n_kv_heads {}: every rank has its own copy of "
                      "a kv head",
                      value.dump(), back.fields.at(key).dump()));
    } else if (key == "rope") {
      for (const auto& [part, part_value] : value.items()) {
        if (!same(back.fields.at(key), part, part_value))
          felt.push_back(with_value("rope_scaling." + part, part_value));
      }
    } else if (!same(back.fields, key, value)) {
      (key == "sliding_window" ? felt : lost).push_back(with_value(key, value));
    }
  }
  if (!felt.empty()) {
    notes.push_back("warning: meta: params.json has no place for " + join(felt, ", ") +
                    ", without which the model computes "
                    "otherwise");
  }
  if (spec.family != "llama")
    notes.push_back(fmt::format("meta: the {} model will be a llama when it is read back", spec.family));
  if (!lost.empty()) notes.push_back("meta: params.json has no place for " + join(lost, ", "));
  return {};
}

}  // namespace reshard::format
