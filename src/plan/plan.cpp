// SPDX-License-Identifier: Apache-2.0
#include "reshard/plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <mutex>
#include <numeric>
#include <set>

#include "reshard/base/hash.h"
#include "reshard/base/text.h"
#include "rounds.h"

namespace reshard::plan {
namespace {

// So many rounds of a rank are many: more of them had better be larger. Messages shrink with rounds.
constexpr Index kManyAlone = 256, kManyTogether = 64;

constexpr std::int32_t kNobody = -1;

/// How rounds are cut.
struct Attempt {
  Index round_bytes;
  bool force;  ///< what is linked too
};

/// Rounds of `largest` bytes, and the smaller ones to try after them.
std::vector<Index> round_sizes(Index largest, const Sizes& sizes) {
  std::vector<Index> tries;
  for (Index bytes = largest; bytes > sizes.smallest_round; bytes /= 4) tries.push_back(bytes);
  tries.push_back(sizes.smallest_round);
  return tries;
}

/// The smaller of both, where 0 is nothing yet.
void keep_least(Index& least, Index needs) { least = least == 0 ? needs : std::min(least, needs); }

using Rounds = std::vector<CutRound>;

/// Deals things of these sizes to `count` takers, in order and about evenly: each takes what brings it nearest to its
/// share of what is left. Calls take(thing, taker).
template <class Take>
void deal_evenly(const std::vector<Index>& sizes, int count, Take&& take) {
  Index left = std::accumulate(sizes.begin(), sizes.end(), Index{0});
  int taker = 0;
  Index taken = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const bool next = taken > 0 && (taken + sizes[i] / 2) * (count - taker) > left;
    if (next && taker + 1 < count) {
      left -= taken;
      taken = 0;
      ++taker;
    }
    take(i, taker);
    taken += sizes[i];
  }
}

/// Where the source arrays lie that any op reads.
std::vector<Range> used_arrays(const Inputs& inputs) {
  std::vector<Range> all;
  for (const Transfer& transfer : inputs.transfers) {
    std::vector<bool> used(transfer.src->arrays().size(), false);
    for (const Operation& op : inputs.operations.all()) {
      if (&inputs.transfers[op.transfer] == &transfer) used[op.src_array] = true;
    }
    for (std::uint32_t a = 0; a < used.size(); ++a) {
      if (!used[a]) continue;
      const layout::Array& array = transfer.src->arrays()[a];
      const Place& place = transfer.src_places[a];
      all.push_back({place.file, place.offset, place.offset + transfer.src->reach(array) * bytes_of(array.dtype)});
    }
  }
  return all;
}

}  // namespace

std::string_view to_string(Route route) {
  constexpr std::array<std::string_view, 3> kNames = {"auto", "direct", "exchange"};
  return kNames[static_cast<std::size_t>(route)];
}

struct Plan::State {
  Inputs inputs;
  Options options;
  Route route = Route::direct;
  std::string reason;
  Index target_bytes = 0, source_bytes = 0;
  Index input_bytes = 0;  // what `inputs` takes: with its spare room, which copies do not have

  std::vector<Index> span_base;           // first span of each target file, and the total
  std::vector<std::int32_t> span_owner;   // rank of each span, or kNobody
  std::vector<Batch> groups;              // of this plan's spans, in target order
  std::vector<std::int32_t> group_owner;  // direct: the rank; exchange: that of the first span

  // The attempt that fits the budget, or the last one.
  int depth = 3;
  std::vector<Rounds> rounds;  // direct: per rank; exchange: one list for all
  std::array<Index, 4> slots = {};
  Index bytes_read = 0;  // by all ranks

  // The least that an attempt needed which did not fit; 0: all fitted.
  Index least_memory = 0, least_slots = 0;

  std::once_flag hashed;
  std::uint64_t hash = 0;  // once `hashed`

