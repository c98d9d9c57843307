// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "llama_ffn.h"
#include "reshard/format/format.h"

namespace reshard::format {

/// The forms that checkpoints of fairseq2 have had: that of 0.3 and 0.4, and that of 0.5 and later.
enum class Fairseq2Release { v04, v08 };

/// What a model.yaml says.
struct Fairseq2Model {
  nlohmann::json hf;                    ///< the same as a Hugging Face config.json
  Index num_shards = 0;                 ///< tensor-parallel files, as 0.4 states them; 0: not said
  std::optional<bool> shard_embed_dim;  ///< since 0.5
  std::optional<FfnRule> ffn;           ///< of LLaMA
  bool ties_unknown = false;            ///< not said: in 0.4, of LLaMA and Mistral
};

/// Errors (input): no mapping, no model_family, a family that this program does not know, fields that are missing or of
/// a wrong type. What had to be assumed becomes notes. Pure.
Expected<Fairseq2Model> read_model_yaml(const nlohmann::ordered_json& yaml, const std::string& path,
                                        std::vector<std::string>& notes);

/// Does tensor parallelism cut the embedding by columns rather than rows? 0.4 does so by the length of the context;
/// since then a config says it (facts.fairseq2.shard_embed_dim), by default for the generations before Llama 3. Pure.
bool cuts_embedding_by_columns(const model::Spec& spec, Fairseq2Release release);

/// Side files of a fairseq2 checkpoint.
struct Fairseq2SideFiles {
  const model::Spec& spec;
  Fairseq2Release release;
  Index tp;
  bool shard_embed_dim;

  /// model.yaml, the checkpoint's asset card. Fields of the model that have no place become notes.
  std::string model_yaml(std::vector<std::string>& notes) const;
  /// cc/config.json, which 0.4 puts beside the LLaMA models that it saves.
  std::string cc_config() const;
};

/// The config.json that write_hf_config of 0.3 and 0.4 writes beside a LLaMA model in Meta's form. Pure.
std::string fairseq2_hf_config(const model::Spec& spec, double norm_eps);

}  // namespace reshard::format
