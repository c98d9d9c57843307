// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "conversion.h"
#include "output.h"
#include "reshard/app/machine.h"
#include "reshard/base/text.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr Index kRunBuckets[] = {0, 256, 4 * kKiB, 64 * kKiB, kMiB, 16 * kMiB};

/// Length of the runs of a copy on one side, in elements. The loops are ordered by falling stride of that side.
template <class Stride>
Index run_elements(const layout::StridedCopy& copy, Stride stride) {
  Index run = 1;
  for (int k = copy.rank; k-- > 0;) {
    if (copy.loops[k].size == 1) continue;
    if (stride(copy.loops[k]) != run) break;
    run *= copy.loops[k].size;
  }
  return run;
}

RunBucket& bucket_of(std::vector<RunBucket>& buckets, Index bytes) {
  std::size_t i = buckets.size() - 1;
  while (i > 0 && bytes < buckets[i].from_bytes) --i;
  return buckets[i];
}

std::vector<RunBucket> count_runs(const plan::Plan& plan, const layout::Layout& src, const layout::Layout& dst) {
  std::vector<RunBucket> buckets;
  for (std::size_t i = 0; i < std::size(kRunBuckets); ++i) {
    const Index to = i + 1 < std::size(kRunBuckets) ? kRunBuckets[i + 1] : 0;
    buckets.push_back({kRunBuckets[i], to, 0, 0, 0, 0});
  }
  for (const plan::Operation& operation : plan.operations().all()) {
    layout::StridedCopy copy = plan.operations().strided(operation);
    const Index volume = copy.volume();
    layout::order_by_src(copy);
    const Index src_run = run_elements(copy, [](const layout::Loop& loop) { return loop.src; });
    const Index src_element = bytes_of(src.arrays()[operation.src_array].dtype);
    RunBucket& from = bucket_of(buckets, src_run * src_element);
    from.src_runs += volume / src_run;
    from.src_bytes += volume * src_element;
    layout::order_by_dst(copy);
    const Index dst_run = run_elements(copy, [](const layout::Loop& loop) { return loop.dst; });
    const Index dst_element = bytes_of(dst.arrays()[operation.dst_array].dtype);
    RunBucket& to = bucket_of(buckets, dst_run * dst_element);
    to.dst_runs += volume / dst_run;
    to.dst_bytes += volume * dst_element;
  }
  return buckets;
}

/// Fill of the target's arrays, summed over the shards of one array.
std::vector<Padding> count_padding(const layout::Layout& layout) {
  std::vector<Padding> all;
  std::map<std::string, std::size_t> by_name;
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const std::vector<layout::Piece> fills = layout.fills(a);
    if (fills.empty()) continue;
    Index elements = 0;
    for (const layout::Piece& piece : fills) {
      Index volume = 1;
      for (int k = 0; k < piece.rank; ++k) volume *= piece.size[k];
      elements += volume;
    }
    const std::string name = layout.name(layout.arrays()[a]);
    const auto [at, fresh] = by_name.emplace(name, all.size());
    if (fresh) all.push_back({name, 0});
    all[at->second].elements += elements;
  }
  return all;
}

/// What one rank will move, by spelling out its rounds; `predictor`, if there is one, gets to know them.
RankPlan spell_out(const plan::Plan& plan, int rank, int ranks_per_node, plan::Predictor* predictor) {
  const std::unique_ptr<plan::Schedule> schedule = plan.schedule(rank);
  RankPlan result;
  result.totals.rounds = schedule->num_rounds();
  for (Index i = 0; i < result.totals.rounds; ++i) {
    const plan::Round round = schedule->round(i);
    if (predictor != nullptr) predictor->add(rank, i, round);
    for (const plan::Read& read : round.reads) result.totals.bytes_read += read.length;
    for (const plan::Write& write : round.writes) result.totals.bytes_written += write.length;
    for (const plan::Message& message : round.receives) result.totals.bytes_received += message.length;
    for (const plan::Message& message : round.sends) {
      result.totals.bytes_sent += message.length;
      if (message.peer / ranks_per_node != rank / ranks_per_node) result.sent_off_node += message.length;
    }
  }
  return result;
}