  void make_groups();
  bool is_done(const Range& span) const;
  std::size_t span_number(const Range& range) const {
    return static_cast<std::size_t>(span_base[range.file] + range.begin / inputs.sizes.span);
  }
  void deal(Route how);
  Rounds rounds_of(int rank, const Attempt& how) const;
  void build(const Attempt& how);
  Index slot_sum() const { return std::accumulate(slots.begin(), slots.end(), Index{0}); }
  Index plan_bytes() const;
  Index needs(int slots_of_each) const { return plan_bytes() + options.table_bytes + slots_of_each * slot_sum(); }
  int owner_of(const Range& range) const { return span_owner[span_number(range)]; }
  Owner owner() const {
    return [this](const Range& range) { return owner_of(range); };
  }
  Round round(int rank, std::size_t number) const {
    const bool exchange = route == Route::exchange;
    const Rounds& all = rounds[exchange ? 0 : static_cast<std::size_t>(rank)];
    return spell_out(inputs, all[number].targets, owner(), rank, options.ranks, exchange);
  }
  double amplification() const {
    return source_bytes == 0 ? 1.0 : static_cast<double>(bytes_read) / static_cast<double>(source_bytes);
  }
  bool reads_once() const { return amplification() <= kReadOnce; }
  std::uint64_t make_hash() const;
  std::vector<Index> first_rounds() const;
  bool fit();
  bool fit(Index largest);
  Error refusal() const;
};

void Plan::State::make_groups() {
  std::vector<Batch> spans;
  span_base.assign(1, 0);
  for (std::uint32_t f = 0; f < inputs.targets.size(); ++f) {
    const Index size = inputs.targets[f].size;
    for (Index begin = 0; begin < size; begin += inputs.sizes.span)
      spans.push_back(measure(inputs, {{f, begin, std::min(size, begin + inputs.sizes.span)}}));
    span_base.push_back(static_cast<Index>(spans.size()));
  }
  groups = linked(inputs, std::move(spans));

  Index all = 0;
  std::vector<Index> sizes;
  for (const Batch& group : groups) {
    sizes.push_back(group.written);
    all += group.written;
  }
  std::vector<Batch> own;
  deal_evenly(sizes, options.parts, [&](std::size_t g, int part) {
    if (part != options.part) return;
    std::vector<Range> left;
    for (const Range& span : groups[g].targets) {
      if (!is_done(span)) left.push_back(span);
    }
    if (left.empty()) return;
    own.push_back(left.size() == groups[g].targets.size() ? std::move(groups[g]) : measure(inputs, std::move(left)));
  });
  groups = std::move(own);
  for (const Batch& group : groups) target_bytes += group.written;
  std::vector<Range> sources = target_bytes == all ? used_arrays(inputs) : std::vector<Range>();
  if (target_bytes < all) {
    for (const Batch& group : groups) {
      const std::vector<Range> reads = reads_of(inputs, group.targets);
      sources.insert(sources.end(), reads.begin(), reads.end());
    }
  }
  merge_ranges(sources, 0);
  for (const Range& range : sources) source_bytes += range.size();
}

bool Plan::State::is_done(const Range& span) const {
  if (options.done.empty()) return false;
  return options.done[span.file][static_cast<std::size_t>(span.begin / inputs.sizes.span)];
}

void Plan::State::deal(Route how) {
  route = how;
  span_owner.assign(static_cast<std::size_t>(span_base.back()), kNobody);
  group_owner.assign(groups.size(), 0);
  std::vector<Index> sizes;
  if (how == Route::exchange) {
    // Whole files, or long runs of them, in target order.
    std::vector<Range> spans;
    for (const Batch& group : groups) spans.insert(spans.end(), group.targets.begin(), group.targets.end());
    std::sort(spans.begin(), spans.end(),
              [&](const Range& a, const Range& b) { return span_number(a) < span_number(b); });
    for (const Range& span : spans) sizes.push_back(span.size());
    deal_evenly(sizes, options.ranks,
                [&](std::size_t i, int rank) { span_owner[span_number(spans[i])] = static_cast<std::int32_t>(rank); });
    for (std::size_t g = 0; g < groups.size(); ++g) group_owner[g] = owner_of(groups[g].targets.front());
    return;
  }
  for (const Batch& group : groups) sizes.push_back(group.written);
  deal_evenly(sizes, options.ranks, [&](std::size_t g, int rank) {
    group_owner[g] = static_cast<std::int32_t>(rank);
    for (const Range& span : groups[g].targets) span_owner[span_number(span)] = group_owner[g];
  });
}

Rounds Plan::State::rounds_of(int rank, const Attempt& how) const {
  std::vector<Batch> own;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (group_owner[g] == rank) own.push_back(groups[g]);
  }
  return cut_rounds(inputs, std::move(own), how.round_bytes, how.force);
}

