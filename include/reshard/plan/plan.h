// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/plan/operations.h"
#include "reshard/plan/round.h"

namespace reshard::plan {

/// Bytes [k * kSpanBytes, (k + 1) * kSpanBytes) of a target file are span k: the unit of ownership and of the journal.
/// It depends on the target alone, never on ranks, parts, budget, route or device.
inline constexpr Index kSpanBytes = 16 * kMiB;

/// Up to this read amplification the sources count as read once.
inline constexpr double kReadOnce = 1.01;

enum class Route {
  automatic,
  direct,    ///< the owner of a group of spans reads its sources itself
  exchange,  ///< ranks read even stripes and send; ranks own runs of whole files
};
std::string_view to_string(Route route);

/// A target file: its size, and the bytes in it that no array fills. Bytes that neither arrays nor constants fill are
/// zero.
struct TargetFile {
  Index size = 0;
  struct Constant {
    Index offset;
    std::string_view bytes;  ///< must outlive the plan and its schedules
  };
  std::vector<Constant> constants;
};

/// Sizes in bytes that shape a plan. Tests use small ones, so that small models have many spans and rounds.
struct Sizes {
  Index span = kSpanBytes;
  Index round = 32 * kMiB;          ///< of a round, where neither a small job nor the budget makes it smaller
  Index small_round = 8 * kMiB;     ///< a small job makes it no smaller than this
  Index smallest_round = 2 * kMiB;  ///< the budget makes it no smaller than this
  Index short_run = kMiB;           ///< reads below this cost more than their bytes
  Index bridged_gap = 64 * kKiB;    ///< a read may bridge a gap of this size
  Index finest = 64 * kKiB;         ///< smallest part of a span that is made at one time
  Index page = 4096;                ///< unit of direct I/O
};

struct Options {
  int ranks = 1;
  Index memory_budget = kGiB;                             ///< bytes per rank, for tables, plan and slots
  Index table_bytes = 0;                                  ///< what directories and layouts hold already
  Index slot_budget = std::numeric_limits<Index>::max();  ///< bytes per rank for slots alone: of a device's memory
  Route route = Route::automatic;
  /// Of so many parts of the work, each planned without the others, this one. A part is whole groups of spans; which
  /// ones depends on the two layouts and the number of parts alone.
  int parts = 1, part = 0;
  /// Spans that need not be made again, by target file; empty: none.
  std::vector<std::vector<bool>> done = {};
  /// The second half of the target files repeats the first (two sources side by side): equal chunks go into one round.
  bool twins = false;
  Sizes sizes = {};
};

/// The whole recipe: which rank reads, moves and writes what, in which order. A value; the same on all ranks.
class Plan {
 public:
  /// Errors (input, usage): as Operations::intersect; a budget that is too small, naming the smallest that works. Pure.
  static Expected<Plan> make(std::vector<Transfer> transfers, std::vector<TargetFile> targets, const Options& options);
  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;
  ~Plan();

  Route route() const;  ///< the one chosen
  std::string route_reason() const;
  int ranks() const;
  const Operations& operations() const;
  /// The work of one rank. The plan must outlive it. Local, pure.
  std::unique_ptr<Schedule> schedule(int rank) const;
  /// What one rank will move, by spelling out its rounds: the executor's counters must equal it. Local, pure.
  Totals totals(int rank) const;

  Index source_bytes() const;  ///< source bytes that this plan's spans need, each once, with the gaps that are read
  Index target_bytes() const;  ///< bytes of this plan's spans: those of its part that are not done
  Index slot_memory_bytes() const;  ///< of one rank, at the depth chosen
  Index memory_bytes() const;       ///< of the plan itself
  /// The smallest memory budget with which this route reads each source byte once (amplification <= 1.01); 0: none
  /// does. Costs several plannings.
  Index read_once_budget() const;
  /// Rank that writes a span; -1: none, it is done or another part's.
  int owner(std::uint32_t target_file, Index span) const;

  /// Hash of the copy ops and target files: equal for every job size, part, budget and route. The first call walks over
  /// all ops.
  std::uint64_t hash() const;
  /// Hash of hash(), route, owners and rounds: what all ranks must agree on before the first read.
  std::uint64_t schedule_hash() const;

 private:
  struct State;
  explicit Plan(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace reshard::plan
