// SPDX-License-Identifier: Apache-2.0
#include "rounds.h"

#include <algorithm>
#include <cassert>
#include <map>
#include <numeric>

namespace reshard::plan {
namespace {

using layout::StridedCopy;

/// Next position in a slot that lies like `offset` lies in its file, so that direct I/O needs no copy.
Index place_in_slot(Index cursor, Index offset, Index page) { return round_up(cursor, page) + offset % page; }

/// Disjoint sets of small numbers.
class Sets {
 public:
  explicit Sets(std::size_t n) : parent_(n) { std::iota(parent_.begin(), parent_.end(), std::size_t{0}); }
  std::size_t root(std::size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  /// The smaller number becomes the root.
  void join(std::size_t a, std::size_t b) {
    a = root(a);
    b = root(b);
    if (a != b) parent_[std::max(a, b)] = std::min(a, b);
  }

 private:
  std::vector<std::size_t> parent_;
};

/// Appends the parts of `target` between the natural boundaries of its ops, where they are far enough apart, and inside
/// these between multiples of `chunk`. Twins are cut alike.
void cut_target(const Inputs& inputs, const Range& target, Index chunk, std::vector<Range>& parts) {
  const Index least = std::min(inputs.sizes.finest, chunk);
  // Ops that lie in each other's gaps (gate and up in fused rows) are one.
  std::vector<Range> reaches;
  const auto add_reaches = [&](const Range& range) {
    for (const FileMap::Stored& stored : inputs.dst_map.touching(range)) {
      for (const Operation& op : operations_in(inputs, stored, range)) {
        const layout::Reach reach = dst_reach(inputs.operations.strided(op));
        reaches.push_back({0, stored.begin + reach.begin * stored.element, stored.begin + reach.end * stored.element});
      }
      reaches.push_back({0, stored.end, stored.end});
    }
  };
  add_reaches(target);
  if (inputs.twins) {
    const auto half = static_cast<std::uint32_t>(inputs.targets.size() / 2);
    add_reaches({target.file < half ? target.file + half : target.file - half, target.begin, target.end});
  }
  std::sort(reaches.begin(), reaches.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Index> boundaries;
  for (const Range& reach : reaches) {
    if (!boundaries.empty() && reach.begin < boundaries.back()) {
      boundaries.back() = std::max(boundaries.back(), reach.end);
    } else {
      boundaries.push_back(reach.begin);
      boundaries.push_back(reach.end);
    }
  }
  boundaries.push_back(std::max(target.end, boundaries.empty() ? target.end : boundaries.back()));
  Index from = target.begin;
  const auto cut_at = [&](Index at, Index until) {
    if (at - from < least || (at < until && until - at < least)) return;
    parts.push_back({target.file, from, at});
    from = at;
  };
  for (const Index at : boundaries) {
    const Index end = std::min(at, target.end);
    if (end - from < least || (end < target.end && target.end - end < least)) continue;
    for (Index inside = round_up(from + 1, chunk); inside < end; inside += chunk) {
      cut_at(inputs.dst_map.snap(target.file, inside), end);
    }
    cut_at(end, target.end);
  }
  if (from < target.end) parts.push_back({target.file, from, target.end});
}

/// A target range that this rank writes.
struct Own {
  const Range* range;
  Index slot_offset;
  std::uint32_t write;
};

/// Places the ranges in the output slot, sorted by file; neighbours inside a span are written as one. Returns the bytes
/// used.
Index place_writes(const Inputs& inputs, std::vector<Own>& own, std::vector<Write>& writes) {
  std::sort(own.begin(), own.end(), [](const Own& a, const Own& b) {
    return a.range->file != b.range->file ? a.range->file < b.range->file : a.range->begin < b.range->begin;
  });
  Index cursor = 0;
  for (Own& part : own) {
    const Range& range = *part.range;
    const bool joins = !writes.empty() && writes.back().file == range.file &&
                       writes.back().offset + writes.back().length == range.begin &&
                       range.begin % inputs.sizes.span != 0;
    part.slot_offset = joins ? cursor : place_in_slot(cursor, range.begin, inputs.sizes.page);
    if (joins) {
      writes.back().length += range.size();
    } else {
      writes.push_back({range.file, range.begin, range.size(), part.slot_offset});
    }
    part.write = static_cast<std::uint32_t>(writes.size() - 1);
    cursor = part.slot_offset + range.size();
  }
  return cursor;
}

Index total(const std::vector<Range>& ranges) {
  Index bytes = 0;
  for (const Range& range : ranges) bytes += range.size();
  return bytes;
}

/// A source range of one of many batches.
struct Need {
  Range range;
  std::uint32_t batch;
};

/// Calls visit(batch, batch) where two batches share more than a sixteenth of what one of them reads at one place.
template <class Visit>
void for_each_shared(std::vector<Need>& needs, Visit&& visit) {
  std::sort(needs.begin(), needs.end(), [](const Need& a, const Need& b) {
    if (a.range.file != b.range.file) return a.range.file < b.range.file;
    return a.range.begin != b.range.begin ? a.range.begin < b.range.begin : a.batch < b.batch;
  });
  std::size_t farthest = 0;
  for (std::size_t i = 1; i < needs.size(); ++i) {
    if (needs[i].range.file != needs[farthest].range.file) farthest = i;
    for (const std::size_t other : {i - 1, farthest}) {
      const Range &a = needs[other].range, &b = needs[i].range;
      if (other == i || a.file != b.file) continue;
      const Index shared = std::min(a.end, b.end) - b.begin;
      if (shared > 0 && shared * 16 > std::min(a.size(), b.size())) visit(needs[other].batch, needs[i].batch);
    }
    if (needs[i].range.end > needs[farthest].range.end) farthest = i;
  }
}

/// The ranges of a batch that reads mostly in short runs, with the short gaps between them; of others nothing.
std::vector<Range> bridged(const std::vector<Range>& ranges, Index short_run) {
  std::vector<Range> runs;
  Index bytes = 0, in_short = 0, last = 0;
  for (const Range& range : ranges) {
    const bool is_short = range.size() < short_run;
    bytes += range.size();
    if (is_short) in_short += range.size();
    const bool joins = !runs.empty() && runs.back().file == range.file && is_short && last < short_run &&
                       range.begin - runs.back().end < short_run;
    if (joins) {
      runs.back().end = range.end;
    } else {
      runs.push_back(range);
    }
    last = range.size();
  }
  if (in_short * 2 < bytes) runs.clear();
  return runs;
}

/// How finely the source bytes of a copy are told apart.
enum class Grain {
  block,  ///< short runs are taken together with the gaps between them
  run,    ///< only small gaps are bridged
};

/// Equal blocks of the source file that a cut operation reads, by rising begin.
class SourceBlocks {
 public:
  SourceBlocks(const CutOperation& operation, Grain grain, const Sizes& sizes)
      : copy_(operation.copy), file_(operation.src_file), element_(bytes_of(operation.src_dtype)) {
    order_by_src(copy_);
    begin_ = operation.src_begin + copy_.src * element_;
    block_ = element_;
    outer_ = copy_.rank;
    while (outer_ > 0) {
      const layout::Loop& loop = copy_.loops[outer_ - 1];
      const Index gap = loop.src * element_ - block_;
      const bool fold = gap <= 0 || (grain == Grain::block ? block_ < sizes.short_run : gap <= sizes.bridged_gap);
      if (!fold) break;
      block_ += (loop.size - 1) * loop.src * element_;
      --outer_;
    }
  }

  Index count() const {
    Index count = 1;
    for (int k = 0; k < outer_; ++k) count *= copy_.loops[k].size;
    return count;
  }
  Index bytes() const { return count() * block_; }

  void append_to(std::vector<Range>& ranges) const {
    Index at[layout::kMaxRank] = {};
    while (true) {
      Index offset = begin_;
      for (int k = 0; k < outer_; ++k) offset += at[k] * copy_.loops[k].src * element_;
      ranges.push_back({file_, offset, offset + block_});
      int k = outer_ - 1;
      while (k >= 0 && ++at[k] == copy_.loops[k].size) at[k--] = 0;
      if (k < 0) break;
    }
  }

 private:
  StridedCopy copy_;
  std::uint32_t file_;
  Index element_;
  Index begin_;
  Index block_;  // bytes that the folded loops span
  int outer_;    // loops that are not folded
};

/// Calls visit(SourceBlocks) at grain run for all that write into the targets.
template <class Visit>
void for_each_runs(const Inputs& inputs, std::span<const Range> targets, Visit&& visit) {
  for (const Range& target : targets) {
    for_each_operation(inputs, target, [&](const CutOperation& operation) {
      visit(SourceBlocks(operation, Grain::run, inputs.sizes));
    });
  }
}

}  // namespace

void merge_ranges(std::vector<Range>& ranges, Index gap) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.file != b.file ? a.file < b.file : a.begin < b.begin; });
  std::size_t kept = 0;
  for (const Range& range : ranges) {
    if (kept > 0 && ranges[kept - 1].file == range.file && range.begin <= ranges[kept - 1].end + gap) {
      ranges[kept - 1].end = std::max(ranges[kept - 1].end, range.end);
    } else {
      ranges[kept++] = range;
    }
  }
  ranges.resize(kept);
}