void Plan::State::build(const Attempt& how) {
  rounds.clear();
  slots = {};
  bytes_read = 0;
  const auto note = [&](Slot slot, Index used) {
    Index& size = slots[static_cast<std::size_t>(slot)];
    size = std::max(size, used);
  };
  std::vector<Rounds> by_owner;
  for (int rank = 0; rank < options.ranks; ++rank) by_owner.push_back(rounds_of(rank, how));
  if (route == Route::direct) {
    rounds = std::move(by_owner);
  } else {
    // A round takes an equal share of each owner's list, so that all ranks write from the first round to the last.
    std::size_t longest = 0;
    for (const Rounds& list : by_owner) longest = std::max(longest, list.size());
    rounds.assign(1, Rounds(longest));
    for (const Rounds& list : by_owner) {
      for (std::size_t i = 0; i < list.size(); ++i) {
        std::vector<Range>& together = rounds[0][i * longest / list.size()].targets;
        together.insert(together.end(), list[i].targets.begin(), list[i].targets.end());
      }
    }
  }
  if (route == Route::direct) {
    for (const Rounds& list : rounds) {
      for (const CutRound& round : list) {
        note(Slot::source, round.source_slot);
        note(Slot::output, round.output_slot);
        bytes_read += round.bytes_read;
      }
    }
  } else {
    for (const CutRound& round : rounds[0]) {
      const RoundNeeds needs = needs_of_exchange(inputs, round.targets, owner(), options.ranks);
      for (std::size_t slot = 0; slot < slots.size(); ++slot) note(static_cast<Slot>(slot), needs.slots[slot]);
      bytes_read += needs.bytes_read;
    }
  }
  for (Index& size : slots) size = round_up(size, 4096);
}

Index Plan::State::plan_bytes() const {
  Index bytes = input_bytes;
  bytes += static_cast<Index>(span_owner.capacity() * sizeof(std::int32_t));
  for (const Batch& group : groups) {
    const std::size_t ranges = group.targets.capacity() + group.needed.blocks.capacity();
    bytes += static_cast<Index>(ranges * sizeof(Range) + sizeof(group));
  }
  for (const Rounds& list : rounds) {
    for (const CutRound& round : list)
      bytes += static_cast<Index>(round.targets.capacity() * sizeof(Range) + sizeof(round));
  }
  return bytes;
}

/// The largest rounds to try: those of a small job, unless they read more, then those of any other.
std::vector<Index> Plan::State::first_rounds() const {
  // A rank's first read and last write overlap with nothing, nor does the first use of slots, which is slow where a
  // VM's host has taken their memory back.
  const Index full = inputs.sizes.round;
  const Index share = target_bytes / options.ranks / (route == Route::direct ? kManyAlone : kManyTogether);
  // A power of two, so that cuts lie on pages.
  const auto even = static_cast<Index>(std::bit_ceil(static_cast<std::uint64_t>(share)));
  const Index small = std::clamp(even, std::min(full, inputs.sizes.small_round), full);
  return small == full ? std::vector<Index>{full} : std::vector<Index>{small, full};
}

/// The largest rounds that fit the budgets; false: none do.
bool Plan::State::fit() {
  const std::vector<Index> first = first_rounds();
  const bool fits = fit(first.front());
  if (first.size() == 1 || (fits && reads_once())) return fits;
  return fit(first.back()) || (fits && fit(first.front()));
}

bool Plan::State::fit(Index largest) {
  // A smaller round reads more at its edges: forced cuts only where nothing else fits.
  for (const bool force : {false, true}) {
    for (const Index bytes : round_sizes(largest, inputs.sizes)) {
      build({bytes, force});
      for (depth = 4; depth >= 2; --depth) {
        if (needs(depth) <= options.memory_budget && depth * slot_sum() <= options.slot_budget) return true;
      }
      keep_least(least_memory, needs(2));
      keep_least(least_slots, 2 * slot_sum());
    }
  }
  return false;
}

/// Why nothing fits, after all attempts.
Error Plan::State::refusal() const {
  const bool on_device = least_slots > options.slot_budget;
  return usage_error(fmt::format("--{} {} is too small for this conversion: the smallest that works is {}KiB",
                                 on_device ? "device-memory-budget" : "memory-budget",
                                 describe_bytes(on_device ? options.slot_budget : options.memory_budget),
                                 ceil_div(on_device ? least_slots : least_memory, kKiB)));
}

