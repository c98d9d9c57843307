// SPDX-License-Identifier: Apache-2.0
#include "fairseq2_config.h"

#include <fmt/format.h>

#include <set>

#include "probing.h"
#include "python_text.h"
#include "reshard/base/text.h"
#include "reshard/io/json.h"

namespace reshard::format {

namespace {

using Json = nlohmann::ordered_json;

constexpr double kLlamaEps = 1e-5, kQwenEps = 1e-6;
constexpr double kFfnScale = 2.0 / 3.0;
constexpr Index kLlama3Vocabulary = 128256;
constexpr double kLlama3Theta = 500000;
constexpr double kMistralTheta = 10000;
// Up to here 0.3 and 0.4 cut the embedding by columns, whatever the generation.
constexpr Index kLongContext = 8192;

double eps_of(const std::string& family) { return family.starts_with("qwen") ? kQwenEps : kLlamaEps; }

// Scaling that the class has where nothing is said.
Json default_rope_scale() {
  return {{"factor", 8.0}, {"frequency_factors", {1.0, 4.0}}, {"original_context_length", 8192}};
}

// Typed access to the fields of model_config.
class Config {
 public:
  Config(const Json& fields, std::string path) : fields_(&fields), path_(std::move(path)) {}

  bool has(const char* key) const { return find(key) != nullptr; }

  Expected<Index> integer(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return missing(key);
    if (!value->is_number_integer() || *value < 0) return wrong(key, "a non-negative integer");
    return value->get<Index>();
  }
  Expected<Index> integer(const char* key, Index otherwise) const { return has(key) ? integer(key) : otherwise; }

  Expected<double> number(const char* key, double otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number()) return wrong(key, "a number");
    return value->get<double>();
  }

  Expected<bool> flag(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) return wrong(key, "true or false");
    return value->get<bool>();
  }

  // A mapping below this one; empty if it is not there.
  Expected<Config> below(const char* key) const {
    static const Json none = Json::object();
    const Json* value = find(key);
    if (value == nullptr) return Config(none, path_ + "." + key);
    if (!value->is_object()) return wrong(key, "a mapping");
    return Config(*value, path_ + "." + key);
  }

  Expected<std::pair<double, double>> two_numbers(const char* key, std::pair<double, double> otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_array() || value->size() != 2 || !value->front().is_number() || !value->back().is_number()) {
      return wrong(key, "a list of two numbers");
    }
    return std::pair{value->front().get<double>(), value->back().get<double>()};
  }

  Error missing(const char* key) const { return input_error(fmt::format("{}: has no {}", path_, key)); }

 private:
  // Null means absent throughout.
  const Json* find(const char* key) const {
    const auto found = fields_->find(key);
    return found == fields_->end() || found->is_null() ? nullptr : &*found;
  }
  Error wrong(const char* key, const char* expected) const {
    return input_error(fmt::format("{}.{}: expected {}, found {}", path_, key, expected,
                                   io::in_quotes(find(key)->dump(-1, ' ', true, Json::error_handler_t::replace))));
  }

  const Json* fields_;
  std::string path_;
};

// vocab_size and the special tokens, in the spelling of either release.
Status read_vocabulary(const Config& config, nlohmann::json& hf) {
  if (!config.has("vocab_info")) {
    RESHARD_TRY(hf["vocab_size"], config.integer("vocab_size"));
    if (config.has("pad_idx")) {
      RESHARD_TRY(hf["pad_token_id"], config.integer("pad_idx"));
    }
    return {};
  }
  RESHARD_TRY(const Config vocabulary, config.below("vocab_info"));
  RESHARD_TRY(hf["vocab_size"], vocabulary.integer("size"));
  for (const auto& [theirs, ours] :
       {std::pair{"bos_idx", "bos_token_id"}, {"eos_idx", "eos_token_id"}, {"pad_idx", "pad_token_id"}}) {
    if (vocabulary.has(theirs)) {
      RESHARD_TRY(hf[ours], vocabulary.integer(theirs));
    }
  }
  return {};
}