PlanReport report_of(const Conversion& conversion, const Options& options, const plan::Plan& plan,
                     const std::optional<plan::Machine>& machine) {
  const format::Checkpoint& checkpoint = conversion.checkpoint;
  const format::Target& target = conversion.target;
  PlanReport report;
  report.src = options.src;
  report.dst = conversion.dst;
  report.family = checkpoint.probe.spec.family;
  report.src_format = checkpoint.format->name();
  report.dst_format = target.format->name();
  report.src_mesh = checkpoint.probe.mesh;
  report.dst_mesh = target.layout->mesh();
  report.num_src_arrays = std::ssize(checkpoint.layout->arrays());
  report.num_dst_arrays = std::ssize(target.layout->arrays());
  report.num_src_files = std::ssize(checkpoint.probe.directory.files);
  report.num_dst_files = std::ssize(target.files);

  report.ranks_per_node = options.ranks_per_node > 0 ? options.ranks_per_node : plan.ranks();
  std::optional<plan::Predictor> predictor;
  if (machine) {
    // GPUs are used where the machine has them.
    const bool on_gpus = machine->gpus_per_node > 0 && options.device != DeviceWish::cpu;
    const plan::Device device = on_gpus ? plan::Device::cuda : plan::Device::cpu;
    report.predicted = {options.machine, device, {}};
    predictor.emplace(*machine, plan::Job{.ranks = plan.ranks(),
                                          .ranks_per_node = report.ranks_per_node,
                                          .device = device,
                                          .src_files = report.num_src_files,
                                          .dst_files = report.num_dst_files,
                                          .slot_bytes = plan.slot_memory_bytes(),
                                          .arrays = report.num_src_arrays + report.num_dst_arrays});
  }
  for (int rank = 0; rank < plan.ranks(); ++rank) {
    report.ranks.push_back(spell_out(plan, rank, report.ranks_per_node, predictor ? &*predictor : nullptr));
    report.bytes_read += report.ranks.back().totals.bytes_read;
  }
  if (predictor) report.predicted->prediction = predictor->finish();
  report.route = plan.route();
  report.route_reason = plan.route_reason();
  report.source_bytes = plan.source_bytes();
  report.target_bytes = plan.target_bytes();
  report.probe_bytes = checkpoint.probe.bytes_read;
  report.amplification =
      report.source_bytes > 0 ? static_cast<double>(report.bytes_read) / static_cast<double>(report.source_bytes) : 1.0;

  report.memory_budget = options.memory_budget;
  report.table_bytes = conversion.table_bytes();
  report.plan_bytes = plan.memory_bytes();
  report.slot_bytes = plan.slot_memory_bytes();
  report.read_once_budget = plan.read_once_budget();
  if (report.amplification > plan::kReadOnce) {
    report.amplification_reason =
        report.read_once_budget > report.memory_budget
            ? fmt::format("--memory-budget {} is below {}, with which every byte is read once",
                          describe_bytes(report.memory_budget), describe_bytes(report.read_once_budget))
            : "ranks that write parts of one stripe each read it, and short runs are read with the gaps between them";
  }

  report.num_operations = std::ssize(plan.operations().all());
  report.replica_elements_skipped = plan.operations().replicas_skipped();
  report.runs = count_runs(plan, *checkpoint.layout, *target.layout);
  report.dropped = checkpoint.dropped;
  report.padding = count_padding(*target.layout);
  report.filled_bytes = report.target_bytes;
  for (const RunBucket& bucket : report.runs) report.filled_bytes -= bucket.dst_bytes;
  report.casts = lossy_casts(plan, *checkpoint.layout, *target.layout);
  report.plan_hash = plan.hash();
  return report;
}

}  // namespace