Expected<Plan> Plan::make(std::vector<Transfer> transfers, std::vector<TargetFile> targets, const Options& options) {
  assert(options.ranks >= 1 && options.part >= 0 && options.part < options.parts);
  auto state = std::make_unique<State>();
  state->options = options;
  Inputs& inputs = state->inputs;
  inputs.transfers = std::move(transfers);
  inputs.targets = std::move(targets);
  inputs.twins = options.twins;
  inputs.sizes = options.sizes;
  RESHARD_TRY(inputs.src_map, FileMap::make(inputs.transfers, FileMap::Side::source));
  RESHARD_TRY(inputs.dst_map, FileMap::make(inputs.transfers, FileMap::Side::target));
  RESHARD_TRY(inputs.operations, Operations::intersect(inputs.transfers));
  for (std::uint32_t f = 0; f < inputs.targets.size(); ++f) {
    for (const FileMap::Stored& stored : inputs.dst_map.in_file(f)) {
      // What is only compared stays where it lies.
      const bool is_odd = stored.begin % stored.element != 0 && !inputs.transfers[stored.transfer].per_piece;
      if (is_odd || stored.end > inputs.targets[f].size) {
        const layout::Layout& layout = *inputs.transfers[stored.transfer].dst;
        return usage_error(fmt::format(
            "array {}: the container put it at byte {} of a file of {}, expected inside and aligned to its elements",
            layout.name(layout.arrays()[stored.array]), stored.begin, inputs.targets[f].size));
      }
    }
  }
  state->input_bytes = inputs.operations.memory_bytes() + inputs.src_map.memory_bytes() + inputs.dst_map.memory_bytes();
  state->make_groups();

  const auto fit = [&](Route route) {
    state->deal(route);
    return state->fit();
  };
  if (options.route != Route::automatic || options.ranks == 1) {
    if (!fit(options.route == Route::exchange ? Route::exchange : Route::direct)) return state->refusal();
    state->reason = options.route != Route::automatic ? "asked for" : "one rank has nobody to exchange with";
    return Plan(std::move(state));
  }
  const bool direct = fit(Route::direct);
  if (direct && state->reads_once()) {
    state->reason = "each rank can read its own sources once, so nothing needs to move between ranks";
    return Plan(std::move(state));
  }
  const double alone = state->amplification();
  const bool exchange = fit(Route::exchange);
  const double together = state->amplification();
  if (!direct && !exchange) return state->refusal();
  if (direct && (!exchange || together >= alone)) {
    fit(Route::direct);
    state->reason =
        exchange
            ? fmt::format("exchanging would read {:.2f}x the source, reading alone {:.2f}x", together, alone)
            : fmt::format("an exchange does not fit the memory budgets; reading alone reads {:.2f}x the source", alone);
  } else if (direct) {
    state->reason = fmt::format(
        "reading alone would read {:.2f}x the source within the memory budget, exchanging {:.2f}x", alone, together);
  } else {
    state->reason = "a group of spans does not fit one rank's memory budget";
  }
  return Plan(std::move(state));
}

Plan::Plan(std::unique_ptr<State> state) : state_(std::move(state)) {}
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;
Plan::~Plan() = default;

Route Plan::route() const { return state_->route; }
std::string Plan::route_reason() const { return state_->reason; }
int Plan::ranks() const { return state_->options.ranks; }
const Operations& Plan::operations() const { return state_->inputs.operations; }
Index Plan::source_bytes() const { return state_->source_bytes; }
Index Plan::target_bytes() const { return state_->target_bytes; }
Index Plan::slot_memory_bytes() const { return state_->depth * state_->slot_sum(); }
Index Plan::memory_bytes() const { return state_->plan_bytes(); }

int Plan::owner(std::uint32_t target_file, Index span) const {
  return state_->span_owner[static_cast<std::size_t>(state_->span_base[target_file] + span)];
}

