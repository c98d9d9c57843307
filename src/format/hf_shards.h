// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "reshard/base/index.h"

namespace reshard::format {

/// Deals arrays of these byte sizes to files of at most `limit` bytes, in order, as the Hugging Face writers do: an
/// array that does not fit closes the current file; one that is larger than the limit gets a file of its own, in its
/// place of the order, without closing the current one. Returns the arrays of each file. Pure.
std::vector<std::vector<std::size_t>> deal_to_shards(const std::vector<Index>& sizes, Index limit);

/// "model.safetensors" for the only file, else "model-00002-of-00005.safetensors". Pure.
std::string shard_name(std::size_t number, std::size_t total);

/// model.safetensors.index.json: keys sorted, indent 2, newline.
struct ShardIndex {
  Index total_parameters = 0;
  Index total_size = 0;                           ///< bytes of the arrays
  std::map<std::string, std::string> weight_map;  ///< array -> file

  std::string to_text() const;
};

}  // namespace reshard::format
