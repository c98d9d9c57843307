// SPDX-License-Identifier: Apache-2.0
#include "hf.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <unordered_map>

#include "differences.h"
#include "directory.h"
#include "hf_shards.h"
#include "probing.h"
#include "reshard/base/text.h"
#include "reshard/container/weight_map.h"
#include "reshard/io/json.h"
#include "reshard/layout/expression.h"
#include "side_files.h"
#include "tiktoken.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kConfig = "config.json";
constexpr Index kShardBytes = 5'000'000'000;  // as transformers has it

// `files` is sorted.
bool has(const std::vector<std::string>& files, std::string_view name) {
  return std::binary_search(files.begin(), files.end(), name);
}

// Does the table give files names of their own?
bool names_files(const layout::Table& table) {
  return std::any_of(table.rules.begin(), table.rules.end(), [](const auto& rule) { return !rule.file.empty(); });
}

// Files that a table with file patterns knows, and the mesh that their names tell.
struct NamedFiles {
  std::vector<std::string> weights;
  layout::Mesh mesh;
};

NamedFiles match_names(const layout::Table& table, const std::vector<std::string>& files) {
  std::set<std::string> patterns, weights;
  for (const layout::ArrayRule& rule : table.rules) patterns.insert(rule.file);
  NamedFiles named;
  const std::map<std::string, Index*> dims = {
      {"tp", &named.mesh.tp}, {"pp", &named.mesh.pp}, {"ep", &named.mesh.ep}, {"dp", &named.mesh.dp}};
  for (const std::string& pattern : patterns) {
    for (const std::string& file : files) {
      const auto numbers = layout::read_off(pattern, file);
      if (!numbers) continue;
      weights.insert(file);
      for (const auto& [name, number] : *numbers) {
        if (const auto dim = dims.find(name); dim != dims.end()) *dim->second = std::max(*dim->second, number + 1);
      }
    }
  }
  named.weights.assign(weights.begin(), weights.end());
  return named;
}

std::string list_some(const std::vector<std::string>& files) {
  std::vector<std::string> some(files.begin(), files.begin() + std::min<std::ptrdiff_t>(6, std::ssize(files)));
  return files.empty() ? "nothing" : join(some, ", ") + (files.size() > some.size() ? ", ..." : "");
}

// "00005" of "model-00002-of-00005.safetensors"; empty for names of another form.
std::string_view total_in_name(std::string_view file) {
  const std::size_t of = file.rfind("-of-");
  return of == std::string_view::npos ? "" : file.substr(of + 4, file.find('.', of) - of - 4);
}

// The files that the index names: all there, of one save, and no others of their kind beside them.
Status follow_index(const ShardNames& names, const std::string& index_path, const std::vector<std::string>& files,
                    SideFiles& found) {
  RESHARD_TRY(container::WeightMap index, container::parse_weight_map(found.texts["index"], index_path));
  std::sort(index.files.begin(), index.files.end());
  Differences differences;
  for (const std::string& file : index.files) {
    if (!has(files, file)) differences.add("names " + file + ", which is not there");
    if (total_in_name(file) != total_in_name(index.files.front())) {
      differences.add("mixes files of two saves, " + index.files.front() + " and " + file);
    }
  }
  for (const std::string& file : files) {
    if (names.is_shard(file) && !has(index.files, file)) {
      differences.add("does not name " + file + ", which may be left over from another save: remove it");
    }
  }
  RESHARD_CHECK(differences.status(index_path));
  found.weights = std::move(index.files);
  return {};
}

// Names the index that a shard lacks: one of `names`, or where no format was asked for, one of any.
Status refuse_orphans(const ShardNames& names, const std::string& root, const std::vector<std::string>& files,
                      const SourceOptions& options) {
  for (const ShardNames& kind : all_shard_names()) {
    if (&kind != &names && !options.from.empty()) continue;
    const auto shard = std::find_if(files.begin(), files.end(), [&](const auto& file) { return kind.is_shard(file); });
    if (shard == files.end()) continue;
    return input_error(fmt::format("{} has no index beside it: {} is missing", path_of(root, *shard), kind.index()));
  }
  return {};
}

// What is there in place of weight files of these names.
std::string describe_others(const ShardNames& names, const std::vector<std::string>& files,
                            const SourceOptions& options) {
  for (const std::string& file : files) {
    for (const ShardNames& other : all_shard_names()) {
      if (&other != &names && (file == other.single() || other.is_shard(file))) {
        return fmt::format("found {}, a file of another format: leave {} away", file, options.from_option);
      }
    }
  }
  const std::string found = "found " + list_some(files);
  if (!options.from.empty()) return found;
  return fmt::format("{}; {} names the format of one that is not recognised", found, options.from_option);
}

