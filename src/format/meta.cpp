// SPDX-License-Identifier: Apache-2.0
#include "meta.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>

#include "directory.h"
#include "fairseq2_config.h"
#include "meta_params.h"
#include "probing.h"
#include "reshard/base/text.h"
#include "reshard/io/json.h"
#include "side_files.h"
#include "ties.h"
#include "tiktoken.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

constexpr const char* kParams = "params.json";
constexpr const char* kConfig = "config.json";
constexpr const char* kNumbered = "consolidated.[0-9][0-9].pth";
constexpr const char* kFirst = "consolidated.00.pth";
constexpr const char* kOnly = "consolidated.pth";  // so named in some repositories
constexpr const char* kEmbedding = "tok_embeddings.weight";
constexpr const char* kHead = "output.weight";
constexpr const char* kQuery = "layers.0.attention.wq.weight";
constexpr const char* kByRows = "meta_embedding_by_rows";  // fact of a spec
constexpr const char* kTokenizer = "tokenizer.model";

bool is_weight_file(const std::string& name) { return name == kOnly || matches_glob(kNumbered, name); }

// The folder of the checkpoint: `path`, or where the file `path` lies.
std::string folder_of(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return path;
  const fs::path file(path);
  return file.has_parent_path() ? file.parent_path().string() : ".";
}

std::string file_of_rank(std::size_t rank) { return fmt::format("consolidated.{:02d}.pth", rank); }

// The files of all ranks, in order.
Status find_weights(const std::string& path, const std::vector<std::string>& files, SideFiles& found) {
  for (const std::string& file : files) {
    if (is_weight_file(file)) found.weights.push_back(file);
    if (matches_glob("fp8_scales_*.pt", file)) {
      return input_error(path_of(found.root, file) + ": weights in fp8 with scales of their own are not read");
    }
  }
  if (found.weights.empty()) return input_error(found.root + ": expected " + kFirst + " and so on, found no such file");
  if (found.weights.back() == kOnly && found.weights.size() > 1) {
    return input_error(fmt::format("{}: holds both {} and {}: two checkpoints", found.root, kOnly, kFirst));
  }
  for (std::size_t rank = 0; rank < found.weights.size() && found.weights.back() != kOnly; ++rank) {
    const std::string expected = file_of_rank(rank);
    if (found.weights[rank] != expected) {
      return input_error(fmt::format("{}: {} is missing, but there is {}", found.root, expected, found.weights[rank]));
    }
  }
  if (path != found.root && found.weights.size() > 1) {
    return input_error(fmt::format("{}: is one of {} files of a checkpoint; give the path of their folder", path,
                                   found.weights.size()));
  }
  return {};
}

// params.json, or a config.json from elsewhere, which says more.
Status find_params(const std::vector<std::string>& files, const SourceOptions& options, SideFiles& found) {
  if (!options.config_from.empty()) {
    found.keep_own(found.root, kParams, options.follow);
    RESHARD_TRY(const auto place, place_of_config(options.config_from, "meta", {kParams, kConfig}));
    const auto& [folder, file] = place;
    return found.read(path_of(folder, file).ends_with(kParams) ? "params" : "config", folder, file, io::Follow::all);
  }
  if (!std::binary_search(files.begin(), files.end(), kParams)) {
    return input_error(fmt::format("{}: has no {}; name a folder that has one, or a config.json, with --config-from",
                                   found.root, kParams));
  }
  return found.read("params", found.root, kParams, options.follow);
}

// Llama 1 and 2 lie in folders beside one tokenizer for all of them.
Status find_tokenizer(const SourceOptions& options, SideFiles& found) {
  if (has_tokenizer(found.carried)) return {};
  const std::string parent = (fs::absolute(found.root).lexically_normal() / "..").lexically_normal().string();
  if (exists(path_of(parent, kTokenizer)) && exists(path_of(parent, "tokenizer_checklist.chk"))) {
    RESHARD_TRY(const auto opened, io::open_source(parent, kTokenizer, options.follow, {}));
    found.carried.push_back({kTokenizer, path_of(parent, kTokenizer), ""});
    found.conversion_notes.push_back(path_of(parent, kTokenizer) +
                                     ": taken as the tokenizer, which all models beside it share");
  }
  return {};
}

Expected<SideFiles> find_files(const std::string& path, const SourceOptions& options) {
  SideFiles found;
  found.root = folder_of(path);
  RESHARD_TRY(const std::vector<std::string> files, io::list_files(found.root));
  RESHARD_CHECK(find_weights(path, files, found));
  RESHARD_CHECK(find_params(files, options, found));
  RESHARD_CHECK(collect_carried(found.root, files, options, found.carried));
  RESHARD_CHECK(find_tokenizer(options, found));
  return found;
}

