// SPDX-License-Identifier: Apache-2.0
#include "fairseq2.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <set>

#include "directory.h"
#include "fairseq2_config.h"
#include "probing.h"
#include "reshard/base/text.h"
#include "reshard/io/json.h"
#include "reshard/model/spec.h"
#include "side_files.h"
#include "yaml_text.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

constexpr const char* kCard = "model.yaml";
constexpr const char* kConfig = "config.json";
constexpr const char* kEmbedding = "decoder_frontend.embed.weight";
constexpr std::string_view kLayers = "decoder.layers.";
constexpr const char* kQuery = "decoder.layers.0.self_attn.q_proj.weight";
constexpr const char* kOutput = "decoder.layers.0.self_attn.output_proj.weight";
constexpr Index kMostNumber = 1'000'000'000'000;  // in a name
constexpr const char* kCarbonCopy = "cc";
constexpr int kCardLevels = 5;  // from a file of a rank up to the folder of all steps

// The number between `before` and `behind`, if that is all of `text`.
std::optional<Index> number_in(std::string_view text, std::string_view before, std::string_view behind) {
  if (text.size() <= before.size() + behind.size() || !text.starts_with(before) || !text.ends_with(behind)) return {};
  text = text.substr(before.size(), text.size() - before.size() - behind.size());
  Index number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0 || number > kMostNumber) return {};
  return number;
}

bool has_weights(const std::string& folder) {
  for (const char* file : {"/pp_00", "/model/pp_00", "/model.pt", "/model.0.pt", "/model.1.pt"}) {
    if (exists(folder + file)) return true;
  }
  return false;
}

// Steps of a run that were saved whole: a folder is called step_N.tmp until it is.
std::map<Index, std::string> list_steps(const std::string& folder) {
  std::map<Index, std::string> steps;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (const auto step = number_in(entry.path().filename().string(), "step_", "")) {
      if (has_weights(entry.path().string())) steps[*step] = entry.path().filename().string();
    }
  }
  return steps;
}

// A file of a data-parallel rank as releases until 0.4 saved it, in the folder or one of its steps; empty: none.
std::string find_sharded_objects(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string path = entry.path().string(), name = entry.path().filename().string();
    if (number_in(name, "rank_", ".pt") || number_in(name, "rank_", ".0.pt")) return path;
    if (number_in(name, "step_", "") && exists(path + "/rank_0.pt")) return path + "/rank_0.pt";
  }
  return "";
}

// Folder of all steps: `path`, or the one that a run keeps them in.
std::string steps_folder(const std::string& path) {
  const std::string below = path + "/checkpoints";
  return list_steps(path).empty() && exists(below) ? below : path;
}

struct Place {
  std::string root;
  std::string below;  // folder of the step, relative to root, with a slash; empty: root itself
  std::string only;   // the one file that was named
  std::optional<Index> step;
};

// Files of the checkpoint that the one at `file` is a part of, itself among them.
Expected<std::size_t> count_parts(const fs::path& file) {
  const bool is_old = number_in(file.filename().string(), "model.", ".pt").has_value();
  if (!is_old && !number_in(file.filename().string(), "sdp_", ".pt")) return std::size_t{1};
  const fs::path folder = is_old ? file.parent_path() : file.parent_path().parent_path();  // pp_00/tp_00/sdp_00.pt
  RESHARD_TRY(const std::vector<std::string> files, io::list_files(folder.string(), 2));
  return static_cast<std::size_t>(std::count_if(files.begin(), files.end(), [&](const std::string& one) {
    return number_in(fs::path(one).filename().string(), is_old ? "model." : "sdp_", ".pt").has_value();
  }));
}

