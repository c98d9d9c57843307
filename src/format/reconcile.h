// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>
#include <vector>

#include "differences.h"
#include "reshard/format/format.h"

namespace reshard::format {

/// Predicted arrays matched with the entries of a directory.
struct Match {
  std::vector<std::uint32_t> locations;   ///< entry of each array; kMissing where there is none
  std::vector<std::uint32_t> unexpected;  ///< entries that no array predicts, without ignored ones
  std::vector<std::uint32_t> ignored;     ///< entries that hold no weight
  Differences twice;                      ///< entries that stand for the same array
  static constexpr std::uint32_t kMissing = ~std::uint32_t{0};
};

/// Matches by file_key of the file and name of the entry. Entries of `dropped` are passed over. Pure.
Match match(const layout::Layout& layout, const Directory& directory, const Format& format,
            const std::set<std::uint32_t>& dropped);

/// Gives parts without elements (the last shards of a small array), which need not be stored, an entry without bytes.
/// Pure.
void add_empty_parts(const layout::Layout& layout, Match& match, Directory& directory);

/// Compares shapes and dtypes, takes over the dtypes that are stored, and tells all differences in one error (input);
/// `config_path` is where the prediction comes from. Pure.
Status compare(const Match& match, const Directory& directory, const Format& format, const std::string& config_path,
               layout::Layout& layout);

}  // namespace reshard::format