// Weights in two containers are one model, as a rule: says which ones are read.
void note_others(const ShardNames& names, const std::vector<std::string>& files, SideFiles& found) {
  for (const ShardNames& other : all_shard_names()) {
    if (&other == &names) continue;
    for (const std::string& file : {other.single(), other.index()}) {
      if (!has(files, file)) continue;
      found.notes.push_back(fmt::format("{}: not read, {} is", path_of(found.root, file), found.weights.front()));
      return;
    }
  }
}

Status find_weights(const ShardNames& names, const std::string& only, const SourceOptions& options,
                    const std::vector<std::string>& files, SideFiles& found) {
  if (!only.empty() && !only.ends_with(".index.json")) {
    found.weights = {only};
    return {};
  }
  const std::string single = names.single(), index = only.empty() ? names.index() : only;
  const bool has_single = only.empty() && has(files, single), has_index = has(files, index);
  if (has_single && has_index) {
    return input_error(
        fmt::format("{}: holds both {} and {}; give the path of the one to read", found.root, single, index));
  }
  if (has_single) {
    found.weights = {single};
  } else if (has_index) {
    RESHARD_CHECK(found.read("index", found.root, index, options.follow));
    RESHARD_CHECK(follow_index(names, path_of(found.root, index), files, found));
  } else {
    RESHARD_CHECK(refuse_orphans(names, found.root, files, options));
    return input_error(
        fmt::format("{}: expected {} or {}, {}", found.root, single, index, describe_others(names, files, options)));
  }
  if (only.empty()) note_others(names, files, found);
  return {};
}

Error no_plain_container(const std::string& format, const std::string& container) {
  return usage_error(
      fmt::format("format {}: a format that only a table describes is stored in safetensors or torch files, not {}",
                  format, container));
}

Expected<SideFiles> find_files(const std::string& format, const std::string& path, const SourceOptions& options,
                               const model::Library& library) {
  SideFiles found;
  std::error_code ignored;
  std::string only;
  found.root = path;
  if (!fs::is_directory(path, ignored)) {
    const fs::path file(path);
    only = file.filename().string();
    found.root = file.has_parent_path() ? file.parent_path().string() : ".";
  }
  RESHARD_TRY(const std::vector<std::string> files, io::list_files(found.root));

  if (!options.config_from.empty()) {
    RESHARD_CHECK(found.read_config_from(options, format, {std::string(kConfig)}));
    if (has(files, kConfig)) found.keep_own(found.root, std::string(kConfig), options.follow);
  } else if (has(files, kConfig)) {
    RESHARD_CHECK(found.read("config", found.root, std::string(kConfig), options.follow));
  } else {
    return input_error(found.root + ": has no config.json; name a folder that has one with --config-from");
  }

  RESHARD_TRY(const model::Spec spec, parse_config(found, options, library));
  RESHARD_TRY(const layout::Table table, library.table(spec.family, format));
  if (names_files(table)) {
    found.weights = match_names(table, files).weights;
    if (found.weights.empty()) {
      return input_error(
          fmt::format("{}: expected files named {}, found {}", found.root, table.rules.front().file, list_some(files)));
    }
  } else {
    const ShardNames* names = shard_names(table.container);
    if (names == nullptr) return no_plain_container(format, table.container);
    RESHARD_CHECK(find_weights(*names, only, options, files, found));
  }
  RESHARD_CHECK(collect_carried(found.root, files, options, found.carried));
  return found;
}

// The config.json that --config-from replaces.
Expected<model::Spec> read_own(const SideFiles& found, const model::Library& library) {
  const auto text = found.texts.find(kOwn);
  if (text == found.texts.end()) return input_error("there is none");
  RESHARD_TRY(const nlohmann::json config, io::parse_strict_json(text->second, found.paths.at(kOwn)));
  return model::parse_hf_config(config, library, found.paths.at(kOwn));
}

// Every tensor lies in the file that the index gives, and none besides.
Status check_index(const container::WeightMap& index, const std::string& index_path, Probe& probe) {
  std::unordered_map<std::string, std::string> listed;
  for (const auto& line : index.lines) listed.emplace(line.tensor, index.files[line.file]);
  Differences differences;
  Index total = 0;
  std::set<std::pair<std::uint32_t, Index>> counted;  // tied arrays share an extent
  for (const Directory::Entry& entry : probe.directory.entries) {
    const std::string& file = probe.directory.files[entry.file];
    if (counted.emplace(entry.file, entry.entry.offset).second) total += entry.entry.length;
    const auto line = listed.find(entry.entry.name);
    if (line == listed.end()) {
      differences.add(fmt::format("does not list tensor {}, which is in {}", entry.entry.name, file));
    } else if (line->second == file) {
      listed.erase(line);
    }
  }
  for (const auto& line : index.lines) {
    if (listed.count(line.tensor) == 0) continue;
    differences.add(fmt::format("lists tensor {} in {}, which does not hold it", line.tensor, index.files[line.file]));
  }
  RESHARD_CHECK(differences.status(index_path));
  if (index.total_size && *index.total_size != total) {
    probe.notes.push_back(
        fmt::format("{}: total_size is {}, the tensors have {} bytes", index_path, *index.total_size, total));
  }
  return {};
}

}  // namespace

