// SPDX-License-Identifier: Apache-2.0
#include "nanotron_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "reshard/base/text.h"

namespace reshard::format {

namespace {

constexpr std::string_view kExtension = ".safetensors";

// Takes `word` from the front of `text`.
bool take(std::string_view& text, std::string_view word) {
  if (text.substr(0, word.size()) != word) return false;
  text.remove_prefix(word.size());
  return true;
}

bool take_number(std::string_view& text, Index& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0 || text.front() == '-') return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

// "rank-1-of-2"
bool take_rank(std::string_view& text, Index& rank, Index& size) {
  return take(text, "rank-") && take_number(text, rank) && take(text, "-of-") && take_number(text, size) && rank < size;
}

struct Bound {
  Index begin, end;
};

// "0,256,None" or "None,None,None"
std::optional<Bound> take_slice(std::string_view& text, Index extent) {
  if (take(text, "None,None,None")) return Bound{0, extent};
  Bound bound{};
  if (!take_number(text, bound.begin) || !take(text, ",") || !take_number(text, bound.end) || !take(text, ",None")) {
    return std::nullopt;
  }
  if (bound.begin > bound.end || bound.end > extent) return std::nullopt;
  return bound;
}

bool take_bounds(std::string_view& text, const Shape& extents, std::vector<Bound>& bounds) {
  for (std::size_t d = 0; d < extents.size(); ++d) {
    if (d > 0 && !take(text, "|")) return false;
    const auto bound = take_slice(text, extents[d]);
    if (!bound) return false;
    bounds.push_back(*bound);
  }
  return true;
}

Expected<std::string> value_of(const std::map<std::string, std::string>& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return input_error("metadata has no \"" + key + "\"");
  return found->second;
}

}  // namespace

std::optional<NanotronFile> NanotronFile::parse(std::string_view path) {
  NanotronFile file;
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return std::nullopt;
  file.folder = path.substr(0, slash + 1);
  std::string_view name = path.substr(slash + 1);
  if (!take(name, "model_") || name.size() <= kExtension.size()) return std::nullopt;
  if (name.substr(name.size() - kExtension.size()) != kExtension) return std::nullopt;
  name.remove_suffix(kExtension.size());

  const std::size_t suffix = name.find("_pp-rank-");
  std::string_view leaf = name.substr(0, suffix);
  if (suffix != std::string_view::npos) {
    std::string_view rest = name.substr(suffix);
    Place place;
    if (!take(rest, "_pp-") || !take_rank(rest, place.pp, place.pp_size) || !take(rest, "_tp-") ||
        !take_rank(rest, place.tp, place.tp_size)) {
      return std::nullopt;
    }
    if (take(rest, "_exp-")) {
      Index rank = 0, size = 0;
      if (!take_rank(rest, rank, size)) return std::nullopt;
      file.by_expert = true;
    }
    if (!rest.empty()) return std::nullopt;
    file.place = place;
    // Spring 2024: model_model_weight.safetensors_pp-rank-...
    if (leaf.size() > kExtension.size() && leaf.substr(leaf.size() - kExtension.size()) == kExtension) {
      leaf.remove_suffix(kExtension.size());
      take(leaf, "model_");
    }
  }
  if (leaf.empty()) return std::nullopt;
  file.leaf = leaf;
  return file;
}

std::string NanotronFile::key() const {
  std::string text = folder + "model_" + leaf;
  if (place) text += fmt::format("_tp-rank-{}-of-{}", place->tp, place->tp_size);
  return text + std::string(kExtension);
}

std::string NanotronFile::parameter() const {
  std::string name = folder.substr(folder.find('/') + 1) + leaf;
  std::replace(name.begin(), name.end(), '/', '.');
  return name;
}

std::vector<NanotronSlice> slices_of(const layout::Cut& cut) {
  std::vector<NanotronSlice> slices;
  for (const layout::Cut::Slice& part : cut.slices) {
    NanotronSlice slice;
    for (std::size_t d = 0; d < cut.shape.size(); ++d) {
      slice.dims.push_back(static_cast<int>(d) == cut.dim ? NanotronSlice::Range{part.begin, part.end, part.whole_begin}
                                                          : NanotronSlice::Range{0, cut.shape[d], 0});
    }
    slices.push_back(std::move(slice));
  }
  return slices;
}

std::string slices_text(const layout::Cut& cut) {
  const std::size_t dims = cut.shape.size();
  const bool is_sum = cut.slices.size() > 1;
  std::vector<std::string> pairs;
  for (const layout::Cut::Slice& part : cut.slices) {
    std::vector<std::string> local(dims, "None,None,None"), global(dims, "None,None,None");
    const auto d = static_cast<std::size_t>(cut.dim);
    if (is_sum) local[d] = fmt::format("{},{},None", part.begin, part.end);
    global[d] = fmt::format("{},{},None", part.whole_begin, part.whole_begin + part.end - part.begin);
    pairs.push_back(join(local, "|") + "#" + join(global, "|"));
  }
  return join(pairs, ";");
}

Expected<std::vector<NanotronSlice>> parse_slices(std::string_view text, const Shape& shape, const Shape& whole) {
  std::vector<NanotronSlice> slices;
  std::string_view rest = text;
  do {
    std::vector<Bound> local, global;
    if (!take_bounds(rest, shape, local) || !take(rest, "#") || !take_bounds(rest, whole, global)) {
      return input_error(
          fmt::format("local_global_slices_pairs at character {} is not \"begin,end,None|...#...\" within "
                      "the shapes {} and {}",
                      text.size() - rest.size(), tuple_text(shape), tuple_text(whole)));
    }
    NanotronSlice slice;
    for (std::size_t d = 0; d < local.size(); ++d) {
      if (local[d].end - local[d].begin != global[d].end - global[d].begin) {
        return input_error(fmt::format("local_global_slices_pairs maps {} rows to {}", local[d].end - local[d].begin,
                                       global[d].end - global[d].begin));
      }
      slice.dims.push_back({local[d].begin, local[d].end, global[d].begin});
    }
    slices.push_back(std::move(slice));
  } while (take(rest, ";"));
  if (!rest.empty()) return input_error("local_global_slices_pairs has text after its last pair");
  std::sort(slices.begin(), slices.end());
  return slices;
}

std::string tuple_text(const Shape& shape) {
  return shape.size() == 1 ? fmt::format("({},)", shape[0]) : fmt::format("({})", fmt::join(shape, ", "));
}

Expected<Shape> parse_tuple(std::string_view text) {
  const Error error =
      input_error(fmt::format("unsharded_shape \"{}\" is not a tuple of integers", text.substr(0, 200)));
  Shape shape;
  std::string_view rest = text;
  if (!take(rest, "(")) return error;
  while (!take(rest, ")")) {
    Index extent = 0;
    if (take(rest, "np.int64(")) {
      if (!take_number(rest, extent) || !take(rest, ")")) return error;
    } else if (!take_number(rest, extent)) {
      return error;
    }
    shape.push_back(extent);
    if (take(rest, ",")) take(rest, " ");
    if (shape.size() > 32) return error;
  }
  if (!rest.empty()) return error;
  return shape;
}

std::map<std::string, std::string> sharded_metadata(const layout::Cut& cut, const std::string& version) {
  return {{"version", version},
          {"local_global_slices_pairs", slices_text(cut)},
          {"unsharded_shape", tuple_text(cut.whole)}};
}

Status check_metadata(const std::map<std::string, std::string>& metadata, const layout::Cut& cut) {
  RESHARD_TRY(const std::string whole_text, value_of(metadata, "unsharded_shape"));
  RESHARD_TRY(const Shape whole, parse_tuple(whole_text));
  if (whole != cut.whole) {
    return input_error("unsharded_shape is " + whole_text + ", expected " + tuple_text(cut.whole));
  }
  RESHARD_TRY(const std::string pairs, value_of(metadata, "local_global_slices_pairs"));
  RESHARD_TRY(const std::vector<NanotronSlice> slices, parse_slices(pairs, cut.shape, cut.whole));
  std::vector<NanotronSlice> expected = slices_of(cut);
  std::sort(expected.begin(), expected.end());
  if (slices != expected) {
    return input_error("local_global_slices_pairs is " + pairs.substr(0, 300) + ", expected " + slices_text(cut));
  }
  return {};
}

std::vector<Index> place_by_cost(const std::vector<Index>& costs, Index stages) {
  // The shares are floating point, as where they come from: a block on the edge must fall on the same side.
  const auto total = static_cast<double>(std::accumulate(costs.begin(), costs.end(), Index{0}));
  std::vector<Index> stage_of;
  Index stage = 0, sum = 0;
  for (const Index cost : costs) {
    sum += cost;
    stage_of.push_back(stage);
    if (static_cast<double>(sum) > total * (static_cast<double>(stage + 1) / static_cast<double>(stages))) ++stage;
  }
  return stage_of;
}

}  // namespace reshard::format
