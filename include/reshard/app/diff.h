// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/app/stream.h"

namespace reshard::app {

/// How two tensors of the same shape differ. What has other bits has changed, as it has another digest: -0 and +0, or
/// two NaNs, by 0; else what is not finite by infinity, and it stays out of the means.
struct LineDifference {
  std::string name;
  Shape shape;
  Index elements = 0, changed = 0;
  double max_abs = 0, mean_abs = 0;
  double relative_l2 = 0;  ///< |a - b| / |a|; infinity where only a is zero
  double cosine = 1;       ///< 1 where both are zero

  double changed_share() const {
    return elements > 0 ? static_cast<double>(changed) / static_cast<double>(elements) : 0;
  }
};

/// A tensor that cannot be compared: on one side only, or of another shape.
struct Mismatch {
  std::string name;
  std::string reason;
};

struct DiffResult {
  std::string a, b;
  double tolerance = 0;
  std::vector<LineDifference> lines;
  std::vector<Mismatch> mismatches;
  StreamReport stream;

  bool within(const LineDifference& line) const {
    return line.changed == 0 || (tolerance > 0 && line.max_abs <= tolerance);
  }
  bool equal() const;  ///< no mismatch, and all lines within tolerance
};

/// Compares two checkpoints tensor by tensor, in any two formats and topologies; where dtypes differ, as f32.
/// Collective; the result is on rank 0.
Expected<DiffResult> diff(Context& context, const Options& options);

nlohmann::ordered_json to_json(const DiffResult& result);

}  // namespace reshard::app
