// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reshard/app/engines.h"
#include "reshard/base/index.h"
#include "reshard/layout/layout.h"
#include "reshard/plan/plan.h"

namespace reshard::app {

/// Everything that a user can ask for, with the defaults. A member has the name of its option.
struct Options {
  std::string src;  ///< checkpoint: folder, file, org/name[@rev] in the Hugging Face cache, synthetic:MODEL
  std::string dst;  ///< output path, `null:`, or the second checkpoint of diff

  // What the source is.
  std::string from;  ///< format; empty: detected
  Index step = -1;
  Index vocab_size = 0;
  std::string model, config_from, tokenizer_from;
  std::vector<std::string> passthrough, include, exclude;
  bool follow_symlinks = false;

  // What the target shall be.
  std::string to;
  layout::Mesh mesh;
  std::string dtype;
  std::vector<std::string> keep_dtype;
  std::optional<Index> max_shard_size;  ///< nothing: as the format says
  Index vocab_multiple = 1;
  std::string format_version;
  std::string params_style;

  // How it is done; none of these changes a byte.
  Index memory_budget = kGiB;
  plan::Route route = plan::Route::automatic;
  DeviceWish device = DeviceWish::automatic;
  ExchangeWish exchange = ExchangeWish::automatic;
  Index device_memory_budget = 0;  ///< 0: what the memory budget leaves for slots
  bool overwrite = false;
  bool resume = false;
  int parts = 1, part = 0;  ///< --part I/N: 0 <= part < parts
  bool dry_run = false;
  std::string config_dir;

  // plan
  int ranks = 0;  ///< 0: those of this job
  int ranks_per_node = 0;
  std::string machine;  ///< name or file of a description, whose times are predicted

  std::string out;  ///< jobs: folder for the outputs

  // verify, diff
  std::string against;
  std::string against_from;  ///< format of the second checkpoint; empty: detected
  double tolerance = 0;
};

}  // namespace reshard::app
