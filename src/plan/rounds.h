// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "files.h"
#include "reshard/plan/plan.h"

namespace reshard::plan {

/// What all of a plan's rounds are made from.
struct Inputs {
  std::vector<Transfer> transfers;
  std::vector<TargetFile> targets;
  Operations operations;
  FileMap src_map, dst_map;
  bool twins = false;
  Sizes sizes;
};

/// A copy op cut to a range of a target file. Positions of the copy are elements of the two arrays.
struct CutOperation {
  const Operation* operation;
  layout::StridedCopy copy;  ///< loops by falling destination stride
  Index src_begin;           ///< byte of the source array's element 0 in its file
  Index dst_begin;           ///< same for the target array
  std::uint32_t src_file;
  DType src_dtype, dst_dtype;
};

/// The ops that write into a range of an array's file, some that end just before it among them; by destination.
inline std::span<const Operation> operations_in(const Inputs& inputs, const FileMap::Stored& stored,
                                                const Range& range) {
  const std::span<const Operation> ops = inputs.operations.into(stored.transfer, stored.array);
  const Index longest = inputs.operations.longest_reach(stored.transfer, stored.array);
  const Index low = (range.begin - stored.begin) / stored.element;
  const Index high = ceil_div(std::min(range.end, stored.end) - stored.begin, stored.element);
  const auto begin =
      std::partition_point(ops.begin(), ops.end(), [&](const Operation& op) { return op.dst <= low - longest; });
  const auto end = std::partition_point(begin, ops.end(), [&](const Operation& op) { return op.dst < high; });
  return {begin, end};
}

/// Calls visit(CutOperation) for every part of every op that writes into `range`, by rising destination array.
template <class Visit>
void for_each_operation(const Inputs& inputs, const Range& range, Visit&& visit) {
  std::vector<layout::StridedCopy> parts;
  for (const FileMap::Stored& stored : inputs.dst_map.touching(range)) {
    const Transfer& transfer = inputs.transfers[stored.transfer];
    // Ranges are cut at element boundaries.
    const Index low = std::max<Index>(0, (range.begin - stored.begin) / stored.element);
    const Index high = (std::min(range.end, stored.end) - stored.begin) / stored.element;
    const DType dst_dtype = transfer.dst->arrays()[stored.array].dtype;
    for (const Operation& op : operations_in(inputs, stored, range)) {
      parts.clear();
      cut_by_dst(inputs.operations.strided(op), low, high, parts);
      const Place& src = transfer.src_places[op.src_array];
      for (const layout::StridedCopy& part : parts) {
        visit(CutOperation{&op, part, src.offset, stored.begin, src.file, transfer.src->arrays()[op.src_array].dtype,
                           dst_dtype});
      }
    }
  }
}

/// Sorts and merges ranges that touch, overlap, or leave a gap of at most `gap` bytes.
void merge_ranges(std::vector<Range>& ranges, Index gap);

/// What some target ranges need of the sources.
struct Needed {
  std::vector<Range> blocks;  ///< short runs with the gaps between them: tell whether two targets share sources
  bool in_runs = false;       ///< blocks would read too much: only small gaps between runs are read
  Index bytes = 0;            ///< to read; of runs, which may be too many to list, at most
};
Needed needed_sources(const Inputs& inputs, std::span<const Range> targets);

/// What is read for some target ranges together: disjoint, sorted, with gaps of more than Sizes::bridged_gap.
std::vector<Range> reads_of(const Inputs& inputs, std::span<const Range> targets);

/// Target ranges and what they need.
struct Batch {
  std::vector<Range> targets;
  Needed needed;
  Index written = 0;  ///< bytes of the targets
};
Batch measure(const Inputs& inputs, std::vector<Range> targets);

/// Joins batches that need the same source bytes, so that they had better be made at one time: components of the
/// relation "share more than a sixteenth of what one of them reads at one place". Targets keep their order; components
/// are in the order of their first batch.
std::vector<Batch> linked(const Inputs& inputs, std::vector<Batch> batches);

/// Target ranges that are made in one round, and, for a rank that makes them alone, what it reads and the slots it
/// needs.
struct CutRound {
  std::vector<Range> targets;
  Index bytes_read = 0;
  Index source_slot = 0, output_slot = 0;
};

/// Cuts groups of target ranges into rounds of about `round_bytes`: linked parts stay together, and so do, within
/// bounds, those whose short source runs lie between each other's; parts too large are cut finer, at natural boundaries
/// of the ops. If `force`, linked parts that stay larger than four rounds are cut all the same and their sources read
/// more than once.
std::vector<CutRound> cut_rounds(const Inputs& inputs, std::vector<Batch> groups, Index round_bytes, bool force);

/// Gives the rank that writes a range.
using Owner = std::function<int(const Range&)>;

/// Spells out one round for one rank. If `exchange`, the sources are read in even stripes by all ranks, else all by
/// `rank`.
Round spell_out(const Inputs& inputs, const std::vector<Range>& targets, const Owner& owner, int rank, int ranks,
                bool exchange);

/// What spell_out would come to for a round with an exchange.
struct RoundNeeds {
  Index bytes_read = 0;             ///< by all ranks
  std::array<Index, 4> slots = {};  ///< bytes, by Slot: the largest of any rank
};
RoundNeeds needs_of_exchange(const Inputs& inputs, const std::vector<Range>& targets, const Owner& owner, int ranks);

}  // namespace reshard::plan
