// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "detect.h"
#include "extras.h"
#include "placement.h"
#include "probing.h"
#include "reshard/base/text.h"
#include "reshard/format/format.h"
#include "selection.h"
#include "side_files.h"

namespace reshard::format {

namespace {

// The narrowest type that holds the values of both.
std::optional<DType> join(DType a, DType b) {
  if (a == b) return a;
  if (is_castable(a) && is_castable(b)) return DType::f32;
  return std::nullopt;
}

// The dtype in which the source stores what an array of the target holds.
class SourceDTypes {
 public:
  explicit SourceDTypes(const layout::Layout& source) {
    const auto& arrays = source.arrays();
    const auto other = [&](const layout::Array& array) { return array.dtype != arrays.front().dtype; };
    if (!arrays.empty() && std::none_of(arrays.begin(), arrays.end(), other)) {
      only_ = arrays.front().dtype;
      return;
    }
    of_line_.resize(static_cast<std::size_t>(source.canon().num_lines()));
    for (std::uint32_t a = 0; a < arrays.size(); ++a) {
      for (const Index line : lines_of(source, a)) of_line_[static_cast<std::size_t>(line)].push_back(arrays[a].dtype);
    }
  }

  // Errors (usage): dtypes that one array cannot hold together.
  Expected<DType> of(const layout::Layout& target, std::uint32_t array) const {
    if (only_) return *only_;
    std::optional<DType> joint;
    for (const Index line : lines_of(target, array)) {
      for (const DType dtype : of_line_[static_cast<std::size_t>(line)]) {
        const std::optional<DType> both = joint ? join(*joint, dtype) : dtype;
        if (!both) {
          return usage_error(fmt::format("{} would hold tensors that the source stores as {} and as {}",
                                         target.name(target.arrays()[array]), to_string(*joint), to_string(dtype)));
        }
        joint = both;
      }
    }
    return joint.value_or(target.arrays()[array].dtype);
  }

 private:
  std::optional<DType> only_;
  std::vector<std::vector<DType>> of_line_;
};

// Gives every array its dtype.
Status choose_dtypes(const Checkpoint& source, const TargetOptions& options, layout::Layout& layout,
                     model::Spec& spec) {
  std::optional<DType> wanted;
  if (!options.dtype.empty()) {
    wanted = parse_user_dtype(options.dtype);
    if (!wanted || !is_castable(*wanted)) {
      return usage_error("--dtype " + options.dtype + ": not one of bf16, fp16, fp32");
    }
    spec.dtype = *wanted;
  }
  const bool is_generic = spec.family == model::kGeneric;
  const auto is_carried_along = [&](const layout::Array& array) {
    const std::string& name = layout.rule(array).array;
    return !is_generic && std::any_of(source.named.begin(), source.named.end(),
                                      [&](const model::NamedArray& named) { return named.name == name; });
  };
  const SourceDTypes stored(*source.layout);
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const layout::Array& array = layout.arrays()[a];
    RESHARD_TRY(const DType dtype, stored.of(layout, a));
    const std::string name = layout.name(array);
    const bool kept = std::any_of(options.keep_dtype.begin(), options.keep_dtype.end(),
                                  [&](const std::string& glob) { return matches_glob(glob, name); });
    DType chosen = dtype;
    if (!kept && is_castable(dtype) && !is_carried_along(array)) {
      const std::string& fixed = layout.rule(array).dtype;
      if (!fixed.empty() && !is_generic) {
        chosen = parse_dtype(fixed).value_or(dtype);
      } else if (wanted) {
        chosen = *wanted;
      }
    }
    layout.set_dtype(a, chosen);
  }
  return {};
}

// Tables of --config-dir name files: each must lie in the checkpoint, once, and not where a side file goes.
Status check_paths(const Target& target) {
  std::set<std::string> taken;
  const auto take = [&](const std::string& path) -> Status {
    const std::filesystem::path named(path);
    const bool inside = !path.empty() && named.is_relative() && named.lexically_normal() == named &&
                        *named.begin() != ".." && named.has_filename();
    const std::string format(target.format->name());
    if (!inside)
      return usage_error(fmt::format("format {}: file '{}' is no plain path inside the checkpoint", format, path));
    if (!taken.insert(path).second) {
      return usage_error(
          fmt::format("format {}: file {} would be written twice; the table's file pattern must differ from "
                      "side files and name what tells files apart ({{tp}}, {{pp}}, ...)",
                      format, path));
    }
    return {};
  };
  if (target.format->one_file()) return {};
  for (const TargetFile& file : target.files) RESHARD_CHECK(take(file.path));
  for (const Sidecar& sidecar : target.sidecars) RESHARD_CHECK(take(sidecar.path));
  return take("reshard.json");
}

Status lay_out(const container::Container& container, Target& target) {
  target.file_of_array.resize(target.layout->arrays().size());
  target.offset_of_array.resize(target.layout->arrays().size());
  for (std::uint32_t f = 0; f < target.files.size(); ++f) {
    const TargetFile& file = target.files[f];
    RESHARD_TRY(container::FileImage image, container.lay_out(file.spec));
    for (std::size_t i = 0; i < file.arrays.size(); ++i) {
      if (file.arrays[i] == kExtra) continue;
      target.file_of_array[file.arrays[i]] = f;
      target.offset_of_array[file.arrays[i]] = image.offsets[i];
    }
    target.images.push_back(std::move(image));
  }
  return {};
}

}  // namespace