Expected<Place> find_checkpoint(const std::string& path, const SourceOptions& options) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    const fs::path file(path);
    if (options.step >= 0) return usage_error(fmt::format("--step {}: {} is a file, not a run", options.step, path));
    RESHARD_TRY(const std::size_t parts, count_parts(fs::absolute(file, ignored)));
    if (parts > 1) {
      return input_error(
          fmt::format("{}: is one of {} files of a checkpoint; give the path of their folder", path, parts));
    }
    return Place{file.has_parent_path() ? file.parent_path().string() : ".", "", file.filename().string(), {}};
  }
  if (has_weights(path)) {
    if (options.step >= 0) {
      return usage_error(fmt::format("--step {}: {} is a checkpoint, not a run", options.step, path));
    }
    const fs::path folder = fs::absolute(path, ignored).lexically_normal();
    auto step = number_in(folder.filename().string(), "step_", "");
    if (!step) step = number_in(folder.parent_path().filename().string(), "step_", "");
    return Place{path, "", "", step};
  }
  const std::string folder = steps_folder(path);
  const std::map<Index, std::string> steps = list_steps(folder);
  if (steps.empty()) {
    if (const std::string file = find_sharded_objects(folder); !file.empty()) {
      return input_error(file +
                         ": data-parallel shards of fairseq2 0.3 and 0.4 are objects that only torch.distributed " +
                         "can read; let it save the consolidated model (model.pt)");
    }
    return input_error(folder + ": holds neither a step_N with model weights nor pp_00 or model.pt");
  }
  const auto step = options.step < 0 ? std::prev(steps.end()) : steps.find(options.step);
  if (step != steps.end()) return Place{folder, step->second + "/", "", step->first};
  std::vector<std::string> there;
  for (const auto& [number, unused] : steps) there.push_back(std::to_string(number));
  return input_error(
      fmt::format("{}: there is no step {} with model weights; there is {}", folder, options.step, join(there, ", ")));
}

// Where the card lies: beside the weights, or above; empty: nowhere.
std::string folder_of_card(const std::string& root) {
  std::error_code ignored;
  fs::path folder = fs::absolute(root, ignored).lexically_normal();
  for (int level = 0; level < kCardLevels; ++level, folder = folder.parent_path()) {
    if (exists((folder / kCard).string())) return folder.string();
  }
  return "";
}

// Reads what describes the model: --config-from, or the card of the checkpoint, which lies beside its steps.
Status find_config(const SourceOptions& options, SideFiles& found) {
  const auto read = [&](const std::string& folder, const std::string& file, io::Follow follow) -> Status {
    RESHARD_TRY(found.texts["config"], read_side_file(folder, file, follow));
    found.paths["config"] = path_of(folder, file);
    return {};
  };
  if (!options.config_from.empty() && !options.model.empty()) {
    return usage_error("--model and --config-from both say what the model is: give one");
  }
  const std::string steps = folder_of_card(found.root);
  const bool has_card = !steps.empty();
  if (has_card) found.paths["steps"] = steps;
  const bool is_replaced = !options.config_from.empty() || !options.model.empty();
  if (has_card && is_replaced) found.keep_own(steps, kCard, options.follow);
  if (!options.model.empty()) return {};
  if (!options.config_from.empty()) {
    RESHARD_TRY(const auto place, place_of_config(options.config_from, "fairseq2", {kCard, kConfig}));
    return read(place.first, place.second, io::Follow::all);
  }
  if (has_card) return read(steps, kCard, options.follow);
  return input_error(found.root +
                     ": no model.yaml beside it or above; name the model by --model (`reshard list models`) " +
                     "or a folder with a model.yaml or config.json by --config-from");
}

// Other files of the model: 0.4 has a folder for them, and this program writes them there for any release.
Status find_carried(const SourceOptions& options, SideFiles& found) {
  const auto steps = found.paths.find("steps");
  const std::string folder = steps == found.paths.end() ? "" : path_of(steps->second, kCarbonCopy);
  std::vector<std::string> files;
  if (!folder.empty() && exists(folder)) {
    RESHARD_TRY(files, io::list_files(folder));
  }
  return collect_carried(folder, files, options, found.carried);
}

