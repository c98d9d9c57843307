// SPDX-License-Identifier: Apache-2.0
#include "probing.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <unordered_map>

#include "reshard/base/text.h"
#include "reshard/io/json.h"

namespace reshard::format {

Expected<model::Spec> parse_config(const SideFiles& side_files, const SourceOptions& options,
                                   const model::Library& library) {
  if (options.step >= 0) return usage_error(fmt::format("--step {}: this format has no runs with steps", options.step));
  RESHARD_CHECK(refuse_model(options));
  const std::string& path = side_files.paths.at("config");
  RESHARD_TRY(const nlohmann::json config, io::parse_strict_json(side_files.texts.at("config"), path));
  const auto type = config.find("model_type");
  if (type != config.end() && type->is_string() && library.family_of_model_type(*type).empty()) {
    return model::make_generic_spec(config);
  }
  RESHARD_TRY(model::Spec spec, model::parse_hf_config(config, library, path));
  RESHARD_CHECK(check_vocabulary(options, spec.integer("vocab_size"), path));
  return spec;
}

Status check_vocabulary(const SourceOptions& options, Index vocabulary, const std::string& path) {
  if (options.vocab_size == 0 || options.vocab_size == vocabulary) return {};
  std::string message = fmt::format("--vocab-size {}: {} says {}, and this format has no rows of padding",
                                    options.vocab_size, path, vocabulary);
  if (options.vocab_size < vocabulary) {
    message += fmt::format(
        "; where a conversion made such rows part of the vocabulary, convert its source again with "
        "--vocab-size {}",
        options.vocab_size);
  }
  return usage_error(std::move(message));
}

void note_generic(const model::Spec& spec, const std::string& config_path, std::vector<std::string>& notes) {
  if (spec.family != model::kGeneric) return;
  notes.push_back(fmt::format("{}: no family describes models of type {}: arrays are carried as they are (generic)",
                              config_path, spec.fields.value("model_type", "?")));
}

namespace {

// Fields of a spec under their names in a config.json.
std::map<std::string, nlohmann::ordered_json> flat_fields(const model::Spec& spec) {
  std::map<std::string, nlohmann::ordered_json> flat;
  for (const auto& [key, value] : spec.fields.items()) {
    if (key != "rope" || !value.is_object()) {
      flat[key] = value;
      continue;
    }
    for (const auto& [part, part_value] : value.items()) {
      flat[part == "theta" ? "rope_theta" : "rope_scaling." + part] = part_value;
    }
  }
  return flat;
}

std::string short_text(const nlohmann::ordered_json& value) {
  constexpr std::size_t kMost = 60;
  std::string text = value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  return text.size() > kMost ? text.substr(0, kMost) + "..." : text;
}

}  // namespace

void note_replaced(const SideFiles& found, const Expected<model::Spec>& own, const std::vector<std::string>& said,
                   Probe& probe) {
  const auto path = found.paths.find(kOwn);
  if (path == found.paths.end()) return;
  if (!own) {
    probe.config_notes.push_back(fmt::format("{} replaces {}, which cannot be read", probe.config_path, path->second));
    return;
  }
  const auto theirs = flat_fields(probe.spec);
  std::vector<std::string> differences;
  for (const auto& [key, value] : flat_fields(*own)) {
    const auto other = theirs.find(key);
    const bool is_said = said.empty() || std::any_of(said.begin(), said.end(), [&, &name = key](const auto& glob) {
                           return matches_glob(glob, name);
                         });
    if (!is_said || other == theirs.end() || other->second == value) continue;
    differences.push_back(fmt::format("{} {} becomes {}", key, short_text(value), short_text(other->second)));
  }
  if (differences.empty()) return;
  probe.config_notes.push_back(fmt::format("warning: {} replaces {}, which says otherwise: {}", probe.config_path,
                                           path->second, join(differences, ", ")));
}

Status check_mesh(const layout::Mesh& mesh, const std::string& root, std::size_t num_files) {
  const Index most = std::max({mesh.tp, mesh.pp, mesh.ep, mesh.dp});
  if (most <= static_cast<Index>(num_files)) return {};
  return input_error(fmt::format("{}: file names tell of {} ranks, but there are {} files", root, most, num_files));
}

void assume_llama_tokens(nlohmann::json& hf, const std::string& path, std::vector<std::string>& notes) {
  if (hf.contains("bos_token_id") || hf.contains("eos_token_id")) return;
  const Index vocabulary = hf.at("vocab_size").get<Index>();
  if (vocabulary != 32'000 && vocabulary != 128'256) {
    notes.push_back(path +
                    ": says no bos_token_id and eos_token_id; --config-from names a folder whose config.json does");
    return;
  }
  const bool is_old = vocabulary == 32'000;
  hf["bos_token_id"] = is_old ? 1 : 128'000;
  hf["eos_token_id"] = is_old ? 2 : 128'001;
  notes.push_back(
      fmt::format("{}: bos_token_id {} and eos_token_id {} are taken by the size of the vocabulary; "
                  "--config-from names a folder whose config.json says them",
                  path, hf.at("bos_token_id").get<int>(), hf.at("eos_token_id").get<int>()));
}

DType main_dtype(const Directory& directory, DType otherwise, const std::vector<std::string>& ignore) {
  std::map<DType, Index> bytes;
  for (const Directory::Entry& entry : directory.entries) {
    const bool is_ignored = std::any_of(ignore.begin(), ignore.end(),
                                        [&](const std::string& glob) { return matches_glob(glob, entry.entry.name); });
    if (!is_ignored && is_castable(entry.entry.dtype)) bytes[entry.entry.dtype] += entry.entry.length;
  }
  DType most = otherwise;
  for (const auto& [dtype, total] : bytes) {
    if (total > bytes[most]) most = dtype;
  }
  return most;
}

Status refuse_model(const SourceOptions& options) {
  if (options.model.empty()) return {};
  return usage_error("--model " + options.model + ": this format's configs say which model it is; leave it out");
}

Status refuse_version(std::string_view format, const TargetOptions& options) {
  if (options.format_version.empty()) return {};
  return usage_error(fmt::format("--format-version {}: format {} has no versions", options.format_version, format));
}

Status refuse_params_style(std::string_view format, const TargetOptions& options) {
  if (options.params_style.empty()) return {};
  return usage_error(fmt::format("--params-style {}: format {} has no params.json", options.params_style, format));
}

layout::Scope with_defaults(layout::Scope defaults, const layout::Scope& options) {
  for (const auto& [name, value] : options.numbers) defaults.numbers[name] = value;
  for (const auto& [name, set] : options.sets) defaults.sets[name] = set;
  return defaults;
}

TargetFile make_file(std::string path) {
  TargetFile file;
  file.spec.root = std::filesystem::path(path).stem().string();
  file.path = std::move(path);
  return file;
}

void add_array(const layout::Layout& layout, std::uint32_t array, TargetFile& file) {
  const layout::Array& here = layout.arrays()[array];
  file.arrays.push_back(array);
  file.spec.items.push_back({layout.entry(here), here.dtype, layout.shape(here)});
}

std::vector<TargetFile> group_by_file(const layout::Layout& layout) {
  std::vector<TargetFile> files;
  std::unordered_map<std::string, std::size_t> by_path;
  for (std::uint32_t array = 0; array < layout.arrays().size(); ++array) {
    const std::string path = layout.file(layout.arrays()[array]);
    const auto [found, fresh] = by_path.emplace(path, files.size());
    if (fresh) files.push_back(make_file(path));
    add_array(layout, array, files[found->second]);
  }
  return files;
}

}  // namespace reshard::format
