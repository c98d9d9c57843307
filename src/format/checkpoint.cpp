// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "detect.h"
#include "directory.h"
#include "hf_cache.h"
#include "placement.h"
#include "probing.h"
#include "reconcile.h"
#include "reshard/base/text.h"
#include "reshard/format/format.h"
#include "reshard/format/synthetic.h"
#include "reshard/model/generic.h"
#include "selection.h"
#include "ties.h"
#include "wire.h"
#include "zeros.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

struct Location {
  std::string path, format;
};

// A path that exists, or the snapshot of that name in the Hugging Face cache.
Expected<std::string> find_path(const std::string& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) return path;
  const auto name = parse_hub_name(path);
  if (!name) return input_error(path + ": no such file or folder");
  return find_snapshot(*name, hub_cache());
}

Expected<std::string> find_option_path(const std::string& option, const std::string& path) {
  if (path.empty()) return path;
  auto found = find_path(path);
  if (!found) return std::move(found).error().at(option);
  return found;
}

// The path to read, and the format there.
Expected<Location> locate(const std::string& path, const SourceOptions& options) {
  Location location{"", options.from};
  RESHARD_TRY(location.path, find_path(path));
  while (location.path.size() > 1 && location.path.back() == '/') location.path.pop_back();
  if (location.format.empty()) {
    RESHARD_TRY(location.format, detect_format(location.path, options.from_option));
  }
  return location;
}

// Name of an entry that is no array of the layout.
std::string name_outside(const Checkpoint& checkpoint, std::uint32_t e) {
  const Directory& directory = checkpoint.probe.directory;
  const Directory::Entry& entry = directory.entries[e];
  return checkpoint.format->array_name(directory.files[entry.file], entry.entry.name);
}

std::vector<model::NamedArray> named_arrays(const Checkpoint& checkpoint, const std::vector<std::uint32_t>& entries) {
  std::vector<model::NamedArray> arrays;
  for (const std::uint32_t e : entries) {
    const container::Entry& entry = checkpoint.probe.directory.entries[e].entry;
    arrays.push_back({name_outside(checkpoint, e), entry.dtype, entry.shape});
  }
  return arrays;
}

// Some writers leave the beginning of all names out.
void drop_optional_prefix(const std::string& prefix, const Directory& directory, layout::Table& table) {
  if (prefix.empty()) return;
  for (const Directory::Entry& entry : directory.entries) {
    if (entry.entry.name.starts_with(prefix)) return;
  }
  for (layout::ArrayRule& rule : table.rules) {
    if (rule.array.starts_with(prefix)) rule.array.erase(0, prefix.size());
  }
}

// Predicts the layout of a probed source and finds each array in its directory.
class Reconciler {
 public:
  Reconciler(const SourceOptions& options, const model::Library& library, Checkpoint& checkpoint)
      : options_(options), library_(library), checkpoint_(checkpoint) {}

  Status run(comm::Comm& comm) {
    Probe& probe = checkpoint_.probe;
    const std::string format(checkpoint_.format->name());
    RESHARD_TRY(table_, library_.table(probe.spec.family, format));
    drop_optional_prefix(library_.cell(probe.spec.family, format).optional_prefix, probe.directory, table_);
    RESHARD_CHECK(settle_ties(table_, options_.follow, comm, probe, dropped_));
    if (probe.spec.family == model::kGeneric) {
      std::vector<std::uint32_t> all(probe.directory.entries.size());
      for (std::uint32_t e = 0; e < all.size(); ++e) all[e] = e;
      checkpoint_.named = named_arrays(checkpoint_, all);
      RESHARD_TRY(checkpoint_.canon, model::make_generic_canon(checkpoint_.named));
      RESHARD_TRY(table_, model::add_passthrough(std::move(table_), checkpoint_.named));
    } else {
      auto canon = model::make_canon(probe.spec, library_);
      if (!canon) return std::move(canon).error().at(probe.config_path);
      checkpoint_.canon = *std::move(canon);
    }
    RESHARD_TRY(layout::Layout layout, predict());
    Match found = match(layout, probe.directory, *checkpoint_.format, dropped_);
    if (carry_unknown(found)) {
      RESHARD_TRY(checkpoint_.canon, model::add_passthrough(*checkpoint_.canon, checkpoint_.named));
      RESHARD_TRY(table_, model::add_passthrough(std::move(table_), checkpoint_.named));
      RESHARD_TRY(layout, predict());
      found = match(layout, probe.directory, *checkpoint_.format, dropped_);
    }
    if (options_.needs) {
      RESHARD_CHECK(excuse(layout, found));
    } else if (!options_.include.empty() || !options_.exclude.empty()) {
      RESHARD_CHECK(leave_out(layout, found));
    }
    add_empty_parts(layout, found, probe.directory);
    RESHARD_CHECK(compare(found, probe.directory, *checkpoint_.format, probe.config_path, layout));
    RESHARD_CHECK(checkpoint_.format->check(probe, layout, found.locations));
    RESHARD_CHECK(check_zeros(table_.zeros, found.ignored, options_.follow, comm, probe));

    for (const std::uint32_t e : found.ignored) dropped_.insert(e);
    for (const std::uint32_t e : dropped_) {
      const auto excluded = excluded_.find(e);
      checkpoint_.dropped.push_back(excluded != excluded_.end() ? excluded->second : name_outside(checkpoint_, e));
    }
    checkpoint_.locations = std::move(found.locations);
    checkpoint_.layout = std::make_shared<const layout::Layout>(std::move(layout));
    return {};
  }

