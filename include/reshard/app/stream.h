// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/exec/executor.h"
#include "reshard/format/format.h"
#include "reshard/plan/plan.h"

namespace reshard::app {

/// What one rank of a stream did.
struct RankReport {
  std::string host;
  plan::Totals totals;
  exec::Progress busy;
  Index peak_rss_bytes = 0;
};

/// How a stream went.
struct StreamReport {
  plan::Route route = plan::Route::automatic;
  std::string route_reason;
  Engines::Use device{"none", "nothing was streamed"}, exchange = device;
  Index source_bytes = 0, target_bytes = 0;
  double seconds = 0;
  std::vector<RankReport> ranks;

  /// Bytes of target tensors over wall time.
  double bytes_per_second() const { return seconds > 0 ? static_cast<double>(target_bytes) / seconds : 0; }
};

nlohmann::ordered_json to_json(const layout::Mesh& mesh);
nlohmann::ordered_json to_json(const plan::Totals& totals);
nlohmann::ordered_json to_json(const StreamReport& report);

/// What `Options` says about the source.
format::SourceOptions source_options(const Options& options);

/// What `Options` says about plans of a stream of so many ranks.
plan::Options plan_options(const Options& options, int ranks);

/// The source of a command, opened; its notes are told. Collective.
Expected<format::Checkpoint> open_source(Context& context, const std::string& path,
                                         const format::SourceOptions& options);

/// Where the arrays of a checkpoint lie, its files counted from `first_file` on. Pure.
std::vector<plan::Place> places_of(const format::Checkpoint& checkpoint, std::uint32_t first_file = 0);

/// Dtype that each line of the layout's canonical tensors is stored in. Pure.
std::vector<DType> line_dtypes(const layout::Layout& layout);

/// A target without a format: every line an array of its own, one after the other in one file.
struct Canonical {
  std::shared_ptr<const layout::Layout> layout;
  std::vector<Index> lines;    ///< per array: the line it is
  std::vector<Index> offsets;  ///< per array: bytes in the file
  Index size = 0;
};

/// The canonical target of a checkpoint. `dtypes` has one per line; lines named in `first` come first, in that order.
/// Errors (usage): as Layout::predict. Pure.
Expected<Canonical> make_canonical(const format::Checkpoint& checkpoint, const std::vector<DType>& dtypes,
                                   const std::vector<Index>& first = {});

/// Estimate of the bytes that headers and layouts of a checkpoint (a target) hold in memory. Pure.
Index table_bytes(const format::Checkpoint& checkpoint);
Index table_bytes(const format::Target& target);
Index table_bytes(const Canonical& canonical);

/// Makes the plan on every rank and checks that all made the same. Errors: as Plan::make; (failed) ranks that disagree.
/// Collective.
Expected<plan::Plan> make_plan(Context& context, std::vector<plan::Transfer> transfers,
                               std::vector<plan::TargetFile> targets, const plan::Options& options);

struct Streamed {
  StreamReport report;
  std::vector<std::uint64_t> digests;  ///< per line, over all ranks
};

/// Executes a plan whose transfers read these checkpoints, in order, and checks that their files did not change
/// meanwhile. Errors: as execute; (input) a source that changed, or whose bytes do not have the CRC-32 that it states:
/// then `source_is_wrong`, if given, becomes true, on all ranks; (failed) a source that is gone. Collective.
Expected<Streamed> run_stream(Context& context, const plan::Plan& plan,
                              const std::vector<const format::Checkpoint*>& sources, exec::Sink& sink,
                              bool* source_is_wrong = nullptr);

/// Streams one checkpoint into its canonical target, cast to `dtypes`, and keeps the digests alone. Errors: as
/// make_plan, run_stream. Collective.
Expected<Streamed> stream_canonical(Context& context, const format::Checkpoint& checkpoint,
                                    const std::vector<DType>& dtypes, const Options& options);

}  // namespace reshard::app