Expected<SideFiles> find_files(const std::string& path, const SourceOptions& options) {
  SideFiles found;
  RESHARD_TRY(const Place place, find_checkpoint(path, options));
  found.root = place.root;
  if (place.step) found.texts["step"] = std::to_string(*place.step);
  RESHARD_CHECK(find_config(options, found));
  RESHARD_CHECK(find_carried(options, found));
  if (!place.only.empty()) {
    found.weights = {place.only};
    return found;
  }
  const std::string folder = place.below.empty() ? found.root : path_of(found.root, place.below);
  RESHARD_TRY(const std::vector<std::string> files, io::list_files(folder));
  std::set<std::string> other_states;
  bool has_old = false, has_new = false;
  for (const std::string& file : files) {
    for (const char* other : {"optimizer/", "trainer/", "data_reader/"}) {
      if (file.starts_with(other)) other_states.insert(other);
    }
    if (number_in(file, "rank_", ".pt")) other_states.insert("rank_*.pt");
    if (!file.starts_with("model") && !file.starts_with("pp_")) continue;
    const auto cell = Fairseq2File::parse(file);
    if (!cell) continue;
    (cell->is_old ? has_old : has_new) = true;
    found.weights.push_back(place.below + file);
  }
  if (found.weights.empty()) return input_error(folder + ": holds no weight files");
  if (has_old && has_new) return input_error(folder + ": holds checkpoints of two releases, model*.pt and pp_00");
  if (!other_states.empty()) {
    found.conversion_notes.push_back(
        folder + ": not converted: " + join(std::vector<std::string>(other_states.begin(), other_states.end()), ", "));
  }
  return found;
}

// Names the file of a cell of the grid that those there belong to.
Error missing_file(const SideFiles& found, Index tp, Index sdp, const std::string& why) {
  const fs::path file(path_of(found.root, found.weights.front()));
  const bool is_old = Fairseq2File::parse(found.weights.front())->is_old;
  const fs::path path = is_old ? file.parent_path() / fmt::format("model.{}.pt", tp)
                               : file.parent_path().parent_path() / fmt::format("tp_{:02d}/sdp_{:02d}.pt", tp, sdp);
  return input_error(fmt::format("{} is missing: {}", path.string(), why));
}

// Every tensor-parallel rank has a file for every data-parallel one.
Status check_grid(const SideFiles& found, const layout::Mesh& mesh) {
  std::set<std::pair<Index, Index>> there;
  for (const std::string& path : found.weights) {
    const auto cell = Fairseq2File::parse(path);
    if (cell) there.emplace(cell->tp, cell->sdp);
  }
  if (there.empty()) return {};  // a file of another name, given by itself
  for (Index tp = 0; tp < mesh.tp; ++tp) {
    for (Index sdp = 0; sdp < mesh.dp; ++sdp) {
      if (there.contains({tp, sdp})) continue;
      return missing_file(found, tp, sdp, fmt::format("file names tell of a grid of {} by {}", mesh.tp, mesh.dp));
    }
  }
  return {};
}

Expected<layout::Mesh> find_mesh(const SideFiles& found) {
  layout::Mesh mesh;
  for (const std::string& file : found.weights) {
    const auto cell = Fairseq2File::parse(file);
    if (!cell) continue;
    mesh.tp = std::max(mesh.tp, cell->tp + 1);
    mesh.dp = std::max(mesh.dp, cell->sdp + 1);
  }
  RESHARD_CHECK(check_grid(found, mesh));
  return mesh;
}

// Ranks behind the last ones that are there, which no name tells: a part of output_proj is as wide as there are
// tensor-parallel ranks, and as long as there are data-parallel ones.
Status check_ranks(const SideFiles& found, const Probe& probe) {
  if (!Fairseq2File::parse(found.weights.front())) return {};  // a file of another name, given by itself
  const Directory& directory = probe.directory;
  const auto first = [&](const char* name) -> const Shape* {
    for (const Directory::Entry& entry : directory.entries) {
      const auto cell = Fairseq2File::parse(directory.files[entry.file]).value_or(Fairseq2File{});
      if (cell.tp == 0 && cell.sdp == 0 && entry.entry.name == name) return &entry.entry.shape;
    }
    return nullptr;
  };
  const Shape *query = first(kQuery), *output = first(kOutput);
  const Index dim = probe.spec.integer("hidden_size");
  const Index width =
      checked_mul(probe.spec.integer("num_attention_heads"), probe.spec.integer("head_dim")).value_or(0);
  // A config of another model is told by the shapes.
  const bool fits = query != nullptr && output != nullptr && query->size() == 2 && output->size() == 2 &&
                    (*query)[1] == dim && (*output)[0] > 0 && (*output)[0] <= dim && (*output)[1] > 0 &&
                    width % (*output)[1] == 0;
  if (!fits) return {};
  const auto parts_of = [](Index ranks, const char* kind) {
    return fmt::format("the files there hold parts of {} {}-parallel ranks", ranks, kind);
  };
  const Index tp = width / (*output)[1], dp = 1 + (dim - 1) / (*output)[0];
  if (tp > probe.mesh.tp) return missing_file(found, probe.mesh.tp, 0, parts_of(tp, "tensor"));
  if (dp > probe.mesh.dp) return missing_file(found, 0, probe.mesh.dp, parts_of(dp, "data"));
  return {};
}