 private:
  Expected<layout::Layout> predict() const {
    const Probe& probe = checkpoint_.probe;
    const auto is_stored = [&](const std::string& glob) {
      const auto& entries = probe.directory.entries;
      return std::any_of(entries.begin(), entries.end(),
                         [&](const Directory::Entry& entry) { return matches_glob(glob, entry.entry.name); });
    };
    const layout::Scope scope =
        with_defaults(library_.options(std::string(checkpoint_.format->name()), is_stored), probe.options);
    RESHARD_TRY(layout::Placement placement,
                place(table_.placement, probe.spec, *checkpoint_.canon, probe.mesh, scope));
    auto layout =
        layout::Layout::predict(checkpoint_.canon, table_, probe.mesh, std::move(placement), probe.spec.dtype, scope);
    // What the format cannot be is a fault of this checkpoint, not of the command.
    if (!layout) return input_error(probe.config_path + ": " + layout.error().message);
    return layout;
  }

  // Takes unexpected arrays over that --passthrough names; true if there are some.
  bool carry_unknown(const Match& found) {
    std::vector<std::uint32_t> carried;
    for (const std::uint32_t e : found.unexpected) {
      const std::string name = name_outside(checkpoint_, e);
      const auto matches = [&](const std::string& glob) { return matches_glob(glob, name); };
      if (std::any_of(options_.passthrough.begin(), options_.passthrough.end(), matches)) carried.push_back(e);
    }
    if (carried.empty()) return false;
    checkpoint_.named = named_arrays(checkpoint_, carried);
    return true;
  }

  // Drops what --include and --exclude leave out, known or not, and predicts again without it: a part of a checkpoint
  // needs to hold no more than what is asked of it.
  Status leave_out(layout::Layout& layout, Match& found) {
    const auto is_in = [&](std::uint32_t a) { return is_selected(options_, layout.name(layout.arrays()[a])); };
    for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
      if (found.locations[a] == Match::kMissing || is_in(a)) continue;
      dropped_.insert(found.locations[a]);
      excluded_[found.locations[a]] = layout.name(layout.arrays()[a]);
    }
    for (const std::uint32_t e : found.unexpected) {
      if (!is_selected(options_, name_outside(checkpoint_, e))) dropped_.insert(e);
    }
    return predict_rest(is_in, layout, found);
  }

  // Drops what is missing or unknown and not needed.
  Status excuse(layout::Layout& layout, Match& found) {
    std::vector<bool> is_in;
    for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
      std::vector<std::string> lines;
      for (const Index line : lines_of(layout, a)) lines.push_back(layout.canon().line_name(line));
      is_in.push_back(found.locations[a] != Match::kMissing || options_.needs(layout.name(layout.arrays()[a]), lines));
    }
    // Another model altogether: what its names are is told below.
    if (std::none_of(is_in.begin(), is_in.end(), [](bool in) { return in; })) return {};
    for (const std::uint32_t e : found.unexpected) {
      if (!options_.needs(name_outside(checkpoint_, e), {})) dropped_.insert(e);
    }
    return predict_rest([&](std::uint32_t a) { return is_in[a]; }, layout, found);
  }

  // Predicts again without the arrays that are not in, and matches what is not dropped.
  Status predict_rest(const std::function<bool(std::uint32_t)>& is_in, layout::Layout& layout, Match& found) {
    RESHARD_TRY(checkpoint_.canon, select(layout, is_in));
    std::erase_if(checkpoint_.named, [&](const auto& array) { return checkpoint_.canon->find(array.name) < 0; });
    auto rest = predict();
    if (!rest) return usage_error("--include and --exclude: " + rest.error().message);
    layout = *std::move(rest);
    RESHARD_CHECK(check_complete(layout));
    std::vector<std::uint32_t> ignored = std::move(found.ignored);
    found = match(layout, checkpoint_.probe.directory, *checkpoint_.format, dropped_);
    found.ignored = std::move(ignored);
    return {};
  }

  const SourceOptions& options_;
  const model::Library& library_;
  Checkpoint& checkpoint_;
  layout::Table table_;
  std::set<std::uint32_t> dropped_;
  std::map<std::uint32_t, std::string> excluded_;  // of dropped_: arrays that the model has, by their names
};