Status read_llama_ffn(const Config& config, const std::string& path, Fairseq2Model& model) {
  RESHARD_TRY(const Index inner, config.integer("ffn_inner_dim"));
  RESHARD_TRY(const double scale, config.number("ffn_inner_dim_scale", kFfnScale));
  FfnRule& rule = model.ffn.emplace();
  RESHARD_TRY(rule.multiplier, config.number("ffn_inner_dim_multiplier", 1));
  const char* multiple =
      config.has("ffn_inner_dim_to_multiple") ? "ffn_inner_dim_to_multiple" : "ffn_inner_dim_multiple_of";
  RESHARD_TRY(rule.multiple_of, config.integer(multiple, 256));
  const std::optional<Index> size = fairseq2_ffn_size(inner, scale, rule);
  if (!size) return input_error(path + ": ffn_inner_dim and its factors are no size of a layer");
  model.hf["intermediate_size"] = *size;
  return {};
}

Status read_llama_rope(const Config& config, const std::string& path, nlohmann::json& hf,
                       std::vector<std::string>& notes) {
  RESHARD_TRY(hf["rope_theta"], config.number("rope_theta", 10000));
  RESHARD_TRY(const bool is_scaled, config.flag("use_scaled_rope"));
  if (!is_scaled) return {};  // a rope_scale may be there and is not used
  const char* key = config.has("rope_scaling") ? "rope_scaling" : "rope_scale";
  if (!config.has(key)) {
    notes.push_back(path + ": use_scaled_rope without its factors (0.3): taken as 8, with frequency factors 1 and 4");
  }
  RESHARD_TRY(const Config scale, config.below(key));
  nlohmann::json& scaling = hf["rope_scaling"];
  scaling["rope_type"] = "llama3";
  RESHARD_TRY(scaling["factor"], scale.number("factor", 8));
  RESHARD_TRY(const auto frequencies, scale.two_numbers("frequency_factors", {1, 4}));
  scaling["low_freq_factor"] = frequencies.first;
  scaling["high_freq_factor"] = frequencies.second;
  RESHARD_TRY(scaling["original_max_position_embeddings"], scale.integer("original_context_length", 8192));
  return {};
}

Status read_qwen(const Config& config, const std::string& path, nlohmann::json& hf) {
  RESHARD_TRY(const bool has_bias, config.flag("qkv_proj_bias"));
  RESHARD_TRY(const bool q_norm, config.flag("q_norm"));
  RESHARD_TRY(const bool k_norm, config.flag("k_norm"));
  if (q_norm != k_norm || q_norm == has_bias) {
    return input_error(
        fmt::format("{}: qkv_proj_bias {}, q_norm {}, k_norm {}: neither a Qwen2 (biases) nor a Qwen3 "
                    "(norms of q and k)",
                    path, has_bias, q_norm, k_norm));
  }
  hf["model_type"] = q_norm ? "qwen3" : "qwen2";
  RESHARD_TRY(hf["head_dim"], config.integer("head_dim", hf["head_dim"].get<Index>()));
  RESHARD_TRY(hf["intermediate_size"], config.integer("ffn_inner_dim"));
  RESHARD_TRY(hf["rope_theta"], config.number("rope_theta", 1000000));
  return {};
}

// Fields of a config.json that a model.yaml says in its own way, or that say what fairseq2 does anyway.
bool has_place(const std::string& key) {
  static const std::set<std::string> kKnown = {"vocab_size",
                                               "hidden_size",
                                               "intermediate_size",
                                               "num_hidden_layers",
                                               "num_attention_heads",
                                               "num_key_value_heads",
                                               "head_dim",
                                               "max_position_embeddings",
                                               "tie_word_embeddings",
                                               "pad_token_id",
                                               "rope",
                                               "rms_norm_eps",
                                               "hidden_act",
                                               "attention_bias",
                                               "mlp_bias",
                                               "use_cache",
                                               "pretraining_tp",
                                               "initializer_range",
                                               "attention_dropout",
                                               "sliding_window",
                                               "use_sliding_window",
                                               "max_window_layers",
                                               "layer_types",
                                               "_name_or_path"};
  return kKnown.count(key) != 0;
}

