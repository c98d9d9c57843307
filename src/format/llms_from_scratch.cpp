// SPDX-License-Identifier: Apache-2.0
#include "llms_from_scratch.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include "directory.h"
#include "llms_from_scratch_config.h"
#include "probing.h"
#include "reshard/base/text.h"
#include "reshard/io/json.h"
#include "side_files.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

constexpr const char* kFile = "model.pth";
constexpr const char* kStem = "model";
constexpr const char* kConfig = "config.json";
constexpr std::string_view kZip = "PK\x03\x04";
// Fields of a model that its dictionary says.
const std::vector<std::string> kSaid = {
    "vocab_size",          "hidden_size",  "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "num_experts*", "rope_theta",        "rope_scaling.*",    "moe_intermediate_size"};
constexpr double kLlama2Theta = 10000;  // built into its class

// Around the names: what training code saves beside the optimizer, torch.compile, data-parallel wrappers.
constexpr std::array<std::string_view, 3> kPrefixes = {"model_state_dict.", "_orig_mod.", "module."};
constexpr std::string_view kOptimizer = "optimizer_state_dict.";

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// Torch files of a folder that are none of Meta's.
std::vector<std::string> torch_files(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".pth") && !name.starts_with("consolidated")) files.push_back(name);
  }
  std::sort(files.begin(), files.end());
  return files;
}

Status find_config(const SourceOptions& options, const std::string& stem, SideFiles& found) {
  const std::string beside = stem + ".json";
  if (!options.config_from.empty()) {
    for (const std::string& name : {beside, std::string(kConfig)}) {
      if (found.texts.count(kOwn) == 0) found.keep_own(found.root, name, options.follow);
    }
    return found.read_config_from(options, "llms_from_scratch", {beside, kConfig});
  }
  for (const std::string& name : {beside, std::string(kConfig)}) {
    if (exists(path_of(found.root, name))) return found.read("config", found.root, name, options.follow);
  }
  return input_error(
      fmt::format("{}: has no {}, and shapes do not tell how many heads there are: put the config of the model's class "
                  "there as JSON, "
                  "or name a config.json or its folder by --config-from",
                  found.root, beside));
}

Expected<SideFiles> find_files(const std::string& path, const SourceOptions& options) {
  SideFiles found;
  if (options.step >= 0) return usage_error(fmt::format("--step {}: this format has no runs with steps", options.step));
  RESHARD_CHECK(refuse_model(options));
  if (is_folder(path)) {
    found.root = path;
    const std::vector<std::string> files = torch_files(path);
    if (files.size() != 1) {
      return input_error(fmt::format("{}: {}; give the path of the file", path,
                                     files.empty() ? "holds no .pth file" : "holds several, " + join(files, ", ")));
    }
    found.weights = files;
  } else {
    const fs::path file(path);
    found.root = file.has_parent_path() ? file.parent_path().string() : ".";
    found.weights = {file.filename().string()};
  }
  RESHARD_CHECK(find_config(options, fs::path(found.weights.front()).stem().string(), found));
  // Only a folder of its own says that what lies in it belongs to this model.
  std::vector<std::string> files;
  if (torch_files(found.root).size() == 1) {
    RESHARD_TRY(files, io::list_files(found.root));
  }
  RESHARD_CHECK(collect_carried(found.root, files, options, found.carried));
  return found;
}

// The spec that a config.json or the dictionary of the model's class gives; the latter says nothing about ties.
Expected<model::Spec> read_spec(const SideFiles& found, const std::string& role, const Directory& directory,
                                const model::Library& library, std::vector<std::string>& notes, bool& ties_unknown) {
  const std::string& path = found.paths.at(role);
  RESHARD_TRY(nlohmann::json config, io::parse_strict_json(found.texts.at(role), path));
  if (!config.contains("model_type")) {
    RESHARD_TRY(config, read_book_config(config, directory, path, notes));
    ties_unknown = true;
  }
  return model::parse_hf_config(config, library, path);
}

// True if there were optimizer states.
bool rename_entries(Directory& directory) {
  bool has_optimizer = false;
  for (Directory::Entry& entry : directory.entries) {
    std::string& name = entry.entry.name;
    for (const std::string_view prefix : kPrefixes) {
      if (name.starts_with(prefix)) name.erase(0, prefix.size());
    }
    has_optimizer = has_optimizer || name.starts_with(kOptimizer);
  }
  return has_optimizer;
}

// Classes that a model of the family can be written for; the first one is the default.
std::vector<std::string> classes_of(const std::string& family) {
  if (family == "gpt2") return {"gpt2", "gpt2-fast"};
  if (family == "llama") return {"llama3", "llama2"};
  return {"qwen3"};
}

Expected<std::string> target_class(const model::Spec& spec, const TargetOptions& options) {
  const std::vector<std::string> classes = classes_of(spec.family);
  if (options.format_version.empty()) return classes.front();
  if (std::find(classes.begin(), classes.end(), options.format_version) != classes.end()) return options.format_version;
  return usage_error(fmt::format(
      "--format-version {}: for a model of the family {}, llms_from_scratch has {}; a class of another family "
      "is another architecture, and no conversion makes weights fit it",
      options.format_version, spec.family, join(classes, " and ")));
}