// A model that is stored nowhere: its layout as Hugging Face has it, its directory as it would be written.
Expected<Checkpoint> open_synthetic(const std::string& name, const SourceOptions& options,
                                    const model::Library& library) {
  Checkpoint checkpoint;
  checkpoint.synthetic = true;
  checkpoint.format = find("hf", library);
  Probe& probe = checkpoint.probe;
  probe.config_path = std::string(kSynthetic) + name;
  RESHARD_TRY(probe.spec, model::named_model(name, library));
  auto canon = model::make_canon(probe.spec, library);
  if (!canon) return std::move(canon).error().at(probe.config_path);
  checkpoint.canon = *std::move(canon);
  RESHARD_TRY(layout::Table table, library.table(probe.spec.family, "hf"));
  const layout::Scope scope = library.options("hf");
  RESHARD_TRY(layout::Placement placement, place(table.placement, probe.spec, *checkpoint.canon, {}, scope));
  RESHARD_TRY(layout::Layout layout,
              layout::Layout::predict(checkpoint.canon, table, {}, placement, probe.spec.dtype, scope));
  if (!options.include.empty() || !options.exclude.empty()) {
    const auto is_in = [&](std::uint32_t a) { return is_selected(options, layout.name(layout.arrays()[a])); };
    for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
      if (!is_in(a)) checkpoint.dropped.push_back(layout.name(layout.arrays()[a]));
    }
    RESHARD_TRY(checkpoint.canon, select(layout, is_in));
    RESHARD_TRY(layout, layout::Layout::predict(checkpoint.canon, std::move(table), {}, std::move(placement),
                                                probe.spec.dtype, scope));
  }
  RESHARD_TRY(const std::vector<TargetFile> files, checkpoint.format->files(layout, {}));
  checkpoint.locations.resize(layout.arrays().size());
  probe.directory.root = probe.config_path;
  for (const TargetFile& file : files) {
    RESHARD_TRY(const container::FileImage image, container::find(layout.table().container)->lay_out(file.spec));
    const auto number = static_cast<std::uint32_t>(probe.directory.files.size());
    probe.directory.files.push_back(file.path);
    probe.directory.metadata.push_back(file.spec.metadata);
    probe.directory.fingerprints.push_back({image.size, 0, 0});
    for (std::size_t i = 0; i < file.arrays.size(); ++i) {
      const container::FileSpec::Item& item = file.spec.items[i];
      checkpoint.locations[file.arrays[i]] = static_cast<std::uint32_t>(probe.directory.entries.size());
      const Index length = *num_elements(item.shape) * bits_of(item.dtype) / 8;
      probe.directory.entries.push_back({{item.name, item.dtype, item.shape, image.offsets[i], length, {}}, number});
    }
  }
  checkpoint.layout = std::make_shared<const layout::Layout>(std::move(layout));
  checkpoint.generator = std::make_shared<const Generator>(checkpoint.layout);
  checkpoint.ties = model::find_ties(probe.spec.family, *checkpoint.canon, library);
  return checkpoint;
}

Expected<Checkpoint> open_stored(const std::string& path, const SourceOptions& asked, const model::Library& library,
                                 comm::Comm& comm) {
  RESHARD_TRY(const std::string located, from_root(comm, [&]() -> Expected<std::string> {
                RESHARD_TRY(const Location location, locate(path, asked));
                Packer packer;
                packer.text(location.path);
                packer.text(location.format);
                RESHARD_TRY(const std::string config, find_option_path("--config-from", asked.config_from));
                RESHARD_TRY(const std::string tokenizer, find_option_path("--tokenizer-from", asked.tokenizer_from));
                packer.text(config);
                packer.text(tokenizer);
                return packer.take();
              }));
  Unpacker unpacker(located);
  const std::string folder = unpacker.text(), name = unpacker.text();
  SourceOptions options = asked;
  options.config_from = unpacker.text();
  options.tokenizer_from = unpacker.text();
  Checkpoint checkpoint;
  checkpoint.follow = options.follow;
  checkpoint.format = find(name, library);
  if (checkpoint.format == nullptr) return unknown_format(name, library);
  RESHARD_TRY(checkpoint.probe, checkpoint.format->probe(folder, options, library, comm));
  RESHARD_CHECK(Reconciler(options, library, checkpoint).run(comm));
  checkpoint.ties = model::find_ties(checkpoint.probe.spec.family, *checkpoint.canon, library);
  return checkpoint;
}