Needed needed_sources(const Inputs& inputs, std::span<const Range> targets) {
  Needed needed;
  Index used = 0;
  for (const Range& target : targets) {
    for_each_operation(inputs, target, [&](const CutOperation& operation) {
      SourceBlocks(operation, Grain::block, inputs.sizes).append_to(needed.blocks);
      used += operation.copy.volume() * bytes_of(operation.src_dtype);
    });
  }
  merge_ranges(needed.blocks, 0);
  needed.bytes = total(needed.blocks);
  // Blocks that would be read mostly for their gaps are told apart run by run.
  needed.in_runs = needed.bytes > used + used / 64;
  if (!needed.in_runs) return needed;
  std::vector<Range> whole;
  needed.bytes = 0;
  for_each_runs(inputs, targets, [&](const SourceBlocks& runs) {
    if (runs.count() == 1) {
      runs.append_to(whole);
    } else {
      needed.bytes += runs.bytes();
    }
  });
  merge_ranges(whole, 0);
  needed.bytes += total(whole);
  return needed;
}

std::vector<Range> reads_of(const Inputs& inputs, std::span<const Range> targets) {
  Needed needed = needed_sources(inputs, targets);
  if (needed.in_runs) {
    needed.blocks.clear();
    for_each_runs(inputs, targets, [&](const SourceBlocks& runs) { runs.append_to(needed.blocks); });
  }
  merge_ranges(needed.blocks, inputs.sizes.bridged_gap);
  return std::move(needed.blocks);
}

