// SPDX-License-Identifier: Apache-2.0
#include "reshard/layout/strided.h"

#include <algorithm>

namespace reshard::layout {
namespace {

template <Index Loop::*Side>
void order_by(StridedCopy& copy) {
  // Insertion sort: at most eight loops, nearly always in order already.
  for (int i = 1; i < copy.rank; ++i) {
    for (int k = i; k > 0 && copy.loops[k].*Side > copy.loops[k - 1].*Side; --k)
      std::swap(copy.loops[k], copy.loops[k - 1]);
  }
}

template <Index Loop::*Side>
Reach reach(const StridedCopy& copy, Index begin) {
  Index end = begin + 1;
  for (int k = 0; k < copy.rank; ++k) {
    if (copy.loops[k].size == 0) return {begin, begin};
    end += (copy.loops[k].size - 1) * copy.loops[k].*Side;
  }
  return {begin, end};
}

/// `copy` from multi-index digit `at` of loop `k` on, `size` values long, with all outer loops fixed by `base`.
StridedCopy slice(const StridedCopy& copy, const StridedCopy& base, int k, Index at, Index size) {
  StridedCopy part = copy;
  part.src = base.src + at * copy.loops[k].src;
  part.dst = base.dst + at * copy.loops[k].dst;
  part.canonical = base.canonical + at * copy.loops[k].canonical;
  part.rank = copy.rank - k;
  for (int i = k; i < copy.rank; ++i) part.loops[i - k] = copy.loops[i];
  part.loops[0].size = size;
  return part;
}

/// Restricts the loops from `k` on to positions in [begin, end), measured from the position of `base`.
template <Index Loop::*Side>
void cut(const StridedCopy& copy, const StridedCopy& base, int k, Index begin, Index end,
         std::vector<StridedCopy>& parts) {
  if (k == copy.rank) {
    if (begin <= 0 && end > 0) {
      StridedCopy part = base;
      part.rank = 0;
      parts.push_back(part);
    }
    return;
  }
  const Loop& loop = copy.loops[k];
  Index inner = 1;  // positions that one value of this loop spans
  for (int i = k + 1; i < copy.rank; ++i) {
    if (copy.loops[i].size == 0) return;
    inner += (copy.loops[i].size - 1) * copy.loops[i].*Side;
  }
  if (loop.size == 0) return;
  const Index stride = loop.*Side;
  if (stride == 0) {  // this loop and the ones inside it stay at one position
    if (begin <= 0 && end > 0) parts.push_back(slice(copy, base, k, 0, loop.size));
    return;
  }
  // Value v covers [v * stride, v * stride + inner). Wholly inside: begin <= v * stride and v * stride + inner <= end.
  const Index first_touched = begin <= 0 ? 0 : std::max<Index>(0, (begin - inner) / stride + (begin >= inner ? 1 : 0));
  const Index last_touched = end <= 0 ? -1 : std::min(loop.size - 1, (end - 1) / stride);
  if (first_touched > last_touched) return;
  const Index first_whole = std::max(first_touched, begin <= 0 ? Index{0} : ceil_div(begin, stride));
  const Index last_whole = end < inner ? -1 : std::min(last_touched, (end - inner) / stride);
  const auto descend = [&](Index value) {
    StridedCopy at = base;
    at.src += value * loop.src;
    at.dst += value * loop.dst;
    at.canonical += value * loop.canonical;
    cut<Side>(copy, at, k + 1, begin - value * stride, end - value * stride, parts);
  };
  if (first_whole > last_whole) {
    for (Index value = first_touched; value <= last_touched; ++value) descend(value);
    return;
  }
  for (Index value = first_touched; value < first_whole; ++value) descend(value);
  parts.push_back(slice(copy, base, k, first_whole, last_whole - first_whole + 1));
  for (Index value = last_whole + 1; value <= last_touched; ++value) descend(value);
}

template <Index Loop::*Side>
void cut_whole(const StridedCopy& copy, Index from, Index begin, Index end, std::vector<StridedCopy>& parts) {
  const Reach whole = reach<Side>(copy, from);
  if (whole.begin >= whole.end || whole.end <= begin || end <= whole.begin) return;
  if (begin <= whole.begin && whole.end <= end) {
    parts.push_back(copy);
    return;
  }
  cut<Side>(copy, copy, 0, begin - from, end - from, parts);
}

}  // namespace

void coalesce(StridedCopy& copy) {
  int kept = 0;
  for (int k = 0; k < copy.rank; ++k) {
    const Loop loop = copy.loops[k];
    if (loop.size == 1) continue;
    if (kept > 0) {
      Loop& outer = copy.loops[kept - 1];
      if (outer.src == loop.size * loop.src && outer.dst == loop.size * loop.dst &&
          outer.canonical == loop.size * loop.canonical) {
        outer = {outer.size * loop.size, loop.src, loop.dst, loop.canonical};
        continue;
      }
    }
    copy.loops[kept++] = loop;
  }
  copy.rank = kept;
}

void order_by_src(StridedCopy& copy) { order_by<&Loop::src>(copy); }
void order_by_dst(StridedCopy& copy) { order_by<&Loop::dst>(copy); }

Reach src_reach(const StridedCopy& copy) { return reach<&Loop::src>(copy, copy.src); }
Reach dst_reach(const StridedCopy& copy) { return reach<&Loop::dst>(copy, copy.dst); }

void cut_by_src(const StridedCopy& copy, Index begin, Index end, std::vector<StridedCopy>& parts) {
  cut_whole<&Loop::src>(copy, copy.src, begin, end, parts);
}
void cut_by_dst(const StridedCopy& copy, Index begin, Index end, std::vector<StridedCopy>& parts) {
  cut_whole<&Loop::dst>(copy, copy.dst, begin, end, parts);
}

}  // namespace reshard::layout