std::string hash_text(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

std::vector<LossyCast> lossy_casts(const plan::Plan& plan, const layout::Layout& src, const layout::Layout& dst) {
  std::map<std::pair<DType, DType>, LossyCast> casts;
  std::set<std::string> named;
  std::int64_t last = -1;
  for (const plan::Operation& operation : plan.operations().all()) {
    if (operation.dst_array == last) continue;  // by target array
    const DType from = src.arrays()[operation.src_array].dtype, to = dst.arrays()[operation.dst_array].dtype;
    if (is_lossless(from, to)) continue;
    last = operation.dst_array;
    const std::string name = dst.name(dst.arrays()[operation.dst_array]);
    if (!named.insert(name).second) continue;
    LossyCast& cast = casts[{from, to}];
    cast.src = from;
    cast.dst = to;
    cast.arrays.push_back(name);
  }
  std::vector<LossyCast> all;
  for (auto& [dtypes, cast] : casts) all.push_back(std::move(cast));
  return all;
}

Expected<PlanReport> plan(Context& context, const Options& options) {
  RESHARD_TRY(const std::unique_ptr<Conversion> conversion, describe_conversion(context, options));
  Expected<PlanReport> report{PlanReport{}};
  if (context.comm.rank() == 0) {
    report = [&]() -> Expected<PlanReport> {
      std::optional<plan::Machine> machine;
      if (!options.machine.empty()) {
        RESHARD_TRY(machine, find_machine(options.machine));
        if (options.device == DeviceWish::cuda && machine->gpus_per_node == 0) {
          return usage_error(fmt::format("--device cuda: the machine {} has no GPUs", options.machine));
        }
      }
      const auto begin = std::chrono::steady_clock::now();
      const int ranks = options.ranks > 0 ? options.ranks : context.comm.size();
      RESHARD_TRY(const plan::Plan plan, plan::Plan::make(conversion->transfers(), conversion->target_files(),
                                                          conversion->plan_options(options, ranks)));
      const double planning_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      if (options.dry_run && conversion->writes()) {
        RESHARD_CHECK(job::Claim::check(claim_request(context, options, *conversion, plan.hash())));
      }
      tell_casts(context, *conversion, plan);
      PlanReport result = report_of(*conversion, options, plan, machine);
      result.planning_s = planning_s;
      return result;
    }();
  }
  RESHARD_CHECK(comm::agree(context.comm, report ? Status{} : Status{report.error()}));
  return report;
}

Json to_json(const PlanReport& report) {
  Json ranks = Json::array();
  for (const RankPlan& rank : report.ranks) {
    Json one = to_json(rank.totals);
    one["bytes_sent_off_node"] = rank.sent_off_node;
    ranks.push_back(std::move(one));
  }
  Json runs = Json::array();
  for (const RunBucket& bucket : report.runs) {
    runs.push_back({{"from_bytes", bucket.from_bytes},
                    {"to_bytes", bucket.to_bytes > 0 ? Json(bucket.to_bytes) : Json(nullptr)},
                    {"source_runs", bucket.src_runs},
                    {"source_bytes", bucket.src_bytes},
                    {"target_runs", bucket.dst_runs},
                    {"target_bytes", bucket.dst_bytes}});
  }
  Json padding = Json::array();
  for (const Padding& one : report.padding) padding.push_back({{"array", one.array}, {"elements", one.elements}});
  Json casts = Json::array();
  for (const LossyCast& cast : report.casts) {
    casts.push_back({{"from", to_string(cast.src)}, {"to", to_string(cast.dst)}, {"arrays", cast.arrays}});
  }
  Json document = {{"command", "plan"},
                   {"source",
                    {{"path", report.src},
                     {"format", report.src_format},
                     {"family", report.family},
                     {"mesh", to_json(report.src_mesh)},
                     {"files", report.num_src_files},
                     {"arrays", report.num_src_arrays},
                     {"bytes", report.source_bytes}}},
                   {"target",
                    {{"path", report.dst},
                     {"format", report.dst_format},
                     {"mesh", to_json(report.dst_mesh)},
                     {"files", report.num_dst_files},
                     {"arrays", report.num_dst_arrays},
                     {"bytes", report.target_bytes}}},
                   {"ranks_per_node", report.ranks_per_node},
                   {"ranks", std::move(ranks)},
                   {"route", plan::to_string(report.route)},
                   {"route_reason", report.route_reason},
                   {"bytes_read", report.bytes_read},
                   {"probe_bytes", report.probe_bytes},
                   {"read_amplification", report.amplification},
                   {"read_amplification_reason", report.amplification_reason},
                   {"memory",
                    {{"budget_bytes", report.memory_budget},
                     {"table_bytes", report.table_bytes},
                     {"plan_bytes", report.plan_bytes},
                     {"slot_bytes", report.slot_bytes},
                     {"peak_bytes", report.peak_bytes()},
                     {"read_once_budget_bytes", report.read_once_budget}}},
                   {"operations", report.num_operations},
                   {"replica_elements_skipped", report.replica_elements_skipped},
                   {"runs", std::move(runs)},
                   {"dropped", report.dropped},
                   {"padding", std::move(padding)},
                   {"filled_bytes", report.filled_bytes},
                   {"lossy_casts", std::move(casts)},
                   {"plan_hash", hash_text(report.plan_hash)},
                   {"planning_seconds", report.planning_s}};
  if (report.predicted) {
    document["prediction"] = {{"machine", report.predicted->machine}, {"device", to_string(report.predicted->device)}};
    document["prediction"].update(to_json(report.predicted->prediction));
  }
  return document;
}

}  // namespace reshard::app