Batch measure(const Inputs& inputs, std::vector<Range> targets) {
  Batch batch;
  batch.needed = needed_sources(inputs, targets);
  batch.written = total(targets);
  batch.targets = std::move(targets);
  return batch;
}

namespace {

/// The batches of each set as one, in the order of their first.
std::vector<Batch> joined(const Inputs& inputs, std::vector<Batch> batches, Sets& sets) {
  std::vector<std::vector<std::size_t>> members;
  std::vector<std::size_t> number(batches.size(), batches.size());
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const std::size_t root = sets.root(i);
    if (number[root] == batches.size()) {
      number[root] = members.size();
      members.emplace_back();
    }
    members[number[root]].push_back(i);
  }
  std::vector<Batch> components;
  components.reserve(members.size());
  for (const std::vector<std::size_t>& some : members) {
    if (some.size() == 1) {
      components.push_back(std::move(batches[some.front()]));
      continue;
    }
    std::vector<Range> targets;
    for (const std::size_t i : some)
      targets.insert(targets.end(), batches[i].targets.begin(), batches[i].targets.end());
    components.push_back(measure(inputs, std::move(targets)));
  }
  return components;
}

/// Joins batches that need what lies in the gaps between short runs of others, up to `most` bytes: apart they would be
/// read in bits.
std::vector<Batch> interleaved(const Inputs& inputs, std::vector<Batch> batches, Index most) {
  std::vector<Need> needs;
  for (std::uint32_t i = 0; i < batches.size(); ++i) {
    for (const Range& range : bridged(batches[i].needed.blocks, inputs.sizes.short_run / 2))
      needs.push_back({range, i});
  }
  if (needs.empty()) return batches;
  Sets sets(batches.size());
  std::vector<Index> bytes;  // of each set, at its root
  bytes.reserve(batches.size());
  for (const Batch& batch : batches) bytes.push_back(batch.needed.bytes);
  for_each_shared(needs, [&](std::size_t a, std::size_t b) {
    a = sets.root(a);
    b = sets.root(b);
    if (a == b || bytes[a] + bytes[b] > most) return;
    bytes[std::min(a, b)] = bytes[a] + bytes[b];
    sets.join(a, b);
  });
  return joined(inputs, std::move(batches), sets);
}

