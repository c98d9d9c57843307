// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/base/dtype.h"
#include "reshard/base/expected.h"
#include "reshard/layout/canonical.h"
#include "reshard/model/library.h"

namespace reshard::model {

/// The hyper-parameters of one model, neutral between formats. Every format's side files are read into this and written
/// from it; nothing else crosses from one format to another.
///
/// `fields` holds neutral keys: those of a Hugging Face config.json in its current spelling, defaults of the family filled
/// in, except
///   rope    {"theta": number, "type": text, ...the scaling's own keys...}   (rope_theta, rope_scaling, rope_parameters)
/// and without architectures, model_type, dtype, torch_dtype, transformers_version, which have members of their own.
struct Spec {
  std::string family;               ///< name of a file in configs/arch
  nlohmann::ordered_json fields = nlohmann::ordered_json::object();
  DType dtype = DType::bf16;        ///< of most weights
  /// Source-only facts that a target may need: "vocab_padded": true when the true vocabulary is unknown, ...
  nlohmann::ordered_json facts = nlohmann::ordered_json::object();

  Index integer(const std::string& key) const;  ///< 0 if absent or null
  bool flag(const std::string& key) const;
};

/// Canonical tensors of the model: the family's table at the spec's hyper-parameters. Pure.
/// Errors (input): a hyper-parameter that is missing, negative or contradictory, naming the key.
Expected<std::shared_ptr<const layout::Canon>> make_canon(const Spec& spec, const Library& library);

/// Spec from a config.json in any spelling (formats/hf.md section 7), defaults of the family applied. Errors (input): no
/// model_type, an unknown one (naming the known ones and `--from`/generic), wrong types.
Expected<Spec> parse_hf_config(const nlohmann::json& config, const Library& library, const std::string& path);
/// config.json with both sets of keys (old and new spelling), sorted, indent 2, newline: the text to write.
std::string write_hf_config(const Spec& spec, const Library& library);

/// Named model for synthetic sources: llama3.2-1b, llama3-8b, llama3-70b, llama3-405b, qwen3-235b-a22b, or the path of a
/// config.json.
Expected<Spec> named_model(const std::string& name, const Library& library);
std::vector<std::string> model_names();

}  // namespace reshard::model