Expected<Target> describe_target(const Checkpoint& source, const std::string& format, const TargetOptions& options,
                                 const model::Library& library) {
  Target target;
  target.format = find(format, library);
  if (target.format == nullptr) return unknown_format(format, library);
  if (options.vocab_multiple < 1) return usage_error("--vocab-multiple must be at least 1");
  model::Spec spec = source.probe.spec;
  RESHARD_TRY(layout::Table table, library.table(spec.family, format));
  if (options.max_shard_size && !target.format->cuts_by_size(table)) {
    return usage_error("--max-shard-size: files of format " + format + " are not cut by size");
  }
  if (options.max_shard_size && *options.max_shard_size < 1) {
    return usage_error("--max-shard-size must be at least one byte");
  }
  RESHARD_TRY(table, model::add_passthrough(std::move(table), source.named));
  RESHARD_TRY(const TargetChoice choice, target.format->choose(spec, options, target.notes));
  layout::Scope scope = with_defaults(library.options(format), choice.options);
  if (scope.has("vocab_multiple")) {
    scope.numbers["vocab_multiple"] = options.vocab_multiple;
  } else if (options.vocab_multiple > 1) {
    return usage_error("--vocab-multiple: format " + format + " does not pad the vocabulary");
  } else if (spec.facts.contains("vocab_padded")) {
    target.notes.push_back(fmt::format(
        "warning: rows of padding become part of the vocabulary, which format {} cannot tell apart later; --vocab-size "
        "N, the true number, cuts them off in this conversion",
        format));
  }
  const container::Container* container = container::find(table.container);
  if (container == nullptr) return usage_error("format " + format + ": there is no container " + table.container);
  if (options.mesh.pp < 1 || options.mesh.tp < 1) return usage_error("--tp and --pp must be at least 1");
  const layout::Scope& model = source.canon->scope();
  if (const auto layers = model.numbers.find("layer");
      layers != model.numbers.end() && choice.mesh.pp > layers->second) {
    return usage_error(fmt::format("--pp {}: the model has only {} layers", choice.mesh.pp, layers->second));
  }
  RESHARD_TRY(layout::Placement placement, place(table.placement, spec, *source.canon, choice.mesh, scope));
  RESHARD_TRY(layout::Layout layout, layout::Layout::predict(source.canon, std::move(table), choice.mesh,
                                                             std::move(placement), spec.dtype, scope));
  RESHARD_CHECK(check_complete(layout));
  RESHARD_CHECK(choose_dtypes(source, options, layout, spec));
  target.layout = std::make_shared<const layout::Layout>(std::move(layout));

  RESHARD_TRY(target.files, target.format->files(*target.layout, options));
  RESHARD_CHECK(add_extras(*target.layout, spec, target.files));
  const SidecarInput input{spec, *target.layout, target.files, options, source.probe.carried, library};
  RESHARD_TRY(target.sidecars, target.format->sidecars(input, target.notes));
  if (!source.synthetic && !has_tokenizer(source.probe.carried)) {
    // Where the format stays, the checkpoint is as complete as it was.
    const bool is_missed = target.format->wants_tokenizer() && target.format != source.format;
    target.notes.push_back(std::string(is_missed ? "warning: " : "") +
                           "the source has no tokenizer to carry along; --tokenizer-from names a folder that has one");
  }
  if (target.format->one_file()) {
    RESHARD_CHECK(target.format->put_inside(input, target.sidecars, target.files.front()));
    target.sidecars.clear();
    if (options.files_inside) {
      for (auto& [name, text] : options.files_inside(*target.layout)) target.files.front().spec.files[name] = text;
    }
  }
  RESHARD_CHECK(check_paths(target));
  RESHARD_CHECK(lay_out(*container, target));
  return target;
}

}  // namespace reshard::format