/// Where the round ends that begins with batches[first]: small neighbours share one.
std::size_t round_end(std::span<const Batch* const> batches, std::size_t first, Index round_bytes) {
  Index read = 0, written = 0;
  std::size_t end = first;
  do {
    read += batches[end]->needed.bytes;
    written += batches[end]->written;
    ++end;
  } while (end < batches.size() &&
           std::max(read + batches[end]->needed.bytes, written + batches[end]->written) <= round_bytes);
  return end;
}

/// What the batches of one round read, as it is read, and write.
struct RoundRanges {
  std::vector<Range> sources, targets;
};

RoundRanges ranges_of(const Inputs& inputs, std::span<const Batch* const> batches) {
  RoundRanges all;
  bool in_runs = false;
  for (const Batch* batch : batches) {
    all.targets.insert(all.targets.end(), batch->targets.begin(), batch->targets.end());
    all.sources.insert(all.sources.end(), batch->needed.blocks.begin(), batch->needed.blocks.end());
    in_runs |= batch->needed.in_runs;
  }
  if (in_runs) {
    all.sources = reads_of(inputs, all.targets);
  } else {
    merge_ranges(all.sources, inputs.sizes.bridged_gap);  // what reads_of would say
  }
  return all;
}

/// Reads and writes of the rounds that batches make in this order, about.
std::size_t num_pieces(const Inputs& inputs, std::span<const Batch* const> batches, Index round_bytes) {
  std::size_t pieces = 0;
  for (std::size_t first = 0, end = 0; first < batches.size(); first = end) {
    end = round_end(batches, first, round_bytes);
    RoundRanges round = ranges_of(inputs, batches.subspan(first, end - first));
    merge_ranges(round.targets, 0);
    pieces += round.sources.size() + round.targets.size();
  }
  return pieces;
}

/// Sorts the batches of a group, which come in the order of the target, by source, unless that makes more reads and
/// writes: rounds follow the side that is in smaller bits.
void put_in_order(const Inputs& inputs, std::span<Batch> batches, Index round_bytes) {
  std::vector<const Batch*> by_target, by_source;
  for (const Batch& batch : batches) by_target.push_back(&batch);
  by_source = by_target;
  const auto first_source = [](const Batch* batch) {
    const std::vector<Range>& blocks = batch->needed.blocks;
    return blocks.empty() ? std::pair<std::uint32_t, Index>() : std::pair(blocks.front().file, blocks.front().begin);
  };
  std::stable_sort(by_source.begin(), by_source.end(),
                   [&](const Batch* a, const Batch* b) { return first_source(a) < first_source(b); });
  if (by_source == by_target ||
      num_pieces(inputs, by_target, round_bytes) < num_pieces(inputs, by_source, round_bytes)) {
    return;
  }
  std::vector<Batch> sorted;
  for (const Batch* batch : by_source)
    sorted.push_back(std::move(batches[static_cast<std::size_t>(batch - batches.data())]));
  std::move(sorted.begin(), sorted.end(), batches.begin());
}

}  // namespace

std::vector<Batch> linked(const Inputs& inputs, std::vector<Batch> batches) {
  Sets sets(batches.size());
  std::size_t count = 0;
  for (const Batch& batch : batches) count += batch.needed.blocks.size();
  std::vector<Need> needs;
  needs.reserve(count);
  for (std::uint32_t i = 0; i < batches.size(); ++i) {
    for (const Range& range : batches[i].needed.blocks) needs.push_back({range, i});
  }
  for_each_shared(needs, [&](std::size_t a, std::size_t b) { sets.join(a, b); });
  if (inputs.twins) {
    // Equal ranges of a file and of its twin belong together.
    const auto half = static_cast<std::uint32_t>(inputs.targets.size() / 2);
    std::map<std::tuple<std::uint32_t, Index>, std::size_t> first;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      for (const Range& range : batches[i].targets) {
        const auto [at, fresh] = first.emplace(std::tuple(range.file % half, range.begin), i);
        if (!fresh) sets.join(at->second, i);
      }
    }
  }
  return joined(inputs, std::move(batches), sets);
}

