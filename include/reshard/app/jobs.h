// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/options.h"

namespace reshard::app {

/// A conversion for each of many checkpoints.
struct JobList {
  std::vector<nlohmann::ordered_json> jobs;  ///< job files: {"command": "convert", "src", "dst", options ...}
};

/// Jobs for the checkpoints below options.src that match the pattern options.dst, in the order of their numbers, each
/// to a path of its own in options.out, which is made; those whose output is done already with the same options are
/// left out. `given` are the options of `convert` as keys of a job file. Tells what matches and is no checkpoint.
/// Errors (usage): nothing matches, two outputs would have one name, no --to or --out. Rank 0 tells. Local.
Expected<JobList> list_jobs(const Context& context, const Options& options, const nlohmann::ordered_json& given);

nlohmann::ordered_json to_json(const JobList& list);

}  // namespace reshard::app