bool PlainFormat::cuts_by_size(const layout::Table& table) const { return !names_files(table); }

double PlainFormat::detect(const std::string& path) const {
  const ShardNames* names = shard_names(detected_);
  if (names == nullptr) return 0;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    return path.ends_with(names->extension) || path.ends_with(fmt::format("{}.index.json", names->extension)) ? 1 : 0;
  }
  if (exists(path + "/model_config.json")) return 0;  // a Nanotron checkpoint with a copied config.json
  // Like transformers, takes the preferred ones where there are others, too.
  const bool is_preferred = names == &all_shard_names().front();
  if (exists(path_of(path, names->single())) || exists(path_of(path, names->index()))) return is_preferred ? 1 : 0.9;
  return is_preferred && exists(path_of(path, std::string(kConfig))) ? 0.6 : 0;
}

Expected<Probe> PlainFormat::probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                                   comm::Comm& comm) const {
  RESHARD_TRY(const std::string packed, from_root(comm, [&]() -> Expected<std::string> {
                RESHARD_TRY(const SideFiles found, find_files(name_, path, options, library));
                return found.pack();
              }));
  SideFiles found = SideFiles::unpack(packed);
  Probe probe;
  probe.config_path = found.paths["config"];
  RESHARD_TRY(probe.spec, parse_config(found, options, library));
  found.tell(probe);
  note_replaced(found, read_own(found, library), {}, probe);
  note_generic(probe.spec, probe.config_path, probe.notes);
  RESHARD_TRY(const layout::Table table, library.table(probe.spec.family, name_));
  if (names_files(table)) {
    probe.mesh = match_names(table, found.weights).mesh;
    RESHARD_CHECK(check_mesh(probe.mesh, found.root, found.weights.size()));
  }
  RESHARD_TRY(probe.directory, read_directory(found.root, found.weights, table.container, options.follow, comm));
  probe.spec.dtype = main_dtype(probe.directory, probe.spec.dtype);
  probe.carried = std::move(found.carried);
  if (found.texts.count("index") != 0) {
    const std::string& index_path = found.paths["index"];
    RESHARD_TRY(const auto index, container::parse_weight_map(found.texts["index"], index_path));
    RESHARD_CHECK(check_index(index, index_path, probe));
  }
  return probe;
}

Expected<TargetChoice> PlainFormat::choose(const model::Spec&, const TargetOptions& options,
                                           std::vector<std::string>&) const {
  RESHARD_CHECK(refuse_version(name_, options));
  RESHARD_CHECK(refuse_params_style(name_, options));
  return TargetChoice{options.mesh, {}};
}

Expected<std::vector<TargetFile>> PlainFormat::files(const layout::Layout& layout, const TargetOptions& options) const {
  const ShardNames* names = shard_names(layout.table().container);
  if (names == nullptr) return no_plain_container(name_, layout.table().container);
  std::vector<TargetFile> files;
  if (!cuts_by_size(layout.table())) {
    files = group_by_file(layout);
  } else {
    std::vector<Index> sizes;
    for (const layout::Array& array : layout.arrays()) {
      const Index bits = *num_elements(layout.shape(array)) * bits_of(array.dtype);
      sizes.push_back(bits / 8);
    }
    const auto shards = deal_to_shards(sizes, options.max_shard_size.value_or(kShardBytes));
    for (std::size_t s = 0; s < shards.size(); ++s) {
      files.push_back(make_file(names->shard(s, shards.size())));
      for (const std::size_t array : shards[s]) add_array(layout, static_cast<std::uint32_t>(array), files.back());
    }
  }
  if (layout.table().container == "safetensors") {
    for (TargetFile& file : files) file.spec.metadata = {{"format", "pt"}};
  }
  return files;
}

Expected<std::vector<Sidecar>> PlainFormat::sidecars(const SidecarInput& input, std::vector<std::string>& notes) const {
  std::vector<Sidecar> sidecars = {{std::string(kConfig), "", model::write_hf_config(input.spec, input.library)}};
  if (input.files.size() > 1 && cuts_by_size(input.layout.table())) {
    ShardIndex index;
    for (const TargetFile& file : input.files) {
      for (std::size_t i = 0; i < file.arrays.size(); ++i) {
        const container::FileSpec::Item& item = file.spec.items[i];
        index.weight_map[item.name] = file.path;
        if (file.arrays[i] == kExtra) continue;
        const Index elements = *num_elements(item.shape);
        index.total_parameters += elements;
        index.total_size += elements * bits_of(item.dtype) / 8;
      }
    }
    sidecars.push_back({shard_names(input.layout.table().container)->index(), "", index.to_text()});
  }
  sidecars.insert(sidecars.end(), input.carried.begin(), input.carried.end());
  RESHARD_CHECK(convert_tiktoken(input.spec, sidecars, notes));
  return sidecars;
}

}  // namespace reshard::format