std::vector<CutRound> cut_rounds(const Inputs& inputs, std::vector<Batch> groups, Index round_bytes, bool force) {
  constexpr Index kInterleavedRounds = 8;  // of a group that is made for its reads alone
  constexpr Index kPieces = 8;             // to a round, of what reads in bits: fine enough to follow the source
  std::vector<Batch> batches;
  const auto work = [](const Batch& batch) { return std::max(batch.written, batch.needed.bytes); };
  const auto refine = [&](const auto& self, Batch batch, Index chunk) -> void {
    const bool in_bits = !bridged(batch.needed.blocks, inputs.sizes.short_run / 2).empty();
    if (work(batch) <= (in_bits ? round_bytes / kPieces : round_bytes)) {
      batches.push_back(std::move(batch));
      return;
    }
    if (chunk < inputs.sizes.finest) {
      if (!force || work(batch) <= 4 * round_bytes) {
        batches.push_back(std::move(batch));
        return;
      }
      // Consecutive parts, as many at a time as fit; what they share is read more than once.
      for (std::span<const Range> left = batch.targets; !left.empty();) {
        const auto take = [&](std::size_t count) {
          return measure(inputs, {left.begin(), left.begin() + static_cast<std::ptrdiff_t>(count)});
        };
        Batch fits = take(1);
        bool grows = true;
        for (std::size_t step = 1; step > 0 && fits.targets.size() < left.size(); step = grows ? 2 * step : step / 2) {
          Batch more = take(std::min(fits.targets.size() + step, left.size()));
          if (work(more) <= 4 * round_bytes) {
            fits = std::move(more);
          } else {
            grows = false;
          }
        }
        left = left.subspan(fits.targets.size());
        batches.push_back(std::move(fits));
      }
      return;
    }
    std::vector<Range> cuts;
    for (const Range& range : batch.targets) cut_target(inputs, range, chunk, cuts);
    std::vector<Batch> parts;
    for (const Range& range : cuts) parts.push_back(measure(inputs, {range}));
    std::vector<Batch> components = linked(inputs, std::move(parts));
    if (components.size() == 1) {
      // What hangs together in small parts hangs together in smaller ones: only force helps.
      if (chunk <= inputs.sizes.short_run && !force) {
        batches.push_back(std::move(batch));
        return;
      }
      self(self, std::move(components.front()), chunk / 4);
      return;
    }
    for (Batch& finer : components) self(self, std::move(finer), chunk / 2);
  };
  for (Batch& group : interleaved(inputs, std::move(groups), kInterleavedRounds * round_bytes)) {
    const std::size_t begin = batches.size();
    refine(refine, std::move(group), std::min(inputs.sizes.span, round_bytes) / 2);
    put_in_order(inputs, std::span(batches).subspan(begin), round_bytes);
  }

  std::vector<const Batch*> in_order;
  for (const Batch& batch : batches) in_order.push_back(&batch);
  std::vector<CutRound> rounds;
  for (std::size_t first = 0, end = 0; first < in_order.size(); first = end) {
    end = round_end(in_order, first, round_bytes);
    RoundRanges ranges = ranges_of(inputs, std::span(in_order).subspan(first, end - first));
    CutRound& round = rounds.emplace_back();
    round.targets = std::move(ranges.targets);
    std::vector<Own> own;
    std::vector<Write> writes;
    for (const Range& target : round.targets) own.push_back({&target, 0, 0});
    round.output_slot = place_writes(inputs, own, writes);
    for (const Range& range : ranges.sources) {
      round.source_slot = place_in_slot(round.source_slot, range.begin, inputs.sizes.page) + range.size();
    }
    round.bytes_read = total(ranges.sources);
  }
  return rounds;
}

