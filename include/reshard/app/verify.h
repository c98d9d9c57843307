// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/app/stream.h"

namespace reshard::app {

/// One thing that verify looked at.
struct Check {
  enum class Outcome { passed, failed, skipped };
  std::string name;  ///< "structure", "archives", "replicas", "record", "source"
  Outcome outcome = Outcome::passed;
  std::string detail;                 ///< what was compared, or why it was not
  std::vector<std::string> problems;  ///< one line each
};

struct VerifyResult {
  std::string checkpoint, against;
  std::vector<Check> checks;
  StreamReport stream;

  bool passed() const;
};

/// Checks a checkpoint: its structure, what else its files say of themselves, that replicas agree, its digests against
/// those it was written with and against those of `options.against` (cast to the dtypes of the checkpoint). What is
/// wrong is in the result, not an error. Collective.
Expected<VerifyResult> verify(Context& context, const Options& options);

nlohmann::ordered_json to_json(const VerifyResult& result);

}  // namespace reshard::app