std::unique_ptr<Schedule> Plan::schedule(int rank) const {
  class RankSchedule : public Schedule {
   public:
    RankSchedule(const State& state, int rank) : state_(state), rank_(rank) {}
    Index num_rounds() const override {
      return std::ssize(state_.rounds[state_.route == Route::exchange ? 0 : static_cast<std::size_t>(rank_)]);
    }
    Round round(Index number) const override { return state_.round(rank_, static_cast<std::size_t>(number)); }
    Index slot_bytes(Slot slot) const override { return state_.slots[static_cast<std::size_t>(slot)]; }
    int depth() const override { return state_.depth; }
    bool exchanges() const override { return state_.route == Route::exchange; }
    Index num_lines() const override {
      std::int64_t lines = 0;
      for (const Transfer& transfer : state_.inputs.transfers) {
        lines = std::max(lines, transfer.line_base + transfer.dst->canon().num_lines());
      }
      for (const Operation& op : state_.inputs.operations.all()) lines = std::max(lines, op.line + 1);
      return lines;
    }

   private:
    const State& state_;
    int rank_;
  };
  return std::make_unique<RankSchedule>(*state_, rank);
}

Totals Plan::totals(int rank) const {
  const std::unique_ptr<Schedule> schedule = this->schedule(rank);
  Totals totals;
  totals.rounds = schedule->num_rounds();
  for (Index i = 0; i < totals.rounds; ++i) {
    const Round round = schedule->round(i);
    for (const Read& read : round.reads) totals.bytes_read += read.length;
    for (const Message& message : round.sends) totals.bytes_sent += message.length;
    for (const Message& message : round.receives) totals.bytes_received += message.length;
    for (const Write& write : round.writes) totals.bytes_written += write.length;
  }
  return totals;
}

Index Plan::read_once_budget() const {
  State trial;
  trial.inputs = state_->inputs;
  trial.input_bytes = state_->input_bytes;
  trial.options = state_->options;
  trial.make_groups();
  trial.deal(state_->route);
  std::set<Index> sizes;
  for (const Index largest : trial.first_rounds()) {
    for (const Index bytes : round_sizes(largest, trial.inputs.sizes)) sizes.insert(bytes);
  }
  // With the budget of one, those before it in fit() that fit too read no more.
  Index least = 0;
  for (const bool force : {false, true}) {
    for (const Index bytes : sizes) {
      trial.build({bytes, force});
      if (trial.reads_once() && 2 * trial.slot_sum() <= trial.options.slot_budget) keep_least(least, trial.needs(2));
    }
  }
  return least;
}

std::uint64_t Plan::State::make_hash() const {
  Hasher hasher;
  for (const Operation& op : inputs.operations.all()) {
    hasher.word(std::uint64_t{op.src_array} << 32 | op.dst_array);
    hasher.word(op.src);
    hasher.word(op.dst);
    hasher.word(op.line);
    const layout::StridedCopy copy = inputs.operations.strided(op);
    for (int k = 0; k < copy.rank; ++k) {
      for (const Index v : {copy.loops[k].size, copy.loops[k].src, copy.loops[k].dst, copy.loops[k].canonical})
        hasher.word(v);
    }
  }
  for (const Transfer& transfer : inputs.transfers) {
    for (const Place& place : transfer.dst_places) hasher.word(place.offset ^ (Index{place.file} << 40));
    for (const layout::Array& array : transfer.src->arrays()) hasher.word(static_cast<std::uint64_t>(array.dtype));
    for (const layout::Array& array : transfer.dst->arrays()) hasher.word(static_cast<std::uint64_t>(array.dtype));
  }
  for (const TargetFile& target : inputs.targets) {
    hasher.word(target.size);
    for (const TargetFile::Constant& constant : target.constants) {
      hasher.word(constant.offset);
      hasher.word(std::ssize(constant.bytes));
      hasher.bytes(constant.bytes);
    }
  }
  return hasher.value();
}

std::uint64_t Plan::hash() const {
  std::call_once(state_->hashed, [&] { state_->hash = state_->make_hash(); });
  return state_->hash;
}

std::uint64_t Plan::schedule_hash() const {
  Hasher hasher;
  hasher.word(hash());
  hasher.word(static_cast<std::uint64_t>(state_->route));
  for (const std::int32_t owner : state_->span_owner) hasher.word(std::uint64_t{static_cast<std::uint32_t>(owner)});
  for (const Rounds& list : state_->rounds) {
    hasher.word(static_cast<std::uint64_t>(list.size()));
    for (const CutRound& round : list) {
      for (const Range& range : round.targets) {
        hasher.word(std::uint64_t{range.file});
        hasher.word(range.begin);
        hasher.word(range.end);
      }
    }
  }
  return hasher.value();
}

}  // namespace reshard::plan
