// SPDX-License-Identifier: Apache-2.0
#include "nanotron_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "python_text.h"
#include "reshard/base/text.h"

namespace reshard::format {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// Fields with one name and meaning on both sides.
constexpr std::array<std::string_view, 16> kShared = {
    "bos_token_id",      "eos_token_id",        "hidden_act",          "hidden_size",
    "initializer_range", "intermediate_size",   "num_attention_heads", "max_position_embeddings",
    "num_hidden_layers", "num_key_value_heads", "pad_token_id",        "pretraining_tp",
    "rms_norm_eps",      "tie_word_embeddings", "use_cache",           "vocab_size"};

bool is_set(const json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && !found->is_null() && *found != false;
}

Index integer_or(const json& object, const char* key, Index otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<Index>() : otherwise;
}

Status read_experts(const json& moe, const std::string& path, json& hf) {
  const auto refuse = [&](const std::string& why) { return input_error(path + ": moe_config: " + why); };
  if (!moe.is_object()) return refuse("expected an object");
  if (integer_or(moe, "shared_expert_intermediate_size", 0) < 1 ||
      (moe.contains("enable_shared_expert") && moe["enable_shared_expert"] == false)) {
    return refuse("no shared expert: there is no family of such models");
  }
  hf["model_type"] = "qwen2_moe";
  hf["num_experts_per_tok"] = integer_or(moe, "top_k", 0);
  hf["norm_topk_prob"] = false;
  for (const char* key :
       {"num_experts", "moe_intermediate_size", "shared_expert_intermediate_size", "router_aux_loss_coef"}) {
    if (moe.contains(key)) hf[key] = moe[key];
  }
  // The layers with experts; Hugging Face lists those without.
  const Index layers = integer_or(hf, "num_hidden_layers", 0);
  std::set<Index> sparse;
  bool all = false;
  for (const json& layer : moe.value("layers", json::array({-1}))) {
    if (!layer.is_number_integer()) return refuse("layers: expected a list of integers");
    all = all || layer == -1;
    sparse.insert(layer.get<Index>());
  }
  hf["decoder_sparse_step"] = 1;
  hf["mlp_only_layers"] = json::array();
  for (Index layer = 0; layer < layers && !all && layer <= 1 << 16; ++layer) {
    if (sparse.count(layer) == 0) hf["mlp_only_layers"].push_back(layer);
  }
  return {};
}

// The fields of one class of Nanotron's, filled in order.
class Fields {
 public:
  explicit Fields(const model::Spec& spec) : spec_(spec) {}

  // A field of the model, `otherwise` where it has none.
  void shared(const std::string& key, const ordered_json& otherwise) {
    const auto found = spec_.fields.find(key);
    const bool there = found != spec_.fields.end() && !found->is_null();
    config[key] = there ? *found : otherwise;
    if (!there && found != spec_.fields.end() && !otherwise.is_null()) {
      notes.push_back(fmt::format("{} (null) becomes {}, as Nanotron has it", key, otherwise.dump()));
    }
    // Its loader tells 1 from 1.0.
    if (otherwise.is_number_float() && config[key].is_number()) config[key] = config[key].get<double>();
    if (config[key].is_array()) {
      const ordered_json first = config[key].empty() ? otherwise : config[key].front();
      notes.push_back(fmt::format("{} {} becomes {}: Nanotron takes one", key, config[key].dump(), first.dump()));
      config[key] = first;
    }
  }

  ordered_json config;
  std::vector<std::string> notes;

