// SPDX-License-Identifier: Apache-2.0
#include "nanotron.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <set>

#include "differences.h"
#include "directory.h"
#include "nanotron_config.h"
#include "nanotron_files.h"
#include "probing.h"
#include "reshard/base/text.h"
#include "reshard/io/json.h"
#include "side_files.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

constexpr std::array<std::string_view, 4> kVersions = {"1.2", "1.3", "1.4", "1.5"};
constexpr std::string_view kDefaultVersion = "1.4";
constexpr const char* kConfig = "model_config.json";

bool is_checkpoint(const std::string& folder) { return exists(folder + "/model") && exists(folder + "/" + kConfig); }

// Numbered folders of a run.
std::vector<Index> find_steps(const std::string& run) {
  std::vector<Index> steps;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run, ignored)) {
    const std::string name = entry.path().filename().string();
    Index step = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
    if (error == std::errc() && end == name.data() + name.size() && entry.is_directory(ignored)) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string list_steps(const std::string& run) {
  const std::vector<Index> steps = find_steps(run);
  return steps.empty() ? "none" : fmt::format("{}", fmt::join(steps, ", "));
}

bool is_run(const std::string& folder) {
  if (exists(folder + "/latest.txt")) return true;
  const std::vector<Index> steps = find_steps(folder);
  return std::any_of(steps.begin(), steps.end(),
                     [&](Index step) { return is_checkpoint(folder + "/" + std::to_string(step)); });
}

// The checkpoint's folder: `path`, or a step of the run that it holds.
Expected<std::string> find_checkpoint(const std::string& path, const SourceOptions& options) {
  if (is_checkpoint(path)) {
    if (options.step >= 0)
      return usage_error(fmt::format("--step {}: {} is a checkpoint, not a run", options.step, path));
    return path;
  }
  std::string step = std::to_string(options.step);
  if (options.step < 0) {
    if (!is_run(path)) return path;  // probing says what is missing
    if (!exists(path + "/latest.txt")) {
      return input_error(fmt::format("{}: has no latest.txt; give the folder of a step, or --step: there is {}", path,
                                     list_steps(path)));
    }
    RESHARD_TRY(step, read_side_file(path, "latest.txt", options.follow));
    while (!step.empty() && (step.back() == '\n' || step.back() == ' ')) step.pop_back();
    if (step.empty() || step.size() > 18 || step.find_first_not_of("0123456789") != std::string::npos) {
      return input_error(path + "/latest.txt: " + io::in_quotes(step) + " is not the number of a step");
    }
  }
  if (!exists(path + "/" + step)) {
    return input_error(fmt::format("{}: there is no step {}; there is {}", path, step, list_steps(path)));
  }
  return path + "/" + step;
}

Status find_config(const std::vector<std::string>& files, const SourceOptions& options, SideFiles& found) {
  if (!options.config_from.empty()) {
    found.keep_own(found.root, kConfig, options.follow);
    return found.read_config_from(options, "nanotron", {kConfig});
  }
  if (!std::binary_search(files.begin(), files.end(), kConfig)) {
    return input_error(found.root + ": has no model_config.json; name a folder that has one with --config-from");
  }
  return found.read("config", found.root, kConfig, options.follow);
}

Expected<SideFiles> find_files(const std::string& path, const SourceOptions& options) {
  SideFiles found;
  RESHARD_CHECK(refuse_model(options));
  RESHARD_TRY(found.root, find_checkpoint(path, options));
  RESHARD_TRY(const std::vector<std::string> files, io::list_files(found.root));
  RESHARD_CHECK(find_config(files, options, found));
  std::set<std::string> other_states;
  for (const std::string& file : files) {
    for (const char* folder : {"optimizer/", "lr_scheduler/", "random/"}) {
      if (file.starts_with(folder)) other_states.insert(folder);
    }
    if (!file.starts_with("model/")) continue;
    const auto name = NanotronFile::parse(file);
    if (!name)
      return input_error(path_of(found.root, file) + ": not the name of a weight file, which all of model/ are");
    if (name->by_expert) {
      return input_error(path_of(found.root, file) +
                         ": split by experts, which only an experimental branch writes and this format does not read");
    }
    found.weights.push_back(file);
  }
  if (found.weights.empty()) return input_error(found.root + "/model: holds no weight files");
  if (!other_states.empty()) {
    found.conversion_notes.push_back(found.root + ": not converted: " +
                                     join(std::vector<std::string>(other_states.begin(), other_states.end()), ", "));
  }
  RESHARD_CHECK(collect_carried(found.root, files, options, found.carried));
  return found;
}

// The model_config.json that --config-from replaces.
Expected<model::Spec> read_own(const SideFiles& found, const model::Library& library) {
  const auto text = found.texts.find(kOwn);
  if (text == found.texts.end()) return input_error("there is none");
  const std::string& path = found.paths.at(kOwn);
  RESHARD_TRY(const nlohmann::json config, io::parse_strict_json(text->second, path));
  if (!config.is_object()) return input_error(path + ": expected a JSON object");
  std::vector<std::string> untold;
  RESHARD_TRY(const NanotronModel model, read_model_config(config, path, untold));
  return model::parse_hf_config(model.hf, library, path);
}

// The one topology that all sharded files tell.
Expected<layout::Mesh> find_mesh(const SideFiles& found) {
  std::optional<NanotronFile::Place> first;
  std::string first_file;
  for (const std::string& file : found.weights) {
    const auto name = NanotronFile::parse(file);
    if (!name->place) continue;
    if (!first) {
      first = name->place;
      first_file = file;
    } else if (first->tp_size != name->place->tp_size || first->pp_size != name->place->pp_size) {
      return input_error(fmt::format("{}: mixes two topologies, {} and {}", found.root, first_file, file));
    }
  }
  if (!first) return input_error(found.root + "/model: no file name tells the topology (_pp-rank-..._tp-rank-...)");
  layout::Mesh mesh;
  mesh.tp = first->tp_size;
  mesh.pp = first->pp_size;
  RESHARD_CHECK(check_mesh({mesh.tp, 1, 1, 1}, found.root, found.weights.size()));  // a stage may have no file
  return mesh;
}

// The stored vocabulary is padded to a multiple; only the user knows of how much.
Status settle_vocabulary(const SourceOptions& options, const std::string& path, Probe& probe) {
  const Index stored = probe.spec.integer("vocab_size");
  if (stored % probe.mesh.tp != 0) {
    return input_error(fmt::format("{}: vocab_size {} is no multiple of the {} tensor-parallel ranks in the file names",
                                   path, stored, probe.mesh.tp));
  }
  if (options.vocab_size > stored) {
    return usage_error(
        fmt::format("--vocab-size {}: {} says that {} rows are stored", options.vocab_size, path, stored));
  }
  if (options.vocab_size > 0) {
    probe.spec.fields["vocab_size"] = options.vocab_size;
    probe.options.numbers["vocab_multiple"] = std::max<Index>(1, stored / probe.mesh.tp);
  } else {
    probe.spec.facts["vocab_padded"] = true;
    probe.notes.push_back(
        fmt::format("the vocabulary is taken as the {} rows that are stored; where these include padding, give the "
                    "true number with --vocab-size",
                    stored));
  }
  return {};
}

// Version of the target files. Errors (usage).
Expected<std::string> target_version(const TargetOptions& options) {
  if (options.format_version.empty()) return std::string(kDefaultVersion);
  if (options.format_version == "1.4" || options.format_version == "1.5") return options.format_version;
  return usage_error("--format-version " + options.format_version + ": format nanotron is written as 1.4 or 1.5");
}

// Rows of the vocabulary with padding, as the table and the placement have them; also of a part without embedding.
Index stored_rows(const layout::Layout& layout, const TargetOptions& options) {
  return round_up(layout.canon().scope().numbers.find("vocab")->second, options.vocab_multiple * layout.mesh().tp);
}

}  // namespace