// Until 0.4 the weights lie in a dictionary below a key that stands beside it; wrappers of the model leave their mark.
void rename_entries(Directory& directory) {
  for (Directory::Entry& entry : directory.entries) {
    const auto& metadata = directory.metadata[entry.file];
    const auto key = metadata.find("model_key");
    std::string prefix = "model.";
    if (key != metadata.end()) {
      const auto text = nlohmann::json::parse(key->second, nullptr, false);
      if (text.is_string()) prefix = text.get<std::string>() + ".";
    }
    for (const std::string& one : {prefix, std::string("module."), std::string("_orig_mod.")}) {
      if (entry.entry.name.starts_with(one)) entry.entry.name.erase(0, one.size());
    }
  }
}

Index count_layers(const Directory& directory) {
  Index layers = 0;
  for (const Directory::Entry& entry : directory.entries) {
    std::string_view name = entry.entry.name;
    if (!name.starts_with(kLayers)) continue;
    name.remove_prefix(kLayers.size());
    if (const auto layer = number_in(name.substr(0, name.find('.')), "", "")) layers = std::max(layers, *layer + 1);
  }
  return layers;
}

// How the embedding is cut, by its shape.
bool is_cut_by_columns(const Directory& directory, const model::Spec& spec, const layout::Mesh& mesh) {
  for (const Directory::Entry& entry : directory.entries) {
    if (entry.entry.name != kEmbedding || entry.entry.shape.size() != 2) continue;
    return mesh.tp > 1 && entry.entry.shape[1] != spec.integer("hidden_size");
  }
  return false;
}

Expected<Fairseq2Model> read_card(const std::string& text, const std::string& path, std::vector<std::string>& notes) {
  RESHARD_TRY(const nlohmann::ordered_json card, parse_yaml(text, path));
  return read_model_yaml(card, path, notes);
}

// Compares the card that --config-from or --model replaces.
void note_replaced_card(const SideFiles& found, const model::Library& library, Probe& probe) {
  const auto text = found.texts.find(kOwn);
  if (text == found.texts.end()) return;
  std::vector<std::string> said = {
      "vocab_size",          "hidden_size",         "intermediate_size",      "num_hidden_layers",
      "num_attention_heads", "num_key_value_heads", "max_position_embeddings"};
  const auto read = [&]() -> Expected<model::Spec> {
    const std::string& path = found.paths.at(kOwn);
    std::vector<std::string> untold;
    RESHARD_TRY(const Fairseq2Model model, read_card(text->second, path, untold));
    if (!model.ties_unknown) said.emplace_back("tie_word_embeddings");
    RESHARD_TRY(model::Spec spec, model::parse_hf_config(model.hf, library, path));
    if (spec.family != "mistral") said.insert(said.end(), {"rope_theta", "rope_scaling.*"});  // it has them built in
    return spec;
  };
  const Expected<model::Spec> own = read();
  note_replaced(found, own, said, probe);
}