// What fairseq2 computes otherwise than the model says: that would change its answers.
void warn_of_differences(const model::Spec& spec, std::vector<std::string>& notes) {
  const auto warn = [&](const std::string& what) { notes.push_back("warning: fairseq2: " + what); };
  const double eps = eps_of(spec.family);
  if (const Json& own = spec.fields.at("rms_norm_eps"); own != eps) {
    warn(fmt::format("model.yaml has no place for rms_norm_eps ({}): fairseq2 computes with {}", own.dump(),
                     Json(eps).dump()));
  }
  if (spec.fields.value("hidden_act", "silu") != "silu") warn("hidden_act is silu there, whatever the model says");
  const Json rope = spec.fields.value("rope", Json::object());
  const std::string type = rope.value("type", "default");
  const bool is_llama = spec.family == "llama";
  if (type != "default" && !(is_llama && type == "llama3")) {
    warn(fmt::format("rope_scaling of type {} has no place in its {} config", io::in_quotes(type), spec.family));
  }
  if (spec.family == "mistral" && rope.value("theta", kMistralTheta) != kMistralTheta) {
    warn(fmt::format("its Mistral has no rope_theta ({}): it computes with 10000", rope.at("theta").dump()));
  }
  if (spec.flag("use_sliding_window")) warn("use_sliding_window and sliding_window have no place in its Qwen config");
}

// The fields of one of fairseq2's config classes, filled in order.
class Writer {
 public:
  Writer(const model::Spec& spec, Fairseq2Release release, bool shard_embed_dim)
      : spec_(spec), old_(release == Fairseq2Release::v04), shard_embed_dim_(shard_embed_dim) {}

  Json config() {
    if (spec_.family == "llama") return llama();
    return spec_.family == "mistral" ? mistral() : qwen();
  }

 private:
  Json rope(const char* key, const Json& otherwise) const {
    const auto found = spec_.fields.find("rope");
    return found != spec_.fields.end() && found->contains(key) ? found->at(key) : otherwise;
  }
  Json token(const char* key) const {
    const auto found = spec_.fields.find(key);
    if (found == spec_.fields.end()) return nullptr;
    if (found->is_array() && !found->empty()) return found->front();
    return found->is_number_integer() ? *found : Json(nullptr);
  }
  void common(bool has_pad) {
    config_["model_dim"] = spec_.integer("hidden_size");
    config_["max_seq_len"] = spec_.integer("max_position_embeddings");
    if (!old_) {
      config_["vocab_size"] = spec_.integer("vocab_size");
      if (has_pad) config_["pad_idx"] = token("pad_token_id");
      return;
    }
    config_["vocab_info"] = {{"size", spec_.integer("vocab_size")},
                             {"unk_idx", 0},
                             {"bos_idx", token("bos_token_id")},
                             {"eos_idx", token("eos_token_id")},
                             {"pad_idx", token("pad_token_id")},
                             {"boh_idx", nullptr},
                             {"eoh_idx", nullptr}};
  }
  void sizes() {
    config_["num_layers"] = spec_.integer("num_hidden_layers");
    config_["num_attn_heads"] = spec_.integer("num_attention_heads");
    config_["num_key_value_heads"] = spec_.integer("num_key_value_heads");
  }

  Json llama() {
    common(true);
    if (!old_) config_["tied_embeddings"] = spec_.flag("tie_word_embeddings");
    sizes();
    const Index dim = spec_.integer("hidden_size"), size = spec_.integer("intermediate_size");
    const auto rule =
        find_ffn_rule(spec_, [&](const FfnRule& one) { return fairseq2_ffn_size(4 * dim, kFfnScale, one); });
    // A size that no multiplier gives is said as it is.
    config_["ffn_inner_dim"] = rule ? 4 * dim : size;
    config_["ffn_inner_dim_scale"] = rule ? kFfnScale : 1.0;
    config_["ffn_inner_dim_multiplier"] = rule ? rule->multiplier : 1.0;
    config_[old_ ? "ffn_inner_dim_to_multiple" : "ffn_inner_dim_multiple_of"] = rule ? rule->multiple_of : 1;
    config_["rope_theta"] = rope("theta", 10000.0).get<double>();
    const bool is_scaled = rope("type", "default") == "llama3";
    config_["use_scaled_rope"] = is_scaled;
    Json scale = default_rope_scale();
    if (is_scaled) {
      scale["factor"] = rope("factor", 8.0);
      scale["frequency_factors"] = {rope("low_freq_factor", 1.0), rope("high_freq_factor", 4.0)};
      scale["original_context_length"] = rope("original_max_position_embeddings", 8192);
    }
    config_[old_ ? "rope_scaling" : "rope_scale"] = std::move(scale);
    config_["dropout_p"] = 0.0;
    if (!old_) {
      config_["init_std"] = nullptr;
      config_["init_std_scale"] = "layer";
      config_["shard_embed_dim"] = shard_embed_dim_;
    }
    return std::move(config_);
  }