double NanotronFormat::detect(const std::string& path) const {
  if (is_checkpoint(path) || exists(path + "/latest.txt")) return 1;
  return exists(path + "/model/model") || exists(path + "/" + kConfig) || is_run(path) ? 0.9 : 0;
}

Expected<Probe> NanotronFormat::probe(const std::string& path, const SourceOptions& options,
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
  RESHARD_TRY(const nlohmann::json config, io::parse_strict_json(found.texts["config"], config_path));
  if (!config.is_object()) return input_error(config_path + ": expected a JSON object");
  RESHARD_TRY(const NanotronModel model, read_model_config(config, config_path, probe.config_notes));
  RESHARD_TRY(probe.spec, model::parse_hf_config(model.hf, library, config_path));
  note_replaced(found, read_own(found, library), {}, probe);
  RESHARD_TRY(probe.mesh, find_mesh(found));
  probe.options.numbers["rope_interleaved"] = model.rope_interleaved ? 1 : 0;
  RESHARD_CHECK(settle_vocabulary(options, config_path, probe));
  RESHARD_TRY(probe.directory, read_directory(found.root, found.weights, "safetensors", options.follow, comm));
  probe.spec.dtype = main_dtype(probe.directory, probe.spec.dtype);
  probe.carried = std::move(found.carried);
  return probe;
}