// Models of Meta's that have the same file names.
Status refuse_others(const Directory& directory) {
  struct Kind {
    const char* names;
    const char* what;
  };
  constexpr std::array<Kind, 8> kOthers = {{{"*.attention.wqkv.*", "a Llama 4"},
                                            {"*.feed_forward.experts.*", "a Llama 4"},
                                            {"*.feed_forward.router_DE", "a Llama 4"},
                                            {"*.feed_forward.mlp.*", "a Llama 4"},
                                            {"vision_*", "a model with vision"},
                                            {"text_model.*", "a Llama 3.2 with vision"},
                                            {"*cross_attention_layers.*", "a Llama 3.2 with vision"},
                                            {"*.lora_*", "a model with adapters"}}};
  for (const Directory::Entry& entry : directory.entries) {
    const std::string where = path_of(directory.root, directory.files[entry.file]) + ": tensor " + entry.entry.name;
    for (const Kind& kind : kOthers) {
      if (matches_glob(kind.names, entry.entry.name)) {
        return input_error(fmt::format("{}: of {}, which this format does not read", where, kind.what));
      }
    }
    if (entry.entry.dtype == DType::f8_e4m3 || entry.entry.dtype == DType::f8_e5m2) {
      return input_error(where + ": weights in fp8 are not read, as their scales lie elsewhere");
    }
  }
  return {};
}

// What the shapes of the shards tell.
struct Shards {
  Index rows = 0;  // of the vocabulary, over all ranks
  bool columns = false;
};

Shards look_at_shards(const Directory& directory, Index dim) {
  Shards shards;
  for (const Directory::Entry& entry : directory.entries) {
    const Shape& shape = entry.entry.shape;
    if (shape.size() != 2) continue;
    if (entry.entry.name == kHead) shards.rows = checked_add(shards.rows, shape[0]).value_or(0);
    if (entry.entry.name == kEmbedding) shards.columns = shards.columns || shape[1] != dim;
  }
  return shards;
}

// What is missing behind the last file that is there, no name tells: a shard of wq is as long as there are ranks.
Status check_ranks(const Directory& directory, Index dim) {
  const auto ranks = static_cast<Index>(directory.files.size());
  for (const Directory::Entry& entry : directory.entries) {
    if (entry.entry.name != kQuery) continue;
    const Shape& shape = entry.entry.shape;
    // A config of another model is told by the shapes.
    const bool fits = shape.size() == 2 && shape[1] == dim && shape[0] > 0 && dim % shape[0] == 0;
    if (!fits || dim / shape[0] <= ranks) return {};
    return input_error(fmt::format("{} is missing: the {} there hold parts of {} ranks",
                                   path_of(directory.root, file_of_rank(directory.files.size())),
                                   ranks == 1 ? "one file" : fmt::format("{} files", ranks), dim / shape[0]));
  }
  return {};
}

// How many ranks in a row hold copies of one kv head: more than one where the model has fewer heads than ranks, which
// params.json does not tell from as many heads. Every array of k and v is compared, but only once the first ones turn
// out to be equal. Collective.
Expected<Index> count_copies(const Directory& directory, const MetaParams& params, io::Follow follow, comm::Comm& comm,
                             Index& bytes_read) {
  const auto ranks = static_cast<Index>(directory.files.size());
  if (ranks < 2 || params.n_kv_heads.value_or(params.n_heads) != ranks) return Index{1};
  std::map<std::string, std::vector<const Directory::Entry*>> arrays;  // by rank
  for (const Directory::Entry& entry : directory.entries) {
    const std::string& name = entry.entry.name;
    if (!matches_glob("layers.*.attention.w[kv].weight", name)) continue;
    auto& of_ranks = arrays[name];
    of_ranks.resize(directory.files.size());
    of_ranks[entry.file] = &entry;
  }
  const auto equal = [&](const auto& of_ranks, Index rank) -> Expected<bool> {
    const auto *first = of_ranks[static_cast<std::size_t>(rank)],
               *second = of_ranks[static_cast<std::size_t>(rank) + 1];
    if (first == nullptr || second == nullptr) return false;
    return is_equal(directory, *first, *second, follow, comm, bytes_read);
  };
  Index copies = 1;
  for (bool more = !arrays.empty(); more && copies < ranks; copies += more ? 1 : 0) {
    RESHARD_TRY(more, equal(arrays.begin()->second, copies - 1));
  }
  if (ranks % copies != 0) return Index{1};
  for (const auto& [name, of_ranks] : arrays) {
    for (Index rank = 0; rank + 1 < ranks; ++rank) {
      if ((rank + 1) % copies == 0) continue;
      RESHARD_TRY(const bool same, equal(of_ranks, rank));
      if (!same) return Index{1};
    }
  }
  return copies;
}

