// SPDX-License-Identifier: Apache-2.0
#include "reshard/layout/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <optional>

#include "reshard/base/text.h"
#include "reshard/layout/strided.h"

namespace reshard::layout {
namespace {

struct Range {
  Index begin, end;
};

/// Part `part` of `parts` of [0, extent). Nothing if the split rule refuses.
std::optional<Range> split_part(Index extent, Index parts, Index part, Split rule) {
  if (extent % parts == 0 || rule == Split::even) {
    if (extent % parts != 0) return std::nullopt;
    return Range{extent / parts * part, extent / parts * (part + 1)};
  }
  if (rule == Split::ceil) {
    const Index chunk = ceil_div(extent, parts);
    return Range{std::min(extent, chunk * part), std::min(extent, chunk * (part + 1))};
  }
  const Index base = extent / parts, longer = extent % parts;
  const Index begin = part * base + std::min(part, longer);
  return Range{begin, begin + base + (part < longer ? 1 : 0)};
}

Index mesh_size(const Mesh& mesh, std::string_view dim) {
  if (dim == "tp") return mesh.tp;
  if (dim == "pp") return mesh.pp;
  if (dim == "ep") return mesh.ep;
  if (dim == "dp") return mesh.dp;
  return 0;
}

/// Does `pattern` name {axis} or {axis.local}?
bool fixes(const std::string& pattern, std::string_view axis) {
  for (const std::string& name : names_in(pattern)) {
    if (name == axis || name == std::string(axis) + ".local") return true;
  }
  return false;
}

bool names(const std::string& pattern, std::string_view name) {
  const std::vector<std::string> all = names_in(pattern);
  return std::find(all.begin(), all.end(), name) != all.end();
}

bool mentions(const std::string& condition, std::string_view word) { return condition.find(word) != std::string::npos; }

}  // namespace

Placement place_evenly(Index layers, Index stages) {
  Placement placement;
  for (Index layer = 0; layer < layers; ++layer) {
    // Inverse of the balanced split: the first layers % stages stages hold one more.
    const Index base = layers / stages, longer = layers % stages;
    const Index in_longer = longer * (base + 1);
    placement.layer_stage.push_back(layer < in_longer ? layer / (base + 1) : longer + (layer - in_longer) / base);
  }
  placement.slot_stage["embed"] = 0;
  return placement;
}

Expected<Layout> Layout::predict(std::shared_ptr<const Canon> canon, Table table, const Mesh& mesh, Placement placement,
                                 DType dtype, const Scope& options) {
  Layout layout;
  layout.canon_ = std::move(canon);
  layout.table_ = std::move(table);
  layout.mesh_ = mesh;
  layout.placement_ = std::move(placement);
  layout.scope_ = layout.canon_->scope();
  for (const auto& [name, value] : options.numbers) layout.scope_.numbers[name] = value;
  for (const auto& [name, set] : options.sets) layout.scope_.sets[name] = set;
  for (const std::string_view dim : {"tp", "pp", "ep", "dp"}) {
    const Index size = mesh_size(mesh, dim);
    const bool known =
        std::find(layout.table_.mesh_dims.begin(), layout.table_.mesh_dims.end(), dim) != layout.table_.mesh_dims.end();
    if (size < 1) return usage_error(fmt::format("--{} must be at least 1, got {}", dim, size));
    if (size > 1 && !known) {
      return usage_error(
          fmt::format("format {} does not shard by {}: leave --{} at 1", layout.table_.format, dim, dim));
    }
    layout.scope_.numbers[std::string(dim)] = size;
  }
  for (const std::string& dim : layout.table_.mesh_dims) layout.mesh_sizes_.push_back(mesh_size(mesh, dim));
  for (const auto& [name, expression] : layout.table_.number_order) {
    auto value = evaluate(expression, layout.scope_);
    if (!value) return std::move(value).error().at("format " + layout.table_.format + ", number " + name);
    layout.scope_.numbers[name] = *value;
  }
  for (const Requirement& requirement : layout.table_.require) {
    auto fulfilled = holds(requirement.condition, layout.scope_);
    if (!fulfilled) return std::move(fulfilled).error().at("format " + layout.table_.format);
    if (!*fulfilled) {
      auto message = fill_in(requirement.message, [&](std::string_view name) -> std::optional<Index> {
        const auto found = layout.scope_.numbers.find(name);
        if (found == layout.scope_.numbers.end()) return std::nullopt;
        return found->second;
      });
      return usage_error("format " + layout.table_.format + ": " + (message ? *message : requirement.message));
    }
  }

  layout.rules_.resize(layout.table_.rules.size());
  for (std::uint32_t r = 0; r < layout.rules_.size(); ++r) {
    auto prepared = layout.prepare_rule(r);
    if (!prepared) {
      return std::move(prepared).error().at(
          fmt::format("format {}, array {}", layout.table_.format, layout.table_.rules[r].array));
    }
  }
  Scope here = layout.scope_;
  RESHARD_CHECK(layout.enumerate(0, static_cast<std::uint32_t>(layout.rules_.size()), -1, -1, dtype, here));
  RESHARD_CHECK(layout.find_repeated());

  std::vector<bool> held(layout.canon_->tensors().size(), false);
  for (const RuleData& rule : layout.rules_) {
    if (rule.arrays.empty()) continue;
    for (const std::uint32_t tensor : rule.tensors) held[tensor] = true;
  }
  for (std::size_t t = 0; t < held.size(); ++t) {
    if (!held[t]) {
      return usage_error(fmt::format("format {} has no place for the tensor {} of this model", layout.table_.format,
                                     layout.canon_->tensors()[t].name));
    }
  }
  return layout;
}

Status Layout::prepare_rule(std::uint32_t r) {
  const ArrayRule& rule = table_.rules[r];
  RuleData& data = rules_[r];
  data.fixes_layer = fixes(rule.array, "layer");
  data.fixes_expert = fixes(rule.array, "expert");

  // Which canonical tensors does the view name? None of them in this model: the rule is silent.
  std::vector<std::string> missing;
  std::vector<std::string> tensors;
  {
    RESHARD_TRY(const Expansion any,
                expand(rule.view, rule.tensor, [](const std::string&) -> Expected<Index> { return 1; }));
    for (const Term& term : any.terms) {
      if (term.tensor == kFill || !rule.buffer.empty()) continue;
      if (std::find(tensors.begin(), tensors.end(), term.tensor) == tensors.end()) tensors.push_back(term.tensor);
    }
  }
  for (const std::string& tensor : tensors) {
    const int t = canon_->find(tensor);
    if (t < 0) {
      missing.push_back(tensor);
    } else {
      data.tensors.push_back(static_cast<std::uint32_t>(t));
    }
  }
  if (data.tensors.empty() && rule.buffer.empty()) {
    // An array of zeros alone is there where the tensor is that it stands beside.
    data.beside = tensors.empty() ? canon_->find(rule.tensor) : -1;
    if (data.beside < 0) return {};
  }
  if (!missing.empty())
    return usage_error(fmt::format("the model has no tensor {}, which the array holds a part of", missing.front()));
  for (const std::string& condition : rule.where) {
    if (mentions(condition, "layer") || mentions(condition, "expert")) continue;
    RESHARD_TRY(const bool there, holds(condition, scope_));
    if (!there) {
      data.tensors.clear();
      return {};  // without a cut, enumerate() passes it over
    }
  }

  // Mesh dims that tell arrays of this rule apart: those that cut it, and those that its file or name mentions.
  // Pipeline stages follow from the layer.
  std::vector<bool> varies(table_.mesh_dims.size(), false);
  for (std::size_t m = 0; m < table_.mesh_dims.size(); ++m) {
    const std::string& dim = table_.mesh_dims[m];
    for (const ShardRule& shard : rule.shards) varies[m] = varies[m] || shard.mesh_dim == dim;
    if (dim == "pp" && !varies[m]) continue;
    for (const std::string* pattern : {&rule.array, &rule.file, &rule.entry})
      varies[m] = varies[m] || names(*pattern, dim);
  }
  for (const ShardRule& shard : rule.shards) {
    if (std::find(table_.mesh_dims.begin(), table_.mesh_dims.end(), shard.mesh_dim) == table_.mesh_dims.end()) {
      return usage_error(fmt::format("shards by mesh dim {}, which the format does not list", shard.mesh_dim));
    }
    if (shard.kind == ShardRule::Kind::dim) data.cut_dims.push_back(shard.dim);
    if (shard.kind == ShardRule::Kind::axis)
      data.sharded_axes.insert(data.sharded_axes.end(), shard.axes.begin(), shard.axes.end());
  }

  std::vector<Index> coords(table_.mesh_dims.size(), 0);
  while (true) {
    RESHARD_TRY(CutData cut, make_cut(rule, coords));
    data.cuts.push_back(std::move(cut));
    std::size_t m = coords.size();
    while (m > 0 && (!varies[m - 1] || coords[m - 1] + 1 == mesh_sizes_[m - 1])) coords[--m] = 0;
    if (m == 0) break;
    ++coords[m - 1];
  }

  // Each axis of a tensor must be in the view or fixed by the name, and no other.
  for (const CutTerm& term : data.cuts.front().terms) {
    if (term.tensor < 0) continue;
    const Tensor& tensor = canon_->tensors()[static_cast<std::size_t>(term.tensor)];
    if (tensor.axes.size() > static_cast<std::size_t>(kMaxAxes)) {
      return usage_error(fmt::format("tensor {} has more than {} axes", tensor.name, kMaxAxes));
    }
    for (std::size_t a = 0; a < tensor.axes.size(); ++a) {
      const std::string& axis = tensor.axes[a].name;
      const auto covered = std::count_if(term.steps.begin(), term.steps.end(),
                                         [&](const CutTerm::Step& step) { return step.axis == static_cast<int>(a); });
      const bool fixed = (axis == "layer" && data.fixes_layer) || (axis == "expert" && data.fixes_expert);
      if (covered + (fixed ? 1 : 0) != 1) {
        return usage_error(fmt::format("axis {} of tensor {} is covered {} times by view '{}' and name, expected once",
                                       axis, tensor.name, covered + (fixed ? 1 : 0), rule.view_text));
      }
    }
  }
  return {};
}

Expected<Layout::CutData> Layout::make_cut(const ArrayRule& rule, const std::vector<Index>& coords) const {
  CutData data;
  data.cut.coords = coords;

  // Axis shards: local ranges, and which part of each axis this coordinate holds, to tell replicas.
  struct AxisPart {
    std::string axis;
    Range range;
    Index part;
  };
  std::vector<AxisPart> axis_parts;
  std::vector<std::size_t> unsharded_coords;  // mesh dims with coordinate > 0 that cut nothing here
  for (std::size_t m = 0; m < coords.size(); ++m) {
    const std::string& dim = table_.mesh_dims[m];
    const auto shard =
        std::find_if(rule.shards.begin(), rule.shards.end(), [&](const ShardRule& s) { return s.mesh_dim == dim; });
    if (shard == rule.shards.end()) {
      if (coords[m] > 0) unsharded_coords.push_back(m);
      continue;
    }
    if (shard->kind != ShardRule::Kind::axis) continue;
    Index parts = mesh_sizes_[m], part = coords[m];
    for (const std::string& axis : shard->axes) {
      RESHARD_TRY(const Index extent, evaluate(axis, scope_));
      const bool last = &axis == &shard->axes.back();
      const Index here = last || parts <= extent ? parts : extent;
      if (parts % here != 0) {
        return usage_error(fmt::format("{}={} is not a multiple of {} ({}), so it cannot split {}", dim, parts, axis,
                                       extent, join(shard->axes, " and ")));
      }
      const Index rest = parts / here;
      const auto range = split_part(extent, here, part / rest, table_.split);
      if (!range) return usage_error(fmt::format("{}={} does not divide {} ({})", dim, parts, axis, extent));
      axis_parts.push_back({axis, *range, part / rest});
      part %= rest;
      parts = rest;
    }
  }
  const auto part_of = [&](const std::string& axis) {
    return std::find_if(axis_parts.begin(), axis_parts.end(), [&](const AxisPart& p) { return p.axis == axis; });
  };
  const auto global_extent = [&](const std::string& axis) { return evaluate(axis, scope_); };
  const auto local_extent = [&](const std::string& axis) -> Expected<Index> {
    const auto part = part_of(axis);
    if (part != axis_parts.end()) return part->range.end - part->range.begin;
    return evaluate(axis, scope_);
  };
  RESHARD_TRY(const Expansion whole, expand(rule.view, rule.tensor, global_extent));
  RESHARD_TRY(const Expansion local, expand(rule.view, rule.tensor, local_extent));
  data.cut.whole = whole.shape;
  data.cut.shape = local.shape;
  if (!num_elements(whole.shape)) return usage_error("array extents overflow 64 bits");

  for (std::size_t i = 0; i < local.terms.size(); ++i) {
    const Term& term = local.terms[i];
    CutTerm cut;
    cut.tensor = term.tensor == kFill ? -1 : canon_->find(term.tensor);
    cut.offset = term.offset;
    cut.replica = rule.copied || !unsharded_coords.empty();
    for (const AxisPart& part : axis_parts) {
      const bool has =
          std::any_of(term.steps.begin(), term.steps.end(), [&](const Term::Step& s) { return s.axis == part.axis; });
      if (!has && part.part > 0) cut.replica = true;
    }
    for (const Term::Step& step : term.steps) {
      int axis = -1;
      if (cut.tensor >= 0) {
        axis = canon_->tensors()[static_cast<std::size_t>(cut.tensor)].find_axis(step.axis);
        if (axis < 0) {
          return usage_error(fmt::format("view '{}' names axis {}, which tensor {} does not have", rule.view_text,
                                         step.axis, term.tensor));
        }
      }
      const auto part = part_of(step.axis);
      cut.steps.push_back({axis, part != axis_parts.end() ? part->range.begin : 0, step.size, step.stride});
    }
    data.terms.push_back(std::move(cut));
  }

  // The first dimension that an axis shard cuts: its slices, term by term.
  for (std::size_t d = 0; d < local.shape.size() && data.cut.dim < 0; ++d) {
    Index local_unit = 1, whole_unit = 1;
    for (std::size_t k = d + 1; k < local.shape.size(); ++k) {
      local_unit *= std::max<Index>(local.shape[k], 1);
      whole_unit *= whole.shape[k];
    }
    bool cuts = false;
    std::vector<Cut::Slice> slices;
    for (std::size_t i = 0; i < local.terms.size(); ++i) {
      StridedCopy places;
      Index src = local.terms[i].offset / local_unit % std::max<Index>(local.shape[d], 1);
      Index dst = whole.terms[i].offset / whole_unit % std::max<Index>(whole.shape[d], 1);
      for (std::size_t s = 0; s < local.terms[i].steps.size(); ++s) {
        const Term::Step& here = local.terms[i].steps[s];
        if (here.dim != static_cast<int>(d)) continue;
        const auto part = part_of(here.axis);
        const Index whole_stride = whole.terms[i].steps[s].stride / whole_unit;
        if (part != axis_parts.end()) {
          cuts = true;
          dst += part->range.begin * whole_stride;
        }
        if (places.rank == kMaxRank) return usage_error("too many axes in one dimension");
        places.loops[places.rank++] = {here.size, here.stride / local_unit, whole_stride, 0};
      }
      places.src = src;
      places.dst = dst;
      if (places.volume() == 0) continue;
      coalesce(places);
      const bool run =
          places.rank > 0 && places.loops[places.rank - 1].src == 1 && places.loops[places.rank - 1].dst == 1;
      const Index length = run ? places.loops[places.rank - 1].size : 1;
      const int outer = run ? places.rank - 1 : places.rank;
      std::vector<Index> at(static_cast<std::size_t>(outer), 0);
      while (true) {
        Index begin = places.src, whole_begin = places.dst;
        for (int k = 0; k < outer; ++k) {
          begin += at[static_cast<std::size_t>(k)] * places.loops[k].src;
          whole_begin += at[static_cast<std::size_t>(k)] * places.loops[k].dst;
        }
        slices.push_back({begin, begin + length, whole_begin});
        int k = outer - 1;
        while (k >= 0 && ++at[static_cast<std::size_t>(k)] == places.loops[k].size)
          at[static_cast<std::size_t>(k--)] = 0;
        if (k < 0) break;
      }
    }
    if (cuts) {
      data.cut.dim = static_cast<int>(d);
      std::stable_sort(slices.begin(), slices.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
      // Parts that a later dimension tells apart repeat the same slice.
      const auto same = [](const auto& a, const auto& b) {
        return a.begin == b.begin && a.end == b.end && a.whole_begin == b.whole_begin;
      };
      slices.erase(std::unique(slices.begin(), slices.end(), same), slices.end());
      data.cut.slices = std::move(slices);
    }
  }

  // Range shards: of a dimension, then of the flat array.
  for (const ShardRule::Kind kind : {ShardRule::Kind::dim, ShardRule::Kind::flat}) {
    for (std::size_t m = 0; m < coords.size(); ++m) {
      for (const ShardRule& shard : rule.shards) {
        if (shard.mesh_dim != table_.mesh_dims[m] || shard.kind != kind) continue;
        Shape& shape = data.cut.shape;
        std::size_t d = static_cast<std::size_t>(shard.dim);
        if (kind == ShardRule::Kind::flat) {
          shape = {*num_elements(shape)};
          d = 0;
        }
        if (d >= shape.size())
          return usage_error(fmt::format("shards dimension {} of an array of {}", d, shape.size()));
        Index unit = 1;
        for (std::size_t k = d + 1; k < shape.size(); ++k) unit *= shape[k];
        const auto range = split_part(shape[d], mesh_sizes_[m], coords[m], table_.split);
        if (!range)
          return usage_error(
              fmt::format("{}={} does not divide dimension {} ({})", shard.mesh_dim, mesh_sizes_[m], d, shape[d]));
        data.ranges.push_back({shape[d] * unit, range->begin * unit, range->end * unit});
        shape[d] = range->end - range->begin;
        if (data.cut.dim < 0) {
          data.cut.dim = static_cast<int>(d);
          data.cut.slices = {{0, shape[d], range->begin}};
        }
      }
    }
  }
  return data;
}

Status Layout::enumerate(std::uint32_t first, std::uint32_t last, std::int32_t layer, std::int32_t expert, DType dtype,
                         Scope& here) {
  // Neighbours that are written value by value of an axis; one that stands apart begins a run at the inner axis.
  const auto run_end = [&](std::uint32_t from, bool RuleData::*fixed) {
    const auto begins = [&](std::uint32_t r) {
      return table_.rules[r].apart && (fixed == &RuleData::fixes_expert || !rules_[r].fixes_expert);
    };
    do ++from;
    while (from < last && rules_[from].*fixed && !begins(from));
    return from;
  };
  // In conditions an axis stands for the place on it, where there is one, and else for its size.
  const auto bind = [&](const char* axis, std::int32_t at) {
    const auto size = scope_.numbers.find(axis);
    if (at >= 0) {
      here.numbers[axis] = at;
    } else if (size != scope_.numbers.end()) {
      here.numbers[axis] = size->second;
    } else {
      here.numbers.erase(axis);
    }
  };
  for (std::uint32_t r = first; r < last;) {
    if (layer < 0 && rules_[r].fixes_layer) {
      const std::uint32_t end = run_end(r, &RuleData::fixes_layer);
      RESHARD_TRY(const Index layers, evaluate("layer", scope_));
      for (std::int32_t l = 0; l < layers; ++l) RESHARD_CHECK(enumerate(r, end, l, expert, dtype, here));
      r = end;
      continue;
    }
    if (expert < 0 && rules_[r].fixes_expert) {
      const std::uint32_t end = run_end(r, &RuleData::fixes_expert);
      RESHARD_TRY(const Index experts, evaluate("expert", scope_));
      for (std::int32_t e = 0; e < experts; ++e) RESHARD_CHECK(enumerate(r, end, layer, e, dtype, here));
      r = end;
      continue;
    }
    const ArrayRule& rule = table_.rules[r];
    RuleData& data = rules_[r];
    const auto is_there = [&](std::size_t tensor) {
      const std::vector<Index>& layers = canon_->tensors()[tensor].layers;
      return layer < 0 || layers.empty() || std::binary_search(layers.begin(), layers.end(), layer);
    };
    bool there = !data.cuts.empty() && std::all_of(data.tensors.begin(), data.tensors.end(), is_there);
    if (data.beside >= 0) there = there && is_there(static_cast<std::size_t>(data.beside));
    for (const std::string& condition : rule.where) {
      if (!there || !(mentions(condition, "layer") || mentions(condition, "expert"))) continue;
      bind("layer", layer);
      bind("expert", expert);
      RESHARD_TRY(there, holds(condition, here));
    }
    if (there) {
      Array array;
      array.rule = r;
      array.layer = layer;
      array.expert = expert;
      array.dtype = rule.dtype.empty() ? dtype : parse_dtype(rule.dtype).value_or(dtype);
      for (std::uint32_t c = 0; c < data.cuts.size(); ++c) {
        array.cut = c;
        if ((rule.alias >= 0 && !rule.copied) || !rule.buffer.empty()) {
          extras_.push_back({array, arrays_.size(), -1});
          continue;
        }
        data.arrays.push_back(static_cast<std::uint32_t>(arrays_.size()));
        arrays_.push_back(array);
      }
    }
    ++r;
  }
  return {};
}

// Which array does each alias repeat? The one of the same layer, expert and coordinates.
Status Layout::find_repeated() {
  for (Extra& extra : extras_) {
    const ArrayRule& rule = table_.rules[extra.array.rule];
    if (rule.alias < 0) continue;
    const RuleData& repeated = rules_[static_cast<std::size_t>(rule.alias)];
    for (const std::uint32_t a : repeated.arrays) {
      const Array& array = arrays_[a];
      if (array.layer == extra.array.layer && array.expert == extra.array.expert && array.cut == extra.array.cut) {
        extra.repeats = a;
      }
    }
    if (extra.repeats < 0) {
      return usage_error(
          fmt::format("format {}, array {}: the array that it repeats is not there", table_.format, rule.array));
    }
  }
  return {};
}

std::string Layout::filled(const std::string& pattern, const Array& array) const {
  const auto stage = [&]() -> Index {
    if (array.layer >= 0) {
      return array.layer < static_cast<Index>(placement_.layer_stage.size())
                 ? placement_.layer_stage[static_cast<std::size_t>(array.layer)]
                 : 0;
    }
    const auto slot = placement_.slot_stage.find(table_.rules[array.rule].stage);
    return slot != placement_.slot_stage.end() ? slot->second : mesh_.pp - 1;
  };
  const auto text = fill_in(pattern, [&](std::string_view name) -> std::optional<Index> {
    if (name == "layer") return array.layer;
    if (name == "expert") return array.expert;
    if (name == "layer.local") {
      const auto& stages = placement_.layer_stage;
      return std::count(stages.begin(), stages.begin() + std::min<std::ptrdiff_t>(array.layer, std::ssize(stages)),
                        stage());
    }
    const bool size = name.ends_with(".size");
    const std::string_view dim = size ? name.substr(0, name.size() - 5) : name;
    for (std::size_t m = 0; m < table_.mesh_dims.size(); ++m) {
      if (table_.mesh_dims[m] != dim) continue;
      if (size) return mesh_sizes_[m];
      if (dim == "pp" && (array.layer >= 0 || !table_.rules[array.rule].stage.empty())) return stage();
      return cut(array).coords[m];
    }
    const auto number = scope_.numbers.find(name);
    if (number == scope_.numbers.end()) return std::nullopt;
    return number->second;
  });
  return text ? *text : pattern;
}

std::string Layout::name(const Array& array) const { return filled(rule(array).array, array); }
std::string Layout::file(const Array& array) const { return filled(rule(array).file, array); }
std::string Layout::entry(const Array& array) const {
  const ArrayRule& here = rule(array);
  return filled(here.entry.empty() ? here.array : here.entry, array);
}

std::vector<bool> Layout::fusable(std::uint32_t t) const {
  const Tensor& tensor = canon_->tensors()[t];
  std::vector<bool> fuse(tensor.axes.empty() ? 0 : tensor.axes.size() - 1, true);
  for (std::size_t a = 0; a + 1 < tensor.axes.size(); ++a) {
    if (is_instance_axis(tensor.axes[a].name) || is_instance_axis(tensor.axes[a + 1].name)) fuse[a] = false;
  }
  for (const RuleData& rule : rules_) {
    if (std::find(rule.tensors.begin(), rule.tensors.end(), t) == rule.tensors.end() || rule.arrays.empty()) continue;
    const CutData& cut = rule.cuts.front();
    const bool is_strided =
        std::any_of(rule.cuts.begin(), rule.cuts.end(), [](const auto& c) { return !c.strides.empty(); });
    const auto dim_of = [&](const CutTerm::Step& step) {
      std::size_t d = cut.cut.shape.size();
      for (Index unit = 1; d > 0 && unit <= step.stride; --d) unit *= cut.cut.shape[d - 1];
      return d;
    };
    for (const CutTerm& term : cut.terms) {
      if (term.tensor != static_cast<int>(t)) continue;
      const auto step_of = [&](std::size_t axis) {
        return std::find_if(term.steps.begin(), term.steps.end(),
                            [&](const auto& s) { return s.axis == static_cast<int>(axis); });
      };
      for (std::size_t a = 0; a < fuse.size(); ++a) {
        const auto outer = step_of(a), inner = step_of(a + 1);
        if (outer == term.steps.end() || inner == term.steps.end()) {
          fuse[a] = false;
          continue;
        }
        const std::string& inner_name = tensor.axes[a + 1].name;
        if (std::find(rule.sharded_axes.begin(), rule.sharded_axes.end(), inner_name) != rule.sharded_axes.end())
          fuse[a] = false;
        if (outer->stride != inner->size * inner->stride) fuse[a] = false;
        if (is_strided && (!cut.ranges.empty() || dim_of(*outer) != dim_of(*inner))) fuse[a] = false;
        for (const RangeCut& range : cut.ranges) {
          // A range that is cut inside blocks must not be fused with what counts the blocks.
          if (inner->stride < range.modulus && outer->stride >= range.modulus) fuse[a] = false;
        }
      }
    }
  }
  return fuse;
}

std::vector<Piece> Layout::fused_pieces(const CutData& cut, std::uint32_t t, const Fusion& fusion) const {
  const Tensor& tensor = canon_->tensors()[t];
  std::vector<Piece> pieces;
  for (const CutTerm& term : cut.terms) {
    if (term.tensor != static_cast<int>(t)) continue;
    Piece piece;
    piece.replica = term.replica;
    piece.offset = term.offset;
    piece.rank = static_cast<int>(fusion.first.size());
    bool empty = false;
    for (int k = 0; k < piece.rank; ++k) {
      const int first = fusion.first[static_cast<std::size_t>(k)];
      const int end =
          k + 1 < piece.rank ? fusion.first[static_cast<std::size_t>(k) + 1] : static_cast<int>(tensor.axes.size());
      Index inner = 1;
      for (int a = first + 1; a < end; ++a) inner *= tensor.axes[static_cast<std::size_t>(a)].size;
      // Axes fixed by the array's name have no step; pieces() fills them in.
      for (const CutTerm::Step& step : term.steps) {
        if (step.axis == first) {
          piece.begin[k] = step.begin * inner;
          piece.size[k] = step.size * inner;
        }
        if (step.axis == end - 1) piece.stride[k] = step.stride;
        if (step.size == 0) empty = true;
      }
    }
    if (!empty) pieces.push_back(piece);
  }
  cut_ranges(cut.ranges, pieces);
  stretch(cut, pieces);
  return pieces;
}

void Layout::set_strides(std::uint32_t number, const std::vector<Index>& strides) {
  Array& array = arrays_[number];
  std::vector<CutData>& cuts = rules_[array.rule].cuts;
  for (std::uint32_t c = 0; c < cuts.size(); ++c) {
    if (cuts[c].cut.coords == cuts[array.cut].cut.coords && cuts[c].strides == strides) {
      array.cut = c;
      return;
    }
  }
  CutData cut = cuts[array.cut];
  cut.strides = strides;
  array.cut = static_cast<std::uint32_t>(cuts.size());
  cuts.push_back(std::move(cut));
}

Index Layout::reach(const Array& array) const {
  const CutData& cut = rules_[array.rule].cuts[array.cut];
  const Index elements = *num_elements(cut.cut.shape);
  if (cut.strides.empty() || elements == 0) return elements;
  Index reach = 1;
  for (std::size_t d = 0; d < cut.strides.size(); ++d) reach += (cut.cut.shape[d] - 1) * cut.strides[d];
  return reach;
}

// From positions in a dense array to those in a storage with other strides. A loop of a piece steps along one
// dimension.
void Layout::stretch(const CutData& cut, std::vector<Piece>& pieces) {
  if (cut.strides.empty()) return;
  const Shape& shape = cut.cut.shape;
  const auto map = [&](Index position) {
    Index stretched = 0, unit = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
      stretched += position / unit % shape[d] * cut.strides[d];
      unit *= shape[d];
    }
    return stretched;
  };
  for (Piece& piece : pieces) {
    piece.offset = map(piece.offset);
    for (int k = 0; k < piece.rank; ++k) {
      if (piece.size[k] > 1) piece.stride[k] = map(piece.stride[k]);
    }
  }
}

void Layout::cut_ranges(const std::vector<RangeCut>& ranges, std::vector<Piece>& pieces) {
  for (const RangeCut& range : ranges) {
    std::vector<Piece> kept;
    const Index block = range.high - range.low;
    for (const Piece& piece : pieces) {
      // Loops inside a block become a strided copy whose destination counts the box's elements row by row, so that the
      // destination of a part tells the box that is left; its canonical steps carry the axis numbers.
      StridedCopy inside;
      inside.src = piece.offset % range.modulus;
      Index unit = 1;
      for (int k = piece.rank; k-- > 0;) {
        if (piece.size[k] == 0 || piece.stride[k] >= range.modulus) continue;
        inside.loops[inside.rank++] = {piece.size[k], piece.stride[k], unit, k};
        unit *= piece.size[k];
      }
      std::vector<Loop> axes(inside.loops, inside.loops + inside.rank);
      order_by_src(inside);
      std::vector<StridedCopy> parts;
      cut_by_src(inside, range.low, range.high, parts);
      for (const StridedCopy& part : parts) {
        Piece rest = piece;
        rest.offset = piece.offset / range.modulus * block + part.src - range.low;
        for (const Loop& axis : axes) {
          const int k = static_cast<int>(axis.canonical);
          rest.begin[k] = piece.begin[k] + part.dst / axis.dst % axis.size;
          rest.size[k] = 1;
        }
        for (int i = 0; i < part.rank; ++i) rest.size[part.loops[i].canonical] = part.loops[i].size;
        for (int k = 0; k < piece.rank; ++k) {
          if (piece.stride[k] >= range.modulus) rest.stride[k] = piece.stride[k] / range.modulus * block;
        }
        kept.push_back(rest);
      }
    }
    pieces = std::move(kept);
  }
}

void Layout::pieces(std::uint32_t t, const Fusion& fusion, std::vector<Piece>& all) const {
  const Tensor& tensor = canon_->tensors()[t];
  int layer_axis = -1, expert_axis = -1;
  for (std::size_t k = 0; k < fusion.first.size(); ++k) {
    const std::string& name = tensor.axes[static_cast<std::size_t>(fusion.first[k])].name;
    if (name == "layer") layer_axis = static_cast<int>(k);
    if (name == "expert") expert_axis = static_cast<int>(k);
  }
  all.clear();
  for (const RuleData& rule : rules_) {
    if (std::find(rule.tensors.begin(), rule.tensors.end(), t) == rule.tensors.end() || rule.arrays.empty()) continue;
    std::vector<std::vector<Piece>> by_cut;
    for (const CutData& cut : rule.cuts) by_cut.push_back(fused_pieces(cut, t, fusion));
    for (const std::uint32_t number : rule.arrays) {
      const Array& array = arrays_[number];
      for (Piece piece : by_cut[array.cut]) {
        piece.array = number;
        if (rule.fixes_layer && layer_axis >= 0) {
          piece.begin[layer_axis] = array.layer;
          piece.size[layer_axis] = 1;
        }
        if (rule.fixes_expert && expert_axis >= 0) {
          piece.begin[expert_axis] = array.expert;
          piece.size[expert_axis] = 1;
        }
        all.push_back(piece);
      }
    }
  }
}

std::vector<Piece> Layout::fills(std::uint32_t number) const {
  const Array& array = arrays_[number];
  const CutData& data = rules_[array.rule].cuts[array.cut];
  std::vector<Piece> pieces;
  for (const CutTerm& term : data.terms) {
    if (term.tensor >= 0) continue;
    Piece piece;
    piece.array = number;
    piece.offset = term.offset;
    bool empty = false;
    for (const CutTerm::Step& step : term.steps) {
      piece.size[piece.rank] = step.size;
      piece.stride[piece.rank++] = step.stride;
      empty = empty || step.size == 0;
    }
    if (!empty) pieces.push_back(piece);
  }
  cut_ranges(data.ranges, pieces);
  stretch(data, pieces);
  for (Piece& piece : pieces) piece.array = number;
  return pieces;
}

}  // namespace reshard::layout