namespace {

/// Calls visit(position) for the destination position of every element of a copy.
template <class Visit>
void for_each_position(const StridedCopy& copy, Visit&& visit) {
  Index at[layout::kMaxRank] = {};
  while (true) {
    Index position = copy.dst;
    for (int k = 0; k < copy.rank; ++k) position += at[k] * copy.loops[k].dst;
    visit(position);
    int k = copy.rank - 1;
    while (k >= 0 && ++at[k] == copy.loops[k].size) at[k--] = 0;
    if (k < 0) return;
  }
}

/// Appends what no copy writes of `target`, which stands at `slot_offset`: the file's constant bytes, zeros between
/// arrays, and zeros for fill. Constants and copies never overlap, so that they may run in any order.
void add_constants(const Inputs& inputs, const Range& target, Index slot_offset, std::vector<Constant>& constants) {
  std::vector<Range> taken;
  for (const TargetFile::Constant& constant : inputs.targets[target.file].constants) {
    const Index begin = std::max(constant.offset, target.begin);
    const Index end = std::min(constant.offset + static_cast<Index>(constant.bytes.size()), target.end);
    if (begin >= end) continue;
    constants.push_back(
        {slot_offset + begin - target.begin, end - begin, constant.bytes.data() + (begin - constant.offset)});
    taken.push_back({target.file, begin, end});
  }
  std::vector<StridedCopy> parts;
  for (const FileMap::Stored& stored : inputs.dst_map.touching(target)) {
    taken.push_back({target.file, std::max(stored.begin, target.begin), std::min(stored.end, target.end)});
    for (const layout::Piece& fill : inputs.transfers[stored.transfer].dst->fills(stored.array)) {
      StridedCopy whole;
      whole.dst = fill.offset;
      for (int k = 0; k < fill.rank; ++k) whole.loops[whole.rank++] = {fill.size[k], 0, fill.stride[k], 0};
      order_by_dst(whole);
      parts.clear();
      cut_by_dst(whole, std::max<Index>(0, (target.begin - stored.begin) / stored.element),
                 (std::min(target.end, stored.end) - stored.begin) / stored.element, parts);
      for (StridedCopy& part : parts) {
        for (int k = 0; k < part.rank; ++k) part.loops[k].src = part.loops[k].canonical = part.loops[k].dst;
        coalesce(part);
        const bool run = part.rank > 0 && part.loops[part.rank - 1].dst == 1;
        const Index length = run ? part.loops[--part.rank].size : 1;
        for_each_position(part, [&](Index position) {
          constants.push_back({slot_offset + stored.begin + position * stored.element - target.begin,
                               length * stored.element, nullptr});
        });
      }
    }
  }
  merge_ranges(taken, 0);
  Index at = target.begin;
  taken.push_back({target.file, target.end, target.end});
  for (const Range& range : taken) {
    if (range.begin > at) constants.push_back({slot_offset + at - target.begin, range.begin - at, nullptr});
    at = std::max(at, range.end);
  }
}

/// Source bytes of a round, who reads them, and where they land in the reader's source slot.
struct Segment {
  Range range;
  int reader;
  Index slot_offset;
};

/// What a round reads: with an exchange in even stripes by all ranks, else all by `rank`. By rising range.
std::vector<Segment> segments_of(const Inputs& inputs, const std::vector<Range>& targets, int rank, int ranks,
                                 bool exchange) {
  const std::vector<Range> sources = reads_of(inputs, targets);
  std::vector<Segment> segments;
  if (exchange) {
    const Index all = total(sources);
    Index before = 0;
    for (const Range& range : sources) {
      Index begin = range.begin;
      for (int reader = 0; reader < ranks; ++reader) {
        // Stripe of `reader`: bytes [all * reader / ranks, all * (reader + 1) / ranks) of the ranges laid end to end.
        const Index stripe_end = static_cast<Index>(static_cast<__int128>(all) * (reader + 1) / ranks);
        Index end = std::min(range.end, range.begin + stripe_end - before);
        if (end < range.end && end > begin)
          end = std::max(begin, inputs.src_map.snap(range.file, end / inputs.sizes.page * inputs.sizes.page));
        if (end <= begin) continue;
        segments.push_back({{range.file, begin, end}, reader, 0});
        begin = end;
      }
      if (begin < range.end) segments.push_back({{range.file, begin, range.end}, ranks - 1, 0});
      before += range.size();
    }
  } else {
    for (const Range& range : sources) segments.push_back({range, rank, 0});
  }
  std::vector<Index> cursors(static_cast<std::size_t>(ranks), 0);
  for (Segment& segment : segments) {
    Index& cursor = cursors[static_cast<std::size_t>(segment.reader)];
    segment.slot_offset = place_in_slot(cursor, segment.range.begin, inputs.sizes.page);
    cursor = segment.slot_offset + segment.range.size();
  }
  return segments;
}

/// Calls visit(operation, segment, part) for the parts of all ops into `target` that lie in segments whose reader is
/// `wanted`: ops by destination, parts by source.
template <class Wanted, class Visit>
void for_each_part(const Inputs& inputs, const Range& target, const std::vector<Segment>& segments, Wanted&& wanted,
                   Visit&& visit) {
  std::vector<StridedCopy> parts;
  for_each_operation(inputs, target, [&](const CutOperation& operation) {
    const Index element = bytes_of(operation.src_dtype);
    StridedCopy by_src = operation.copy;
    order_by_src(by_src);
    const layout::Reach reach = src_reach(by_src);
    const Index reach_begin = operation.src_begin + reach.begin * element;
    const Index reach_end = operation.src_begin + reach.end * element;
    auto segment = std::partition_point(segments.begin(), segments.end(), [&](const Segment& s) {
      return s.range.file != operation.src_file ? s.range.file < operation.src_file : s.range.end <= reach_begin;
    });
    for (; segment != segments.end() && segment->range.file == operation.src_file && segment->range.begin < reach_end;
         ++segment) {
      if (!wanted(segment->reader)) continue;
      // Positions of the segment in elements of the source array; bytes of gaps do not matter.
      const Index low = segment->range.begin <= operation.src_begin
                            ? 0
                            : ceil_div(segment->range.begin - operation.src_begin, element);
      const Index high = (segment->range.end - operation.src_begin) / element;
      parts.clear();
      cut_by_src(by_src, low, high, parts);
      for (const StridedCopy& part : parts) visit(operation, *segment, part);
    }
  });
}

// Parts in a message begin at multiples of this, messages in a slot at multiples of that.
constexpr Index kPartAlignment = 8, kMessageAlignment = 64;

}  // namespace