// What the class of the Llama 2 notebook has built in.
Status check_llama2(const model::Spec& spec) {
  const auto refuse = [](const std::string& what) {
    return usage_error("--format-version llama2: the class of the Llama 2 notebook " + what +
                       "; leave the option out, which writes for Llama3Model");
  };
  if (spec.integer("num_key_value_heads") != spec.integer("num_attention_heads")) {
    return refuse(fmt::format("has as many kv heads as heads, but num_key_value_heads is {} of {}",
                              spec.integer("num_key_value_heads"), spec.integer("num_attention_heads")));
  }
  const nlohmann::ordered_json rope = spec.fields.value("rope", nlohmann::ordered_json::object());
  if (rope.value("theta", kLlama2Theta) != kLlama2Theta || rope.value("type", "default") != "default") {
    return refuse("has a rope_theta of 10000 and no rope_scaling, but this model has " + rope.dump());
  }
  return {};
}

}  // namespace

double LlmsFromScratchFormat::detect(const std::string& path) const {
  if (!is_folder(path)) {
    const fs::path file(path);
    if (file.filename().string().starts_with("consolidated")) return 0;
    const bool has_config = exists(fs::path(path).replace_extension(".json").string());
    if (!path.ends_with(".pth") && !(path.ends_with(".pt") && has_config)) return 0;
    return first_bytes(path, static_cast<Index>(kZip.size())) == kZip ? 0.9 : 0.6;
  }
  const std::vector<std::string> files = torch_files(path);
  if (files.empty()) return 0;
  return files.size() == 1 && exists(path + "/" + fs::path(files.front()).stem().string() + ".json") ? 1 : 0.6;
}

Expected<Probe> LlmsFromScratchFormat::probe(const std::string& path, const SourceOptions& options,
                                             const model::Library& library, comm::Comm& comm) const {
  RESHARD_TRY(const std::string packed, from_root(comm, [&]() -> Expected<std::string> {
                RESHARD_TRY(const SideFiles found, find_files(path, options));
                return found.pack();
              }));
  SideFiles found = SideFiles::unpack(packed);
  const std::string& config_path = found.paths["config"];
  Probe probe;
  probe.config_path = config_path;
  found.tell(probe);
  RESHARD_TRY(probe.directory, read_directory(found.root, found.weights, "torch", options.follow, comm));
  if (rename_entries(probe.directory)) {
    probe.conversion_notes.push_back(path_of(found.root, found.weights.front()) +
                                     ": not converted: optimizer_state_dict");
  }
  RESHARD_TRY(probe.spec, read_spec(found, "config", probe.directory, library, probe.config_notes, probe.ties_unknown));
  if (found.texts.count(kOwn) != 0) {
    std::vector<std::string> untold;
    bool unused = false;
    note_replaced(found, read_spec(found, kOwn, probe.directory, library, untold, unused), kSaid, probe);
  }
  RESHARD_CHECK(check_vocabulary(options, probe.spec.integer("vocab_size"), config_path));
  RESHARD_TRY(const layout::Table table, library.table(probe.spec.family, std::string(name())));
  probe.spec.dtype = main_dtype(probe.directory, probe.spec.dtype, table.ignore);
  probe.carried = std::move(found.carried);
  return probe;
}

Expected<TargetChoice> LlmsFromScratchFormat::choose(const model::Spec& spec, const TargetOptions& options,
                                                     std::vector<std::string>&) const {
  if (options.final_path.ends_with(".pth") || options.final_path.ends_with(".pt")) {
    return usage_error(
        fmt::format("{}: llms_from_scratch is written as a folder, with {} and {}.json in it: name a folder",
                    options.final_path, kFile, kStem));
  }
  RESHARD_CHECK(refuse_params_style(name(), options));
  RESHARD_TRY(const std::string chosen, target_class(spec, options));
  if (chosen == "llama2") RESHARD_CHECK(check_llama2(spec));
  if (const auto dense = spec.fields.find("mlp_only_layers"); dense != spec.fields.end() && !dense->empty()) {
    return usage_error(
        "format llms_from_scratch: in the book's Qwen3Model all layers have experts, but mlp_only_layers is " +
        dense->dump());
  }
  TargetChoice choice{options.mesh, {}};
  choice.options.numbers["llama2"] = chosen == "llama2" ? 1 : 0;
  choice.options.numbers["fast"] = chosen == "gpt2-fast" ? 1 : 0;
  choice.options.numbers["head_copied"] = spec.family == "gpt2" ? 1 : 0;  // two parameters, which start out equal
  return choice;
}

Expected<std::vector<TargetFile>> LlmsFromScratchFormat::files(const layout::Layout& layout,
                                                               const TargetOptions&) const {
  TargetFile file = make_file(kFile);
  for (std::uint32_t array = 0; array < layout.arrays().size(); ++array) add_array(layout, array, file);
  return std::vector<TargetFile>{std::move(file)};
}

Expected<std::vector<Sidecar>> LlmsFromScratchFormat::sidecars(const SidecarInput& input,
                                                               std::vector<std::string>& notes) const {
  std::vector<Sidecar> sidecars = {{std::string(kStem) + ".json", "", write_book_config(input.spec, notes)}};
  sidecars.insert(sidecars.end(), input.carried.begin(), input.carried.end());
  return sidecars;
}

}  // namespace reshard::format