std::string NanotronFormat::file_key(const std::string& path) const {
  const auto file = NanotronFile::parse(path);
  return file ? file->key() : path;
}

// All entries are called "data".
std::string NanotronFormat::array_name(const std::string& file, const std::string& entry) const {
  const auto name = NanotronFile::parse(file);
  return name ? name->parameter() : entry;
}

Status NanotronFormat::check(const Probe& probe, const layout::Layout& layout,
                             const std::vector<std::uint32_t>& locations) const {
  const Directory& directory = probe.directory;
  Differences differences;
  std::string first_version, first_file;
  for (std::uint32_t a = 0; a < locations.size(); ++a) {
    const layout::Cut& cut = layout.cut(layout.arrays()[a]);
    const std::uint32_t file = directory.entries[locations[a]].file;
    if (!NanotronFile::parse(directory.files[file])->place) continue;
    const auto& metadata = directory.metadata[file];
    const std::string& path = directory.files[file];
    const auto version = metadata.find("version");
    if (metadata.count("concat_dim") != 0 || version == metadata.end()) {
      differences.add(path + ": written by a Nanotron before 1.2, whose shards this format does not read");
      continue;
    }
    if (std::find(kVersions.begin(), kVersions.end(), version->second) == kVersions.end()) {
      differences.add(path + ": version " + io::in_quotes(version->second) + ", expected " +
                      fmt::format("{}", fmt::join(kVersions, ", ")));
    } else if (first_version.empty()) {
      first_version = version->second;
      first_file = path;
    } else if (version->second != first_version) {
      differences.add(
          fmt::format("{}: version {}, but {} has version {}", path, version->second, first_file, first_version));
    }
    if (const Status status = check_metadata(metadata, cut); !status)
      differences.add(path + ": " + status.error().message);
  }
  return differences.status(directory.root);
}

Expected<TargetChoice> NanotronFormat::choose(const model::Spec&, const TargetOptions& options,
                                              std::vector<std::string>&) const {
  RESHARD_CHECK(target_version(options));
  RESHARD_CHECK(refuse_params_style(name(), options));
  return TargetChoice{options.mesh, {}};
}

Expected<std::vector<TargetFile>> NanotronFormat::files(const layout::Layout& layout,
                                                        const TargetOptions& options) const {
  RESHARD_TRY(const std::string version, target_version(options));
  std::vector<TargetFile> files = group_by_file(layout);
  for (TargetFile& file : files) {
    if (NanotronFile::parse(file.path)->place) {
      file.spec.metadata = sharded_metadata(layout.cut(layout.arrays()[file.arrays.front()]), version);
    } else {
      file.spec.write_empty_metadata = true;
    }
  }
  return files;
}

Expected<std::vector<Sidecar>> NanotronFormat::sidecars(const SidecarInput& input,
                                                        std::vector<std::string>& notes) const {
  RESHARD_TRY(const std::string version, target_version(input.options));
  const NanotronSideFiles texts{input.spec, input.options, version, stored_rows(input.layout, input.options),
                                has_tokenizer(input.carried)};
  std::vector<Sidecar> sidecars = {{kConfig, "", texts.model_config_text(notes)},
                                   {"checkpoint_metadata.json", "", texts.checkpoint_metadata()},
                                   {"config.yaml", "", texts.config_yaml()}};
  sidecars.insert(sidecars.end(), input.carried.begin(), input.carried.end());
  return sidecars;
}

}  // namespace reshard::format