 private:
  const model::Spec& spec_;
};

ordered_json rope_scaling(const ordered_json& rope) {
  json scaling = json::object();  // sorts its keys
  for (const auto& [key, value] : rope.items()) {
    if (key != "theta" && key != "type") scaling[key] = value;
  }
  const std::string type = rope.value("type", "default");
  if (type == "default" && scaling.empty()) return nullptr;
  scaling["rope_type"] = type;
  return ordered_json(scaling);
}

// Fields of other formats that say what Nanotron does anyway.
bool says_nothing(const std::string& key, const ordered_json& value) {
  static const std::set<std::string> kElsewhere = {"rope",
                                                   "head_dim",
                                                   "attention_bias",
                                                   "mlp_bias",
                                                   "qkv_bias",
                                                   "num_experts",
                                                   "num_experts_per_tok",
                                                   "moe_intermediate_size",
                                                   "shared_expert_intermediate_size",
                                                   "router_aux_loss_coef",
                                                   "decoder_sparse_step",
                                                   "mlp_only_layers",
                                                   "norm_topk_prob",
                                                   "use_sliding_window",
                                                   "sliding_window",
                                                   "max_window_layers",
                                                   "layer_types",
                                                   "_name_or_path"};
  if (kElsewhere.count(key) != 0 || std::find(kShared.begin(), kShared.end(), key) != kShared.end()) return true;
  return value.is_null() || value == 0 || value == false || value.empty();
}

bool uses_window(const model::Spec& spec) {
  return spec.integer("sliding_window") > 0 &&
         (spec.flag("use_sliding_window") || !spec.fields.contains("use_sliding_window"));
}

ordered_json moe_config(const model::Spec& spec) {
  if (spec.family != "qwen2_moe") return nullptr;
  ordered_json layers = ordered_json::array();
  const ordered_json dense = spec.fields.value("mlp_only_layers", ordered_json::array());
  const Index step = std::max<Index>(1, spec.integer("decoder_sparse_step"));
  for (Index layer = 0; layer < spec.integer("num_hidden_layers"); ++layer) {
    if ((layer + 1) % step == 0 && std::find(dense.begin(), dense.end(), layer) == dense.end()) layers.push_back(layer);
  }
  const auto loss = spec.fields.find("router_aux_loss_coef");
  return {{"num_experts", spec.integer("num_experts")},
          {"top_k", spec.integer("num_experts_per_tok")},
          {"moe_intermediate_size", spec.integer("moe_intermediate_size")},
          {"shared_expert_intermediate_size", spec.integer("shared_expert_intermediate_size")},
          {"router_aux_loss_coef", loss != spec.fields.end() && loss->is_number() ? *loss : ordered_json(0.01)},
          {"layers", layers},
          {"enable_shared_expert", true},
          {"token_dispatcher_type", "alltoall"}};
}

}  // namespace

Expected<NanotronModel> read_model_config(const json& config, const std::string& path,
                                          std::vector<std::string>& notes) {
  const bool is_llama = is_set(config, "is_llama_config"), is_qwen2 = is_set(config, "is_qwen2_config");
  if (!is_llama && !is_qwen2) {
    const std::string what =
        is_set(config, "is_starcoder2_config") ? "a Starcoder2 model" : "a model of no class known here";
    return input_error(path + ": " + what +
                       "; expected is_llama_config or is_qwen2_config, which a model_config.json of Nanotron says");
  }
  for (const char* key : {"no_rope_layer", "rope_seq_len_interpolation_factor"}) {
    if (is_set(config, key)) {
      return input_error(fmt::format("{}: {} is {}: there is no family of such models", path, key, config[key].dump()));
    }
  }
  NanotronModel model;
  for (const std::string_view key : kShared) {
    if (const auto found = config.find(key); found != config.end()) model.hf[std::string(key)] = *found;
  }
  for (const char* key : {"rope_theta", "rope_scaling"}) {
    if (config.contains(key)) model.hf[key] = config[key];
  }
  // A Qwen2Config without biases holds a Llama; a LlamaConfig has none whatever it says.
  const bool has_bias = is_qwen2 && is_set(config, "attention_bias");
  model.hf["model_type"] = has_bias ? "qwen2" : "llama";
  if (is_llama && is_set(config, "attention_bias")) {
    notes.push_back(path + ": attention_bias is true, which Nanotron's Llama ignores");
  }
  if (is_set(config, "sliding_window_size")) {
    if (has_bias || is_set(config, "moe_config")) {
      model.hf["use_sliding_window"] = true;
      model.hf["sliding_window"] = config["sliding_window_size"];
    } else {
      notes.push_back(path + ": sliding_window_size is lost: the family llama has no such field");
    }
  }
  if (is_set(config, "moe_config")) {
    RESHARD_CHECK(read_experts(config["moe_config"], path, model.hf));
    model.hf["qkv_bias"] = has_bias;
  }
  // Llama's rows were interleaved until the field came; Qwen2 came later, with a field of another name for some weeks.
  const char* key = config.contains("interleaved_rotary") ? "interleaved_rotary" : "rope_interleaved";
  model.rope_interleaved = config.contains(key) ? is_set(config, key) : is_llama;
  return model;
}