// The spec that the card, or a config.json, or --model gives.
Expected<model::Spec> read_spec(const SideFiles& found, const SourceOptions& options, const model::Library& library,
                                Probe& probe) {
  if (found.texts.count("config") == 0) {
    const std::string name = std::isdigit(static_cast<unsigned char>(options.model.front())) != 0
                                 ? "llama-" + options.model  // Llama 1, by its size alone
                                 : options.model;
    if (!model::find_model(name)) {
      const auto meant = did_you_mean(name, model::model_names());
      return usage_error(fmt::format("--model {}: there is no such model; {}`reshard list models` names them",
                                     options.model, meant ? "did you mean " + *meant + "? " : ""));
    }
    probe.config_path = "--model " + options.model;
    return model::named_model(name, library);
  }
  const std::string& path = probe.config_path = found.paths.at("config");
  const std::string& text = found.texts.at("config");
  if (text.find_first_not_of(" \t\r\n") != std::string::npos && text[text.find_first_not_of(" \t\r\n")] == '{') {
    RESHARD_TRY(const nlohmann::json config, io::parse_strict_json(text, path));
    return model::parse_hf_config(config, library, path);
  }
  RESHARD_TRY(const Fairseq2Model model, read_card(text, path, probe.config_notes));
  if (model.num_shards > probe.mesh.tp && Fairseq2File::parse(found.weights.front())) {
    return missing_file(found, probe.mesh.tp, 0, fmt::format("{} says num_shards {}", path, model.num_shards));
  }
  if (model.num_shards > 0 && model.num_shards != probe.mesh.tp) {
    return input_error(fmt::format("{}: num_shards is {}, but {} holds files of {} tensor-parallel ranks", path,
                                   model.num_shards, found.root, probe.mesh.tp));
  }
  RESHARD_TRY(model::Spec spec, model::parse_hf_config(model.hf, library, path));
  probe.ties_unknown = model.ties_unknown && probe.mesh.tp == 1;  // it cuts no tied model
  if (model.ffn) keep_ffn_rule(*model.ffn, spec);
  if (model.shard_embed_dim) spec.facts["fairseq2"]["shard_embed_dim"] = *model.shard_embed_dim;
  return spec;
}

// Release of the target. Errors (usage).
Expected<Fairseq2Release> target_release(const TargetOptions& options) {
  if (options.format_version.empty() || options.format_version == "0.8") return Fairseq2Release::v08;
  if (options.format_version != "0.4") {
    return usage_error("--format-version " + options.format_version +
                       ": format fairseq2 is written as 0.4 or 0.8 (which 0.5 and later read)");
  }
  if (options.mesh.dp > 1) {
    return usage_error(
        "--dp: 0.4 of fairseq2 keeps data-parallel shards in objects that hold no plain tensors; leave it "
        "at 1, or write --format-version 0.8");
  }
  return Fairseq2Release::v04;
}

}  // namespace

std::optional<Fairseq2File> Fairseq2File::parse(std::string_view path) {
  std::vector<std::string> parts = split(path, '/');
  Fairseq2File file;
  if (parts.back() == "model.pt") {
    file.is_old = true;
    return file;
  }
  if (const auto tp = number_in(parts.back(), "model.", ".pt")) {
    file.is_old = true;
    file.tp = *tp;
    return file;
  }
  if (parts.size() < 3) return {};
  const auto sdp = number_in(parts.back(), "sdp_", ".pt"), tp = number_in(parts.end()[-2], "tp_", ""),
             pp = number_in(parts.end()[-3], "pp_", "");
  if (!sdp || !tp || !pp) return {};
  file.tp = *tp;
  file.sdp = *sdp;
  return file;
}

std::string Fairseq2File::key() const { return fmt::format("tp_{}/sdp_{}", tp, sdp); }

double Fairseq2Format::detect(const std::string& path) const {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    return Fairseq2File::parse(path) || number_in(fs::path(path).filename().string(), "sdp_", ".pt") ? 1 : 0;
  }
  if (exists(path + "/pp_00") || exists(path + "/model/pp_00") || !list_steps(steps_folder(path)).empty()) return 1;
  return has_weights(path) ? 0.9 : 0;
}

