// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/index.h"

namespace reshard::format {

/// Deals arrays of these byte sizes to files of at most `limit` bytes, in order, as the Hugging Face writers do: an
/// array that does not fit closes the current file; one that is larger than the limit gets a file of its own, in its
/// place of the order, without closing the current one. Returns the arrays of each file. Pure.
std::vector<std::vector<std::size_t>> deal_to_shards(const std::vector<Index>& sizes, Index limit);

/// How Hugging Face names the weight files of a container.
struct ShardNames {
  std::string_view stem, extension;  ///< "model", ".safetensors"

  std::string single() const;  ///< model.safetensors
  std::string index() const;   ///< model.safetensors.index.json
  /// single() for the only file, else "model-00002-of-00005.safetensors".
  std::string shard(std::size_t number, std::size_t total) const;
  bool is_shard(std::string_view file) const;  ///< of such a name, of any number and total
};

/// nullptr: it stores no files in that container. Pure.
const ShardNames* shard_names(std::string_view container);
/// All of them, the preferred one first.
const std::vector<ShardNames>& all_shard_names();

/// The index beside several files: keys sorted, indent 2, newline.
struct ShardIndex {
  Index total_parameters = 0;
  Index total_size = 0;                           ///< bytes of the arrays, those with two names once
  std::map<std::string, std::string> weight_map;  ///< array -> file

  std::string to_text() const;
};

}  // namespace reshard::format