  Json mistral() {
    common(true);
    // Attention over everything is a window as long as the sequence.
    const Index window = spec_.integer("sliding_window");
    config_["attn_window_len"] = window > 0 ? window : spec_.integer("max_position_embeddings");
    sizes();
    config_["ffn_inner_dim"] = spec_.integer("intermediate_size");
    config_["dropout_p"] = 0.0;
    return std::move(config_);
  }

  Json qwen() {
    common(false);
    const bool is_qwen3 = spec_.family == "qwen3";
    config_["tied_embeddings"] = spec_.flag("tie_word_embeddings");
    sizes();
    const Index heads = std::max<Index>(1, spec_.integer("num_attention_heads")), head_dim = spec_.integer("head_dim");
    config_["head_dim"] = head_dim * heads == spec_.integer("hidden_size") ? Json(nullptr) : Json(head_dim);
    config_["qkv_proj_bias"] = !is_qwen3;
    config_["q_norm"] = is_qwen3;
    config_["k_norm"] = is_qwen3;
    config_["ffn_inner_dim"] = spec_.integer("intermediate_size");
    config_["rope_theta"] = rope("theta", 1000000.0).get<double>();
    config_["dropout_p"] = 0.0;
    return std::move(config_);
  }

  const model::Spec& spec_;
  bool old_, shard_embed_dim_;
  Json config_ = Json::object();
};

}  // namespace

Expected<Fairseq2Model> read_model_yaml(const Json& yaml, const std::string& path, std::vector<std::string>& notes) {
  if (!yaml.is_object()) return input_error(path + ": expected a mapping");
  const Config card(yaml, path);
  Fairseq2Model model;
  RESHARD_TRY(model.num_shards, card.integer("num_shards", 0));
  const auto family = yaml.find("model_family");
  if (family == yaml.end() || !family->is_string()) return input_error(path + ": has no model_family");
  RESHARD_TRY(Config config, card.below("model_config"));
  if (config.has("_set_")) {
    RESHARD_TRY(config, config.below("_set_"));
  }

  nlohmann::json& hf = model.hf;
  RESHARD_TRY(hf["hidden_size"], config.integer("model_dim"));
  RESHARD_TRY(hf["max_position_embeddings"], config.integer("max_seq_len"));
  RESHARD_TRY(hf["num_hidden_layers"], config.integer("num_layers"));
  RESHARD_TRY(hf["num_attention_heads"], config.integer("num_attn_heads"));
  RESHARD_TRY(hf["num_key_value_heads"], config.integer("num_key_value_heads"));
  RESHARD_TRY(hf["tie_word_embeddings"], config.flag("tied_embeddings"));
  model.ties_unknown = !config.has("tied_embeddings");
  RESHARD_CHECK(read_vocabulary(config, hf));
  hf["rms_norm_eps"] = eps_of(*family);
  hf["head_dim"] = hf["hidden_size"].get<Index>() / std::max<Index>(1, hf["num_attention_heads"].get<Index>());
  hf["hidden_act"] = "silu";
  const std::string where = path + ": model_config";
  if (*family == "llama") {
    hf["model_type"] = "llama";
    if (config.has("shard_embed_dim")) {
      RESHARD_TRY(model.shard_embed_dim, config.flag("shard_embed_dim"));
    }
    RESHARD_CHECK(read_llama_ffn(config, where, model));
    RESHARD_CHECK(read_llama_rope(config, where, hf, notes));
    assume_llama_tokens(hf, path, notes);
  } else if (*family == "mistral") {
    hf["model_type"] = "mistral";
    RESHARD_TRY(hf["intermediate_size"], config.integer("ffn_inner_dim"));
    RESHARD_TRY(hf["sliding_window"], config.integer("attn_window_len", 4096));
    hf["rope_theta"] = kMistralTheta;
  } else if (*family == "qwen") {
    RESHARD_CHECK(read_qwen(config, where, hf));
  } else {
    return input_error(fmt::format("{}: model_family {}: known are llama, mistral and qwen", path,
                                   io::in_quotes(family->get<std::string>().substr(0, 100))));
  }
  return model;
}