ordered_json NanotronSideFiles::model_config(std::vector<std::string>& notes) const {
  const bool is_new = version == "1.5";
  const bool is_qwen2 = spec.family == "qwen2" || spec.family == "qwen2_moe";
  const bool has_bias = spec.family == "qwen2" || (spec.family == "qwen2_moe" && spec.flag("qkv_bias"));
  const ordered_json rope = spec.fields.value("rope", ordered_json::object());
  Fields fields(spec);
  ordered_json& config = fields.config;
  fields.shared("bos_token_id", 1);
  fields.shared("eos_token_id", 2);
  fields.shared("hidden_act", "silu");
  fields.shared("hidden_size", nullptr);
  fields.shared("initializer_range", 0.02);
  fields.shared("intermediate_size", nullptr);
  config[is_qwen2 ? "is_qwen2_config" : "is_llama_config"] = true;
  fields.shared("max_position_embeddings", 2048);
  fields.shared("num_attention_heads", nullptr);
  fields.shared("num_hidden_layers", nullptr);
  if (!is_qwen2 && is_new) config["attention_bias"] = false;
  fields.shared("num_key_value_heads", nullptr);
  fields.shared("pad_token_id", nullptr);
  fields.shared("pretraining_tp", 1);
  fields.shared("rms_norm_eps", 1e-6);
  config["rope_scaling"] = rope_scaling(rope);
  config["rope_theta"] = rope.value("theta", 10000.0);
  config["rope_interleaved"] = false;
  if (is_qwen2 && is_new) config["rope_seq_len_interpolation_factor"] = nullptr;
  fields.shared("tie_word_embeddings", false);
  fields.shared("use_cache", true);
  config["vocab_size"] = rows;
  const ordered_json window = is_qwen2 && uses_window(spec) ? ordered_json(spec.integer("sliding_window")) : nullptr;
  const ordered_json experts = moe_config(spec);
  if (is_new) {
    config["_attn_implementation"] = "flash_attention_2";
    if (is_qwen2) {
      config["flex_attention_mask"] = nullptr;
      config["attention_bias"] = has_bias;
      config["sliding_window_size"] = window;
    }
    config["z_loss_enabled"] = false;
    config["z_loss_coefficient"] = 0.0001;
    if (is_qwen2) {
      config["no_rope_layer"] = nullptr;
      for (const char* key : {"_fused_rotary_emb", "_fused_rms_norm", "_use_qkv_packed"}) config[key] = true;
      config["_use_doc_masking"] = false;
      config["log_attn_probs"] = true;
      config["ring_attn_heads_k_stride"] = nullptr;
      config["moe_config"] = experts;
    }
  } else if (is_qwen2) {
    config["attention_bias"] = has_bias;
    if (!window.is_null()) config["sliding_window_size"] = window;
    if (!experts.is_null()) config["moe_config"] = experts;
  }

  std::vector<std::string> warnings;  // of what changes the model's answers
  for (const auto& [key, value] : spec.fields.items()) {
    if (!says_nothing(key, value)) fields.notes.push_back(key + " has no place in model_config.json");
  }
  if (!is_qwen2 && uses_window(spec)) warnings.push_back("sliding_window has no place in a LlamaConfig");
  if (!config["rope_scaling"].is_null()) {
    warnings.push_back("rope_scaling is stored, but Nanotron's models do not apply it");
  }
  for (const std::string& note : fields.notes) notes.push_back("nanotron: " + note);
  for (const std::string& warning : warnings) notes.push_back("warning: nanotron: " + warning);
  return config;
}

std::string NanotronSideFiles::model_config_text(std::vector<std::string>& notes) const {
  return python_dumps(model_config(notes));
}

std::string NanotronSideFiles::checkpoint_metadata() const {
  json stage = {{"consumed_train_samples", 0}, {"name", "Empty"}, {"start_training_step", 0}};
  json metas = {{"consumed_train_samples", 0}, {"last_stage_idx", nullptr}, {"last_train_step", 0}};
  json metadata = {{"custom_metas", nullptr}, {"dp", 1}, {"tp", options.mesh.tp}, {"version", version}};
  if (version == "1.5") {
    stage["consumed_tokens_per_dataset_folder"] = json::object();
    stage["sequence_length"] = std::max<Index>(1, spec.integer("max_position_embeddings"));
    metas["consumed_tokens_total"] = 0;
    metadata["cp"] = 1;
  }
  metas["data_stages"] = json::array({stage});
  metadata["metas"] = metas;
  return metadata.dump(2, ' ', true);
}

std::string NanotronSideFiles::config_yaml() const {
  const std::string path = options.final_path;
  std::vector<std::string> told_before;
  // The loader rejects keys that its version does not know: only those of all versions, the others have defaults.
  const json config = {{"general",
                        {{"project", "Nanotron"},
                         {"run", "reshard"},
                         {"seed", 42},
                         {"step", 0},
                         {"consumed_train_samples", 0},
                         {"benchmark_csv_path", nullptr},
                         {"ignore_sanity_checks", true}}},
                       {"parallelism",
                        {{"dp", 1},
                         {"pp", options.mesh.pp},
                         {"tp", options.mesh.tp},
                         {"expert_parallel_size", 1},
                         {"pp_engine", "1f1b"},
                         {"tp_mode", "ALL_REDUCE"},
                         {"tp_linear_async_communication", false}}},
                       {"model",
                        {{"ddp_bucket_cap_mb", 25},
                         {"dtype", std::string(torch_name(spec.dtype))},
                         {"init_method", {{"path", path}}},
                         {"make_vocab_size_divisible_by", options.vocab_multiple},
                         {"model_config", json(model_config(told_before))}}},
                       {"tokenizer",
                        {{"tokenizer_max_length", nullptr},
                         {"tokenizer_name_or_path", has_tokenizer ? json(path) : json(nullptr)},
                         {"tokenizer_revision", nullptr}}}};
  return python_yaml(config);
}

}  // namespace reshard::format
