// SPDX-License-Identifier: Apache-2.0
#include "loops.h"

#include <algorithm>
#include <cassert>

#include "reshard/repack/digest.h"

namespace reshard::repack {
namespace {

// Elements of `bits` bits into bytes: the loop of stride 1 gets shorter, all other strides shrink.
void scale_to_bytes(layout::StridedCopy& copy, Index bits) {
  for (int k = 0; k < copy.rank; ++k) {
    layout::Loop& loop = copy.loops[k];
    if (loop.size == 1) continue;
    if (loop.src == 1 && loop.dst == 1) {
      assert(loop.size * bits % 8 == 0);
      loop.size = loop.size * bits / 8;
      continue;
    }
    assert(loop.src * bits % 8 == 0 && loop.dst * bits % 8 == 0);
    loop = {loop.size, loop.src * bits / 8, loop.dst * bits / 8, loop.canonical * bits / 8};
  }
  copy.canonical = copy.canonical * bits / 8;
}

}  // namespace

Loops::Loops(const plan::Copy& copy) {
  layout::StridedCopy strided = copy.strided;
  if (is_sub_byte(copy.src_dtype)) scale_to_bytes(strided, bits_of(copy.src_dtype));
  src_bytes = is_sub_byte(copy.src_dtype) ? 1 : bytes_of(copy.src_dtype);
  dst_bytes = is_sub_byte(copy.dst_dtype) ? 1 : bytes_of(copy.dst_dtype);
  if (copy.line == plan::kNoLine) {
    for (int k = 0; k < strided.rank; ++k) strided.loops[k].canonical = 0;
  }
  layout::order_by_dst(strided);
  layout::coalesce(strided);

  src = copy.src_byte;
  dst = copy.dst_byte;
  x = (static_cast<std::uint64_t>(strided.canonical) + 1) * kDigestStep;
  rank = strided.rank;
  for (int k = 0; k < rank; ++k) {
    const layout::Loop& loop = strided.loops[k];
    steps[k] = {loop.size, loop.src * src_bytes, loop.dst * dst_bytes,
                static_cast<std::uint64_t>(loop.canonical) * kDigestStep};
  }
}

int Loops::dense() const {
  for (int k = 0; k < rank; ++k) {
    if (steps[k].src == src_bytes && steps[k].dst == dst_bytes) return k;
  }
  return -1;
}

int Loops::near_src() const {
  const auto nearest =
      std::min_element(steps, steps + rank, [](const Step& a, const Step& b) { return a.src < b.src; });
  return static_cast<int>(nearest - steps);
}

void Loops::widen_element() {
  const int k = dense();
  if (k < 0) return;
  const Index bytes = src_bytes * steps[k].size;
  if (bytes != 2 && bytes != 4 && bytes != 8 && bytes != 16) return;
  src_bytes = dst_bytes = bytes;
  take(k);
}

void Loops::split_element() {
  const int k = dense();
  const Step bytes = {k < 0 ? src_bytes : take(k).size * src_bytes, 1, 1, 0};
  src_bytes = dst_bytes = 1;
  if (bytes.size > 1) steps[rank++] = bytes;
}

Step Loops::take(int k) {
  const Step step = steps[k];
  std::copy(steps + k + 1, steps + rank, steps + k);
  --rank;
  return step;
}

}  // namespace reshard::repack