Round spell_out(const Inputs& inputs, const std::vector<Range>& targets, const Owner& owner, int rank, int ranks,
                bool exchange) {
  Round round;
  const std::vector<Segment> segments = segments_of(inputs, targets, rank, ranks, exchange);
  for (const Segment& segment : segments) {
    if (segment.reader != rank) continue;
    round.reads.push_back({segment.range.file, segment.range.begin, segment.range.size(), segment.slot_offset});
  }

  // Where own ranges stand in the output slot; neighbours are written as one.
  std::vector<Own> own;
  std::vector<int> writers;
  for (const Range& target : targets) {
    writers.push_back(owner(target));
    if (writers.back() == rank) own.push_back({&target, 0, 0});
  }
  place_writes(inputs, own, round.writes);
  std::vector<const Own*> own_of(targets.size(), nullptr);
  for (const Own& part : own) own_of[static_cast<std::size_t>(part.range - targets.data())] = &part;

  // Copies, in an order that sender and receiver share: targets as given, ops by destination, parts by source.
  std::map<int, std::vector<Copy>> outgoing, arriving;
  std::map<int, Index> outgoing_bytes, arriving_bytes;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const Range& target = targets[i];
    const int writer = writers[i];
    if (!exchange && writer != rank) continue;
    const Own* mine = own_of[i];
    const auto wanted = [&](int reader) { return reader == rank || writer == rank; };
    for_each_part(
        inputs, target, segments, wanted,
        [&](const CutOperation& operation, const Segment& segment, const StridedCopy& part) {
          const Index src_element = bytes_of(operation.src_dtype), dst_element = bytes_of(operation.dst_dtype);
          const bool sends = writer != rank, local = segment.reader == writer;
          Copy copy;
          copy.src_dtype = operation.src_dtype;
          copy.dst_dtype = sends ? operation.src_dtype : operation.dst_dtype;
          copy.strided = part;
          copy.strided.src = copy.strided.dst = 0;
          if (writer == rank) {
            copy.line = operation.operation->line;
            copy.write = mine->write;
            copy.dst_slot = Slot::output;
            copy.dst_byte = mine->slot_offset + operation.dst_begin + part.dst * dst_element - target.begin;
          }
          if (local || sends) {
            copy.src_slot = Slot::source;
            copy.src_byte = segment.slot_offset + operation.src_begin + part.src * src_element - segment.range.begin;
          }
          if (local) {
            order_by_dst(copy.strided);
            round.place.push_back(copy);
            return;
          }
          const int peer = sends ? writer : segment.reader;
          Index& at = (sends ? outgoing_bytes : arriving_bytes)[peer];
          Index dense = 1;
          for (int k = part.rank; k-- > 0;) {
            (sends ? copy.strided.loops[k].dst : copy.strided.loops[k].src) = dense;
            dense *= part.loops[k].size;
          }
          if (sends) {
            copy.dst_slot = Slot::outgoing;
            copy.dst_byte = at;
            copy.line = kNoLine;
          } else {
            copy.src_slot = Slot::received;
            copy.src_byte = at;
          }
          (sends ? outgoing : arriving)[peer].push_back(copy);
          at = round_up(at + dense * src_element, kPartAlignment);
        });
    if (writer == rank) add_constants(inputs, target, mine->slot_offset, round.constants);
  }

  // Messages lie one after the other by peer.
  Index cursor = 0;
  for (auto& [peer, copies] : outgoing) {
    for (Copy& copy : copies) {
      copy.dst_byte += cursor;
      round.pack.push_back(copy);
    }
    round.sends.push_back({peer, cursor, outgoing_bytes[peer]});
    cursor = round_up(cursor + outgoing_bytes[peer], kMessageAlignment);
  }
  cursor = 0;
  for (auto& [peer, copies] : arriving) {
    for (Copy& copy : copies) {
      copy.src_byte += cursor;
      round.place.push_back(copy);
    }
    round.receives.push_back({peer, cursor, arriving_bytes[peer]});
    cursor = round_up(cursor + arriving_bytes[peer], kMessageAlignment);
  }
  return round;
}

