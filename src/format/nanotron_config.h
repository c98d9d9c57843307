// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/format/format.h"

namespace reshard::format {

/// What a model_config.json says.
struct NanotronModel {
  nlohmann::json hf;              ///< the same as a Hugging Face config.json
  bool rope_interleaved = false;  ///< order of the rows of q and k
};

/// Errors (input): a class of model that this program does not know, fields that no family has. Fields that are lost
/// become notes. Pure.
Expected<NanotronModel> read_model_config(const nlohmann::json& config, const std::string& path,
                                          std::vector<std::string>& notes);

/// Side files of a Nanotron checkpoint. `rows`: of the stored embedding, padding included.
struct NanotronSideFiles {
  const model::Spec& spec;
  const TargetOptions& options;
  std::string version;
  Index rows;
  bool has_tokenizer;

  /// model_config.json: the fields of the class in order. Fields of the model that have no place become notes.
  nlohmann::ordered_json model_config(std::vector<std::string>& notes) const;
  std::string model_config_text(std::vector<std::string>& notes) const;
  std::string checkpoint_metadata() const;
  std::string config_yaml() const;
};

}  // namespace reshard::format
