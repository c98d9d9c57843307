// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/layout/layout.h"

namespace reshard::format {

/// What the path of a weight file says:
/// model/model/decoder/0/.../model_weight_pp-rank-0-of-2_tp-rank-1-of-2.safetensors.
struct NanotronFile {
  std::string folder;  ///< with the slash at its end
  std::string leaf;    ///< "weight", "bias", ...
  struct Place {
    Index pp = 0, pp_size = 1, tp = 0, tp_size = 1;
  };
  std::optional<Place> place;  ///< of a parameter that is sharded (even over one rank)
  bool by_expert = false;      ///< has an exp-rank part

  /// Also accepts the names of spring 2024 that repeat object type and extension. Nothing if the path is no weight
  /// file.
  static std::optional<NanotronFile> parse(std::string_view path);
  /// The path without the pipeline rank, which nobody can predict, in current spelling.
  std::string key() const;
  /// Name of the parameter: "model.decoder.0. ... .weight".
  std::string parameter() const;
};

/// Part of a sharded file along every dimension: local rows [begin, end) are the global rows from `global` on.
struct NanotronSlice {
  struct Range {
    Index begin, end, global;
    auto operator<=>(const Range&) const = default;
  };
  std::vector<Range> dims;
  auto operator<=>(const NanotronSlice&) const = default;
};

/// Slices of a stored array, in the order of the file's rows. Pure.
std::vector<NanotronSlice> slices_of(const layout::Cut& cut);

/// The text of `local_global_slices_pairs`: dimensions that are not cut say None. Pure.
std::string slices_text(const layout::Cut& cut);
/// Slices in rising order; None is replaced by the extents of `shape` and `whole`. Errors (input): not of that grammar,
/// another number of dimensions, a step, a range outside its array. Pure.
Expected<std::vector<NanotronSlice>> parse_slices(std::string_view text, const Shape& shape, const Shape& whole);

/// Python's text of a tuple: "(1024, 512)", "(1024,)". Pure.
std::string tuple_text(const Shape& shape);
/// Also accepts "(np.int64(1024), 512)". Errors (input). Pure.
Expected<Shape> parse_tuple(std::string_view text);

/// The three metadata keys of a sharded file.
std::map<std::string, std::string> sharded_metadata(const layout::Cut& cut, const std::string& version);
/// Errors (input): a file that is not sharded as `cut` says, naming the key. Pure.
Status check_metadata(const std::map<std::string, std::string>& metadata, const layout::Cut& cut);

/// Pipeline placement by cost: the block that crosses a stage's share of the total still belongs to it. `costs` are
/// those of embedding, decoder layers, final norm, head; returns the stage of each. Pure.
std::vector<Index> place_by_cost(const std::vector<Index>& costs, Index stages);

}  // namespace reshard::format