Expected<Probe> Fairseq2Format::probe(const std::string& path, const SourceOptions& options,
                                      const model::Library& library, comm::Comm& comm) const {
  RESHARD_TRY(const std::string packed, from_root(comm, [&]() -> Expected<std::string> {
                RESHARD_TRY(const SideFiles found, find_files(path, options));
                return found.pack();
              }));
  SideFiles found = SideFiles::unpack(packed);
  Probe probe;
  found.tell(probe);
  RESHARD_TRY(probe.mesh, find_mesh(found));
  RESHARD_TRY(probe.directory, read_directory(found.root, found.weights, "torch", options.follow, comm));
  rename_entries(probe.directory);
  RESHARD_TRY(probe.spec, read_spec(found, options, library, probe));
  RESHARD_CHECK(check_vocabulary(options, probe.spec.integer("vocab_size"), probe.config_path));
  note_replaced_card(found, library, probe);
  RESHARD_CHECK(check_ranks(found, probe));
  // Its own 13B configs say 32 of 40 layers: what is stored counts. Fewer than said is what reconciliation finds.
  const Index stated = probe.spec.integer("num_hidden_layers"), layers = count_layers(probe.directory);
  if (layers > stated) {
    probe.spec.fields["num_hidden_layers"] = layers;
    probe.notes.push_back(fmt::format("{}: says {} layers, the weights are of {}: taken as {}", probe.config_path,
                                      stated, layers, layers));
  }
  if (const auto step = found.texts.find("step"); step != found.texts.end()) {
    probe.options.numbers["step"] = std::stoll(step->second);
    probe.spec.facts["fairseq2"]["step"] = probe.options.numbers["step"];
  }
  probe.options.numbers["shard_embed_dim"] = is_cut_by_columns(probe.directory, probe.spec, probe.mesh) ? 1 : 0;
  probe.spec.dtype = main_dtype(probe.directory, probe.spec.dtype);
  probe.carried = std::move(found.carried);
  return probe;
}

std::string Fairseq2Format::file_key(const std::string& path) const {
  // A file of another name was given by itself.
  return Fairseq2File::parse(path).value_or(Fairseq2File{}).key();
}

Expected<TargetChoice> Fairseq2Format::choose(const model::Spec& spec, const TargetOptions& options,
                                              std::vector<std::string>&) const {
  RESHARD_CHECK(refuse_params_style(name(), options));
  RESHARD_TRY(const Fairseq2Release release, target_release(options));
  if (release == Fairseq2Release::v04 && spec.family.starts_with("qwen")) {
    return usage_error("--format-version 0.4: that release of fairseq2 has no Qwen; write --format-version 0.8");
  }
  TargetChoice choice{options.mesh, {}};
  choice.options.numbers["shard_embed_dim"] = cuts_embedding_by_columns(spec, release) ? 1 : 0;
  const nlohmann::ordered_json own = spec.facts.value("fairseq2", nlohmann::ordered_json::object());
  if (own.contains("step")) choice.options.numbers["step"] = own.at("step").get<Index>();
  return choice;
}

Expected<std::vector<TargetFile>> Fairseq2Format::files(const layout::Layout& layout,
                                                        const TargetOptions& options) const {
  RESHARD_TRY(const Fairseq2Release release, target_release(options));
  std::vector<TargetFile> files = group_by_file(layout);
  for (TargetFile& file : files) {
    file.spec.root = "archive";  // it saves to a stream
    if (release == Fairseq2Release::v08) continue;
    const Index tp = Fairseq2File::parse(file.path)->tp;
    const std::string step = file.path.substr(0, file.path.find('/'));
    file.path = layout.mesh().tp == 1 ? step + "/model.pt" : fmt::format("{}/model.{}.pt", step, tp);
    file.spec.under = "model";
    file.spec.metadata = {{"model_key", "\"model\""}, {"fs2", "true"}};
  }
  return files;
}

Expected<std::vector<Sidecar>> Fairseq2Format::sidecars(const SidecarInput& input,
                                                        std::vector<std::string>& notes) const {
  RESHARD_TRY(const Fairseq2Release release, target_release(input.options));
  const layout::Layout& layout = input.layout;
  const Fairseq2SideFiles texts{input.spec, release, layout.mesh().tp, cuts_embedding_by_columns(input.spec, release)};
  std::vector<Sidecar> sidecars = {{kCard, "", texts.model_yaml(notes)}};
  if (release == Fairseq2Release::v04 && input.spec.family == "llama") {
    sidecars.push_back({path_of(kCarbonCopy, kConfig), "", texts.cc_config()});
  }
  for (Sidecar sidecar : input.carried) {
    sidecar.path = path_of(kCarbonCopy, sidecar.path);
    sidecars.push_back(std::move(sidecar));
  }
  return sidecars;
}

}  // namespace reshard::format