bool cuts_embedding_by_columns(const model::Spec& spec, Fairseq2Release release) {
  if (spec.family != "llama") return false;
  if (release == Fairseq2Release::v04) return spec.integer("max_position_embeddings") < kLongContext;
  const Json own = spec.facts.value("fairseq2", Json::object());
  if (own.contains("shard_embed_dim")) return own.at("shard_embed_dim").get<bool>();
  const Json rope = spec.fields.value("rope", Json::object());
  const bool is_llama3 =
      spec.integer("vocab_size") == kLlama3Vocabulary || rope.value("theta", 10000.0) == kLlama3Theta;
  return !is_llama3 && !spec.flag("tie_word_embeddings");
}

std::string Fairseq2SideFiles::model_yaml(std::vector<std::string>& notes) const {
  warn_of_differences(spec, notes);
  std::vector<std::string> homeless;
  for (const auto& [key, value] : spec.fields.items()) {
    const bool told = release == Fairseq2Release::v04 && (key == "bos_token_id" || key == "eos_token_id");
    const bool says_nothing = value.is_null() || value == 0 || value == false || value.empty();
    if (!told && !says_nothing && !has_place(key)) homeless.push_back(key);
  }
  if (!homeless.empty()) notes.push_back("fairseq2: model.yaml has no place for " + join(homeless, ", "));
  if (release == Fairseq2Release::v04 && spec.flag("tie_word_embeddings") && spec.family == "llama") {
    notes.push_back("warning: fairseq2: 0.4 has no tied embeddings (tie_word_embeddings): final_proj is a copy there");
  }

  Json card = {{"name", "checkpoint"}};
  card["model_family"] = spec.family.starts_with("qwen") ? "qwen" : spec.family;
  Json config = Writer(spec, release, shard_embed_dim).config();
  if (release == Fairseq2Release::v04) config = {{"_set_", std::move(config)}};
  card["model_config"] = std::move(config);
  if (release == Fairseq2Release::v04 && tp > 1) card["num_shards"] = tp;
  return python_yaml(card);
}

std::string Fairseq2SideFiles::cc_config() const { return fairseq2_hf_config(spec, kLlamaEps); }

std::string fairseq2_hf_config(const model::Spec& spec, double norm_eps) {
  nlohmann::json config = nlohmann::json::object();
  config["architectures"] = {"Fairseq2LlamaForCausalLM"};
  config["model_type"] = "llama";
  for (const char* key : {"hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
                          "num_hidden_layers", "num_key_value_heads", "vocab_size"}) {
    config[key] = spec.integer(key);
  }
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    const auto found = spec.fields.find(key);
    if (found == spec.fields.end()) continue;
    config[key] = found->is_array() && !found->empty() ? found->front() : *found;
  }
  config["rms_norm_eps"] = norm_eps;
  config["tie_word_embeddings"] = spec.flag("tie_word_embeddings");
  const Json rope = spec.fields.value("rope", Json::object());
  config["rope_theta"] = rope.value("theta", 10000.0);
  if (rope.value("type", "default") == "llama3") {
    nlohmann::json scaling = rope;
    scaling.erase("theta");
    scaling.erase("type");
    scaling["rope_type"] = "llama3";
    config["rope_scaling"] = std::move(scaling);
  }
  return config.dump(2, ' ', true);
}

}  // namespace reshard::format