RoundNeeds needs_of_exchange(const Inputs& inputs, const std::vector<Range>& targets, const Owner& owner, int ranks) {
  RoundNeeds needs;
  const auto note = [&](Slot slot, Index used) {
    Index& size = needs.slots[static_cast<std::size_t>(slot)];
    size = std::max(size, used);
  };
  const std::vector<Segment> segments = segments_of(inputs, targets, 0, ranks, true);
  for (const Segment& segment : segments) {
    needs.bytes_read += segment.range.size();
    note(Slot::source, segment.slot_offset + segment.range.size());
  }
  std::map<int, std::vector<Own>> written;
  std::map<std::pair<int, int>, Index> messages;  // bytes by sender and receiver
  for (const Range& target : targets) {
    const int writer = owner(target);
    written[writer].push_back({&target, 0, 0});
    for_each_part(
        inputs, target, segments, [&](int reader) { return reader != writer; },
        [&](const CutOperation& operation, const Segment& segment, const StridedCopy& part) {
          messages[{segment.reader, writer}] += round_up(part.volume() * bytes_of(operation.src_dtype), kPartAlignment);
        });
  }
  std::vector<Write> writes;
  for (auto& [writer, own] : written) {
    writes.clear();
    note(Slot::output, place_writes(inputs, own, writes));
  }
  // A rank's messages lie one after the other by peer.
  std::vector<Index> sent(static_cast<std::size_t>(ranks), 0), received = sent;
  for (const auto& [ends, bytes] : messages) {
    const auto add = [&](Slot slot, Index& cursor) {
      cursor = round_up(cursor, kMessageAlignment) + bytes;
      note(slot, cursor);
    };
    add(Slot::outgoing, sent[static_cast<std::size_t>(ends.first)]);
    add(Slot::received, received[static_cast<std::size_t>(ends.second)]);
  }
  return needs;
}

}  // namespace reshard::plan