// Compares the params.json that --config-from replaces.
void note_replaced_params(const SideFiles& found, const model::Library& library, Probe& probe) {
  const auto text = found.texts.find(kOwn);
  if (text == found.texts.end()) return;
  const std::string& path = found.paths.at(kOwn);
  std::vector<std::string> said = {"hidden_size",  "num_hidden_layers", "num_attention_heads", "intermediate_size",
                                   "rms_norm_eps", "rope_theta",        "rope_scaling.type"};
  const auto read = [&]() -> Expected<model::Spec> {
    RESHARD_TRY(const nlohmann::json json, io::parse_strict_json(text->second, path));
    std::vector<std::string> untold;
    RESHARD_TRY(MetaParams params, read_params(json, path, untold));
    if (params.vocab_size) said.emplace_back("vocab_size");
    params.vocab_size = params.vocab_size.value_or(probe.spec.integer("vocab_size"));
    // Ranks that hold copies of a kv head count them as heads.
    const bool has_copies = params.n_kv_heads.value_or(params.n_heads) == probe.mesh.tp &&
                            probe.spec.integer("num_key_value_heads") < probe.mesh.tp;
    if (!has_copies) said.emplace_back("num_key_value_heads");
    RESHARD_TRY(const nlohmann::json config, params.hf_config());
    return model::parse_hf_config(config, library, path);
  };
  const Expected<model::Spec> own = read();
  note_replaced(found, own, said, probe);
}

Status refuse_options(const SourceOptions& options, Index vocabulary, const std::string& path) {
  RESHARD_CHECK(refuse_model(options));
  if (options.step >= 0) return usage_error(fmt::format("--step {}: this format has no runs with steps", options.step));
  return check_vocabulary(options, vocabulary, path);
}

Expected<ParamsStyle> params_style(const TargetOptions& options) {
  if (options.params_style.empty() || options.params_style == "flat") return ParamsStyle::flat;
  if (options.params_style == "fairseq2") return ParamsStyle::fairseq2;
  return usage_error("--params-style " + options.params_style + ": expected flat or fairseq2");
}

// Is the embedding cut by rows, as in Llama 3, or by columns, as before? As in the source, if that is cut. Errors
// (usage).
Expected<bool> is_by_rows(const MetaParams& params, const model::Spec& spec, const TargetOptions& options) {
  if (options.format_version == "2" || options.format_version == "3") return options.format_version == "3";
  if (!options.format_version.empty()) {
    return usage_error("--format-version " + options.format_version +
                       ": format meta is written as Llama 1 and 2 have it (2) or as Llama 3 has it (3)");
  }
  if (const auto known = spec.facts.find(kByRows); known != spec.facts.end()) return known->get<bool>();
  // Of Meta's models only Llama 3.2 ties.
  return params.is_tied || params.generation() >= MetaGeneration::llama3;
}

}  // namespace

double MetaFormat::detect(const std::string& path) const {
  const std::string folder = folder_of(path);
  if (folder != path && !is_weight_file(fs::path(path).filename().string())) return 0;
  std::error_code ignored;
  const fs::directory_iterator files(folder, ignored);
  // What is missing among them is told later.
  const bool has_weights = std::any_of(begin(files), end(files), [](const fs::directory_entry& file) {
    return is_weight_file(file.path().filename().string());
  });
  return !has_weights ? 0 : exists(path_of(folder, kParams)) ? 1 : 0.7;
}

std::string MetaFormat::file_key(const std::string& path) const { return path == kOnly ? kFirst : path; }

