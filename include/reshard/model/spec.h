// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
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
/// `fields` holds the fields that the family's file declares, under their neutral names (those of a config.json in its
/// current spelling), defaults filled in, and
///   rope    {"theta": number, "type": text, ...the scaling's own keys...}   (rope_theta, rope_scaling,
///   rope_parameters)
/// and any other key of a config.json untouched, but architectures, model_type, dtype, torch_dtype and
/// transformers_version.
struct Spec {
  std::string family;  ///< name of a file in configs/arch, or generic
  nlohmann::ordered_json fields = nlohmann::ordered_json::object();
  DType dtype = DType::bf16;  ///< of most weights
  /// Source-only facts that a target may need: "vocab_padded": true when the true vocabulary is unknown, ... "hf": how
  /// a config.json said it (model_type, architectures, transformers_version, what it left out or spelled its own way),
  /// so that writing one again says it the same way.
  nlohmann::ordered_json facts = nlohmann::ordered_json::object();

  Index integer(const std::string& key) const;  ///< 0 if absent, null or no integer
  bool flag(const std::string& key) const;      ///< false if absent, null or no boolean
};

/// Fills in the defaults of the family for fields that are absent or null, and checks the types of the others: formats
/// that read side files of their own call it before the spec is used. Errors (input): a field without a default that is
/// absent, a wrong type, a default that does not come out (heads that do not divide the width), naming the key. Local.
Status complete(Spec& spec, const Library& library);

/// Canonical tensors of the model: the family's table at the spec's hyper-parameters. Its scope has all integer and
/// boolean fields, flags, axis extents and sets. Pure. Errors (input): a hyper-parameter that is missing, negative or
/// contradictory, naming the key.
Expected<std::shared_ptr<const layout::Canon>> make_canon(const Spec& spec, const Library& library);

/// A tensor that a model does not have because another takes its place: a tied head.
struct Tie {
  std::string tensor, same;

  std::string text() const { return tensor + " = " + same; }
  bool operator==(const Tie&) const = default;
};
/// The ties of a model of this family. Pure.
std::vector<Tie> find_ties(const std::string& family, const layout::Canon& canon, const Library& library);

/// Spec from a config.json in any spelling (see src/model/README.md), completed. A dtype that the config does not state
/// is left at bf16: the tensors tell. Errors (input), naming `path` and key: no model_type, an unknown one (naming the
/// known ones and generic), wrong types, two spellings that disagree. Local.
Expected<Spec> parse_hf_config(const nlohmann::json& config, const Library& library, const std::string& path);
/// Spec of the family generic: the config is carried, never understood.
Spec make_generic_spec(const nlohmann::json& config);
/// config.json with both sets of keys (old and new spelling), sorted, indent 2, newline: the text to write. Pure.
std::string write_hf_config(const Spec& spec, const Library& library);

/// Named model (configs/model), or the path of a config.json. Errors (usage): no such name or file; (input): as
/// parse_hf_config. Local.
Expected<Spec> named_model(const std::string& name, const Library& library);
std::vector<std::string> model_names();
/// The model that is meant: case and the separators - _ . do not count (llama3.2-1b is llama3_2_1b). Pure.
std::optional<std::string> find_model(const std::string& name);

}  // namespace reshard::model