// What to do where a snapshot in the Hugging Face cache was fetched in part; empty for other paths.
std::string fetch_advice(const std::string& path) {
  std::error_code ignored;
  const auto name = parse_hub_name(path);
  if (!name || fs::exists(path, ignored)) return "";
  const auto snapshot = find_snapshot(*name, hub_cache());
  if (!snapshot || !is_partial(*snapshot)) return "";
  return "; to fetch what is missing: " + fetch_command(*name);
}

}  // namespace

Expected<Checkpoint> open_checkpoint(const std::string& path, const SourceOptions& options,
                                     const model::Library& library, comm::Comm& comm) {
  if (path.starts_with(kSynthetic)) return open_synthetic(path.substr(kSynthetic.size()), options, library);
  auto opened = open_stored(path, options, library, comm);
  if (opened || opened.error().code != Code::input || !parse_hub_name(path)) return opened;
  RESHARD_TRY(const std::string advice, from_root(comm, [&] { return Expected<std::string>(fetch_advice(path)); }));
  return input_error(opened.error().message + advice);
}

Expected<std::unique_ptr<io::Source>> open_source_file(const Checkpoint& checkpoint, std::uint32_t file,
                                                       io::Mode mode) {
  const Directory& directory = checkpoint.probe.directory;
  if (!checkpoint.synthetic) return io::open_source(directory.root, directory.files[file], checkpoint.follow, mode);
  std::vector<SyntheticExtent> extents;
  for (std::uint32_t a = 0; a < checkpoint.locations.size(); ++a) {
    const Directory::Entry& entry = directory.entries[checkpoint.locations[a]];
    if (entry.file == file) extents.push_back({a, entry.entry.offset, entry.entry.length});
  }
  return make_synthetic_source(checkpoint.generator, std::move(extents), directory.fingerprints[file].size);
}

Status check_unchanged(const Checkpoint& checkpoint) {
  if (checkpoint.synthetic) return {};
  const Directory& directory = checkpoint.probe.directory;
  for (std::size_t file = 0; file < directory.files.size(); ++file) {
    RESHARD_CHECK(io::check_unchanged(path_of(directory.root, directory.files[file]), directory.fingerprints[file]));
  }
  return {};
}

std::vector<std::string> array_names(const Checkpoint& checkpoint) {
  std::vector<std::string> names(checkpoint.probe.directory.entries.size());
  for (std::uint32_t a = 0; a < checkpoint.locations.size(); ++a) {
    names[checkpoint.locations[a]] = checkpoint.layout->name(checkpoint.layout->arrays()[a]);
  }
  for (std::uint32_t e = 0; e < names.size(); ++e) {
    if (names[e].empty()) names[e] = name_outside(checkpoint, e);
  }
  return names;
}

std::vector<Index> lines_of(const layout::Layout& layout, std::uint32_t number) {
  const layout::Array& array = layout.arrays()[number];
  std::vector<Index> lines;
  const layout::Canon& canon = layout.canon();
  for (const std::uint32_t t : layout.tensors(array)) {
    const layout::Tensor& tensor = canon.tensors()[t];
    // The values of an instance axis that the array holds: the one of its name, or all.
    const auto values = [&](std::string_view axis, Index fixed) {
      const int k = tensor.find_axis(axis);
      const Index size = k < 0 ? 0 : tensor.axes[static_cast<std::size_t>(k)].size;
      return k < 0        ? std::pair<Index, Index>{-1, 0}
             : fixed >= 0 ? std::pair{fixed, fixed + 1}
                          : std::pair{Index{0}, size};
    };
    const auto [first_layer, end_layer] = values("layer", array.layer);
    const auto [first_expert, end_expert] = values("expert", array.expert);
    for (Index layer = first_layer; layer < end_layer; ++layer) {
      for (Index expert = first_expert; expert < end_expert; ++expert) {
        const Index line = canon.line_number(t, layer, expert);
        if (line >= 0) lines.push_back(line);
      }
    }
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

}  // namespace reshard::format
