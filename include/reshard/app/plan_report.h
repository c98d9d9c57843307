// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/format/format.h"
#include "reshard/plan/plan.h"
#include "reshard/plan/prediction.h"

namespace reshard::app {

/// Runs (contiguous bytes of one copy) of at least `from_bytes` and less than `to_bytes`.
struct RunBucket {
  Index from_bytes = 0, to_bytes = 0;
  Index src_runs = 0, src_bytes = 0;
  Index dst_runs = 0, dst_bytes = 0;
};

/// What one rank will move. `sent_off_node` is the part of totals.bytes_sent that leaves its node.
struct RankPlan {
  plan::Totals totals;
  Index sent_off_node = 0;
};

/// Elements of a stored array that no weight fills.
struct Padding {
  std::string array;
  Index elements = 0;
};

/// Stored arrays whose values do not all survive a cast.
struct LossyCast {
  DType src = DType::f32, dst = DType::bf16;
  std::vector<std::string> arrays;  ///< of the target
};

/// How long it would take on a machine (--machine).
struct PredictedTime {
  std::string machine;
  plan::Device device = plan::Device::cpu;
  plan::Prediction prediction;
};

/// What a conversion will do; the executor's counters equal it.
struct PlanReport {
  std::string src, dst;
  std::string family, src_format, dst_format;
  layout::Mesh src_mesh, dst_mesh;
  Index num_src_arrays = 0, num_dst_arrays = 0;
  Index num_src_files = 0, num_dst_files = 0;

  int ranks_per_node = 0;
  std::vector<RankPlan> ranks;
  plan::Route route = plan::Route::direct;
  std::string route_reason;
  Index source_bytes = 0, target_bytes = 0, bytes_read = 0;
  double amplification = 1;
  std::string amplification_reason;  ///< empty where it is 1
  Index probe_bytes = 0;             ///< read to answer questions about the source, not counted above

  Index memory_budget = 0;
  Index table_bytes = 0, plan_bytes = 0, slot_bytes = 0;
  Index read_once_budget = 0;
  Index peak_bytes() const { return table_bytes + plan_bytes + slot_bytes; }

  Index num_operations = 0;
  Index replica_elements_skipped = 0;
  std::vector<RunBucket> runs;
  std::vector<std::string> dropped;
  std::vector<Padding> padding;
  Index filled_bytes = 0;  ///< of the target files: headers, padding, alignment
  std::vector<LossyCast> casts;
  std::uint64_t plan_hash = 0;
  std::optional<PredictedTime> predicted;
  double planning_s = 0;  ///< describing the target and planning, headers already read
};

/// "00f1e2d3c4b5a697".
std::string hash_text(std::uint64_t hash);

/// Casts of a plan that lose values. Pure.
std::vector<LossyCast> lossy_casts(const plan::Plan& plan, const layout::Layout& src, const layout::Layout& dst);

/// Plans a conversion for `options.ranks` ranks, and says what it will do. Touches nothing. Errors: as
/// open_checkpoint, describe_target, Plan::make, find_machine; with `options.dry_run` also as Claim::check. Collective;
/// the report is on rank 0.
Expected<PlanReport> plan(Context& context, const Options& options);

nlohmann::ordered_json to_json(const PlanReport& report);

}  // namespace reshard::app