Expected<Probe> MetaFormat::probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                                  comm::Comm& comm) const {
  RESHARD_TRY(const std::string packed, from_root(comm, [&]() -> Expected<std::string> {
                RESHARD_TRY(const SideFiles found, find_files(path, options));
                return found.pack();
              }));
  SideFiles found = SideFiles::unpack(packed);
  Probe probe;
  found.tell(probe);
  probe.mesh.tp = std::ssize(found.weights);
  RESHARD_TRY(probe.directory, read_directory(found.root, found.weights, "torch", options.follow, comm));
  RESHARD_CHECK(refuse_others(probe.directory));

  const bool has_params = found.texts.count("params") != 0;
  MetaParams params;
  if (has_params) {
    probe.config_path = found.paths["params"];
    RESHARD_TRY(const nlohmann::json json, io::parse_strict_json(found.texts["params"], probe.config_path));
    RESHARD_TRY(params, read_params(json, probe.config_path, probe.config_notes));
  } else {
    probe.config_path = found.paths["config"];
    RESHARD_TRY(probe.spec, parse_config(found, options, library));
    params.dim = probe.spec.integer("hidden_size");
    params.vocab_size = probe.spec.integer("vocab_size");
  }
  RESHARD_CHECK(check_ranks(probe.directory, params.dim));
  if (probe.mesh.tp > 1) {
    probe.conversion_notes.push_back(fmt::format(
        "the norms lie in all {} files: those of {} are taken; `reshard verify` compares them", probe.mesh.tp, kFirst));
  }
  const Shards shards = look_at_shards(probe.directory, params.dim);
  params.vocab_size = params.vocab_size.value_or(shards.rows);
  if (*params.vocab_size == 0) {
    return input_error(fmt::format("{}: does not give vocab_size, and no shard holds {}", probe.config_path, kHead));
  }
  RESHARD_CHECK(refuse_options(options, *params.vocab_size, found.root));
  const bool is_cut = probe.mesh.tp > 1;
  probe.options.numbers["embed_columns"] = is_cut && shards.columns ? 1 : 0;
  probe.options.numbers["chunked"] = *params.vocab_size % probe.mesh.tp == 0 ? 0 : 1;
  if (has_params) {
    RESHARD_TRY(const Index copies, count_copies(probe.directory, params, options.follow, comm, probe.bytes_read));
    if (copies > 1) {
      params.n_kv_heads = probe.mesh.tp / copies;
      probe.notes.push_back(fmt::format("{}: n_kv_heads is {}, but every {} ranks hold the same kv head: taken as {}",
                                        probe.config_path, probe.mesh.tp, copies, *params.n_kv_heads));
    }
    RESHARD_TRY(const nlohmann::json config, params.hf_config());
    RESHARD_TRY(probe.spec, model::parse_hf_config(config, library, probe.config_path));
    probe.ties_unknown = true;
    probe.config_notes.push_back(describe_assumed(params));
  }
  if (has_params) keep_ffn_rule(params.ffn, probe.spec);
  note_replaced_params(found, library, probe);
  if (is_cut) probe.spec.facts[kByRows] = !shards.columns;
  probe.spec.dtype = main_dtype(probe.directory, probe.spec.dtype);
  probe.carried = std::move(found.carried);
  return probe;
}

Expected<TargetChoice> MetaFormat::choose(const model::Spec& spec, const TargetOptions& options,
                                          std::vector<std::string>& notes) const {
  RESHARD_CHECK(params_style(options));
  RESHARD_TRY(const MetaParams params, MetaParams::of(spec, options.mesh.tp));
  RESHARD_TRY(const bool by_rows, is_by_rows(params, spec, options));
  const bool is_cut = options.mesh.tp > 1;
  if (is_cut && options.format_version.empty()) {
    notes.push_back(fmt::format("meta: the embedding is cut by {}, as in Llama {}; --format-version {} cuts by {}",
                                by_rows ? "rows" : "columns", by_rows ? "3" : "1 and 2", by_rows ? "2" : "3",
                                by_rows ? "columns" : "rows"));
  }
  TargetChoice choice{options.mesh, {}};
  choice.options.numbers["embed_columns"] = is_cut && !by_rows ? 1 : 0;
  choice.options.numbers["rope_freqs"] = by_rows ? 0 : 1;  // the class of Llama 3 fails on it
  return choice;
}

Expected<std::vector<TargetFile>> MetaFormat::files(const layout::Layout& layout, const TargetOptions&) const {
  return group_by_file(layout);
}

Expected<std::vector<Sidecar>> MetaFormat::sidecars(const SidecarInput& input, std::vector<std::string>& notes) const {
  RESHARD_TRY(const ParamsStyle style, params_style(input.options));
  RESHARD_TRY(const MetaParams params, MetaParams::of(input.spec, input.options.mesh.tp));
  RESHARD_TRY(const bool by_rows, is_by_rows(params, input.spec, input.options));
  RESHARD_CHECK(note_lost(input.spec, params, style, input.library, notes));
  std::vector<Sidecar> sidecars = {{kParams, "", write_params(params, style, by_rows)}};
  if (style == ParamsStyle::fairseq2) {
    sidecars.push_back({kConfig, "", fairseq2_hf_config(input.spec, params.norm_eps)});
  }
  sidecars.insert(sidecars.end(), input.carried.begin(), input.carried.end());
  const auto is_model = [](const Sidecar& sidecar) { return sidecar.path == kTokenizer; };
  if (has_tokenizer(input.carried) && std::none_of(input.carried.begin(), input.carried.end(), is_model)) {
    notes.push_back(
        "warning: meta: there is no tokenizer.model to carry along, which Meta's models read; give --tokenizer-from");
  }
  return sidecars;
}

}  // namespace reshard::format
