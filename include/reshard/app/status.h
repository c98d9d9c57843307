// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"
#include "reshard/model/library.h"

namespace reshard::app {

/// How conversions stand, from files alone.
struct StatusResult {
  enum class State {
    waiting,  ///< not begun
    running,
    stopped,  ///< interrupted, killed or lost: --resume goes on
    failed,   ///< ended by an error; resumable as well
    done,
  };
  struct Part {
    int part = 0, parts = 1;
    State state = State::waiting;
    std::string host, job;
    Index bytes = 0;       ///< of the part; 0: not known
    Index bytes_done = 0;  ///< written, durable or on the way
    double bytes_per_second = 0;
    double seconds_left = -1;  ///< -1: not known
    std::string error;
  };
  struct Job {
    std::string dst;
    Index line = 0;  ///< of the jobs file, from 1; 0: none
    State state = State::waiting;
    Index bytes = 0, bytes_done = 0;  ///< sums of the parts
    double bytes_per_second = 0;
    double seconds_left = -1;
    std::string error;
    std::vector<Part> parts;  ///< of one that is begun and not done
  };
  std::vector<Job> jobs;

  Index count(State state) const;
};

std::string_view to_string(StatusResult::State state);

/// Of a DST, of all that stand, grow or failed in a folder (which may be none yet), or of every line of a jobs file
/// (NAME.jsonl). Errors (usage): there is nothing of the kind. Local.
Expected<StatusResult> status(const std::string& path, const model::Library& library);

nlohmann::ordered_json to_json(const StatusResult& result);

}  // namespace reshard::app
