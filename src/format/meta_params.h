// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "llama_ffn.h"
#include "reshard/format/format.h"

namespace reshard::format {

/// Which of Meta's models it is like. The file does not say so; it decides what the file leaves unsaid.
enum class MetaGeneration { llama1, llama2, code_llama, llama3, llama3_1 };

/// What a params.json says: constructor arguments of Meta's reference models.
struct MetaParams {
  Index dim = 0, n_layers = 0, n_heads = 0;
  std::optional<Index> n_kv_heads;    ///< n_heads if absent
  std::optional<Index> own_kv_heads;  ///< without copies for ranks, where n_kv_heads counts these
  std::optional<Index> vocab_size;    ///< absent or -1 in files of Llama 1 and 2: that of the tokenizer
  FfnRule ffn;
  double norm_eps = 1e-5;
  std::optional<double> rope_theta;  ///< 10000 if absent
  bool use_scaled_rope = false;
  bool is_tied = false;  ///< not in the file: told by the weights

  /// The neutral form of a model, to be stored for `tp` ranks: each has at least one kv head. Errors (usage): what
  /// Meta's models cannot be. Pure.
  static Expected<MetaParams> of(const model::Spec& spec, Index tp);

  MetaGeneration generation() const;
  /// The same as a Hugging Face config.json, what the file leaves unsaid as the generation had it. Errors (input): an
  /// intermediate_size out of range. Pure.
  Expected<nlohmann::json> hf_config() const;
};

/// Reads both forms, flat and below a key "model". Errors (input), naming `path` and key: a key that is missing or of
/// another type, a kind of model that is not read. Keys that are not understood become a note. Pure.
Expected<MetaParams> read_params(const nlohmann::json& json, const std::string& path, std::vector<std::string>& notes);

/// What hf_config() assumed, for people. Pure.
std::string describe_assumed(const MetaParams& params);

/// How params.json is written.
enum class ParamsStyle {
  flat,      ///< as Meta's models take it
  fairseq2,  ///< as fairseq2 writes it: below "model", without vocab_size and use_scaled_rope
};

/// The text of a params.json; `by_rows`: of a model whose embedding is cut by rows (Llama 3). Pure.
std::string write_params(const MetaParams& params, ParamsStyle style, bool by_rows);

/// One note per kind of field of `spec` that does not come back from what write_params writes. Errors (input): as
/// hf_config. Pure.
Status note_lost(const model::Spec& spec, const MetaParams& params, ParamsStyle style, const model::Library& library,
                 std::vector<std::string>& notes);

}  // namespace reshard::format
