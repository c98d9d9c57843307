// SPDX-License-Identifier: Apache-2.0
#include "reshard/repack/repack.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels.h"
#include "loops.h"
#include "transpose.h"

namespace reshard::repack {
namespace {

// Values are staged in blocks that stay in the first-level cache between copy, cast and digest.
constexpr Index kBlockBytes = 8 * kKiB;
// A tile of a transpose takes two cache lines of each of 256 source rows; it stays in the first-level cache.
constexpr Index kTileColumnBytes = 128;
constexpr Index kTileRows = 256;
// Shorter loops are not worth being the innermost one if there is a longer one.
constexpr Index kShortLoop = 16;

template <class T>
void move_elements(const std::byte* src, Index src_stride, std::byte* dst, Index dst_stride, Index n) {
  for (Index i = 0; i < n; ++i) std::memcpy(dst + i * dst_stride, src + i * src_stride, sizeof(T));
}

struct Wide {
  std::uint64_t words[2];
};

void move_elements(Index element_bytes, const std::byte* src, Index src_stride, std::byte* dst, Index dst_stride,
                   Index n) {
  switch (element_bytes) {
    case 1:
      return move_elements<std::uint8_t>(src, src_stride, dst, dst_stride, n);
    case 2:
      return move_elements<std::uint16_t>(src, src_stride, dst, dst_stride, n);
    case 4:
      return move_elements<std::uint32_t>(src, src_stride, dst, dst_stride, n);
    case 8:
      return move_elements<std::uint64_t>(src, src_stride, dst, dst_stride, n);
    default:
      return move_elements<Wide>(src, src_stride, dst, dst_stride, n);
  }
}

// Calls body(src, dst, x) for every position of the loops, the last one fastest.
template <class Body>
void walk(const Step* loops, int rank, const std::byte* src, std::byte* dst, std::uint64_t x, const Body& body) {
  if (rank == 0) return body(src, dst, x);
  for (Index i = 0; i < loops->size; ++i) {
    walk(loops + 1, rank - 1, src, dst, x, body);
    src += loops->src;
    dst += loops->dst;
    x += loops->x;
  }
}

/// One copy on its way.
class Mover {
 public:
  explicit Mover(const plan::Copy& copy) : loops_(copy) {
    if (copy.src_dtype != copy.dst_dtype) convert_ = best_kernels().convert(copy.src_dtype, copy.dst_dtype);
    assert(copy.src_dtype == copy.dst_dtype || convert_);
    if (copy.line != plan::kNoLine) digest_ = best_kernels().digest(copy.dst_dtype);
    if (is_plain()) loops_.widen_element();
    src_bytes_ = loops_.src_bytes;
    dst_bytes_ = loops_.dst_bytes;
  }

  std::uint64_t run(const std::byte* src, std::byte* dst) {
    src += loops_.src;
    dst += loops_.dst;
    if (loops_.rank == 0) {
      move_line({1, src_bytes_, dst_bytes_, 0}, src, dst, loops_.x);
      return sum_;
    }
    const int by_src = loops_.near_src(), by_dst = loops_.near_dst();
    const bool long_enough = std::min(loops_.steps[by_src].size, loops_.steps[by_dst].size) >= kShortLoop;
    if (by_src != by_dst && long_enough) {
      const Step row = loops_.take(by_dst);  // the last one, so by_src stays where it is
      const Step column = loops_.take(by_src);
      walk(loops_.steps, loops_.rank, src, dst, loops_.x,
           [&](const std::byte* from, std::byte* to, std::uint64_t x) { move_tiles(column, row, from, to, x); });
    } else {
      const Step line = loops_.take(choose_line(by_src, by_dst));
      walk(loops_.steps, loops_.rank, src, dst, loops_.x,
           [&](const std::byte* from, std::byte* to, std::uint64_t x) { move_line(line, from, to, x); });
    }
    return sum_;
  }

 private:
  bool is_plain() const { return !convert_ && !digest_; }

  // Prefers the loop with the smallest strides, unless it is short.
  int choose_line(int by_src, int by_dst) const {
    const Step* const steps = loops_.steps;
    const int nearest = steps[by_src].size > steps[by_dst].size ? by_src : by_dst;
    if (steps[nearest].size >= kShortLoop) return nearest;
    const auto longest =
        std::max_element(steps, steps + loops_.rank, [](const Step& a, const Step& b) { return a.size < b.size; });
    return steps[nearest].size == longest->size ? nearest : static_cast<int>(longest - steps);
  }

  // One loop of elements, in blocks: gather, cast, count, scatter, whichever apply.
  void move_line(const Step& line, const std::byte* src, std::byte* dst, std::uint64_t x) {
    const bool src_dense = line.src == src_bytes_;
    const bool dst_dense = line.dst == dst_bytes_;
    if (is_plain()) {
      if (src_dense && dst_dense) {
        std::memcpy(dst, src, static_cast<std::size_t>(line.size * src_bytes_));
      } else {
        move_elements(src_bytes_, src, line.src, dst, line.dst, line.size);
      }
      return;
    }
    const Index block = kBlockBytes / std::max(src_bytes_, dst_bytes_);
    for (Index done = 0; done < line.size; done += block) {
      const Index n = std::min(block, line.size - done);
      const std::byte* values = src + done * line.src;
      std::byte* const to = dst + done * line.dst;
      if (!src_dense) {
        std::byte* const gathered = !convert_ && dst_dense ? to : gathered_;
        move_elements(src_bytes_, values, line.src, gathered, src_bytes_, n);
        values = gathered;
      }
      if (convert_) {
        std::byte* const converted = dst_dense ? to : converted_;
        convert_(values, converted, n);
        values = converted;
      }
      if (digest_) sum_ += digest_(values, n, x + static_cast<std::uint64_t>(done) * line.x, line.x);
      if (values == to) continue;
      if (dst_dense) {
        std::memcpy(to, values, static_cast<std::size_t>(n * dst_bytes_));
      } else {
        move_elements(dst_bytes_, values, dst_bytes_, to, line.dst, n);
      }
    }
  }

  // Two loops, `column` near in the source and `row` near in the destination, tile by tile: transposed into the cache,
  // then out line by line. The next tile is fetched meanwhile, for no hardware guesses it.
  void move_tiles(const Step& column, const Step& row, const std::byte* src, std::byte* dst, std::uint64_t x) {
    const Index side = kTileColumnBytes / src_bytes_;
    for (Index c = 0; c < column.size; c += side) {
      const Index columns = std::min(side, column.size - c);
      for (Index r = 0; r < row.size; r += kTileRows) {
        const Index rows = std::min(kTileRows, row.size - r);
        const bool same_columns = r + kTileRows < row.size;
        if (same_columns) prefetch(column, row, src, c, r + kTileRows);
        if (!same_columns && c + side < column.size) prefetch(column, row, src, c + side, 0);
        gather_tile(column, row, src + c * column.src + r * row.src, columns, rows);
        std::byte* const to = dst + c * column.dst + r * row.dst;
        const std::uint64_t first =
            x + static_cast<std::uint64_t>(c) * column.x + static_cast<std::uint64_t>(r) * row.x;
        for (Index i = 0; i < columns; ++i) {
          move_line({rows, src_bytes_, row.dst, row.x}, tile_ + i * pitch(), to + i * column.dst,
                    first + static_cast<std::uint64_t>(i) * column.x);
        }
      }
    }
  }

  // Inlined by force: compilers drop calls of a function that seems to have no effect.
  [[gnu::always_inline]] void prefetch(const Step& column, const Step& row, const std::byte* src, Index c,
                                       Index r) const {
    const Index columns = std::min(kTileColumnBytes / src_bytes_, column.size - c);
    const Index rows = std::min(kTileRows, row.size - r);
    const Index reach = (columns - 1) * column.src;
    for (Index i = 0; i < rows; ++i) {
      const std::byte* const line = src + c * column.src + (r + i) * row.src;
      for (Index at = 0; at <= std::min(reach, 2 * kTileColumnBytes); at += 64) __builtin_prefetch(line + at, 0, 2);
    }
  }

  Index pitch() const { return kTileRows * src_bytes_; }

  // tile[column][row] = src[row][column]
  void gather_tile(const Step& column, const Step& row, const std::byte* src, Index columns, Index rows) {
    if (column.src != src_bytes_) {
      for (Index r = 0; r < rows; ++r) {
        move_elements(src_bytes_, src + r * row.src, column.src, tile_ + r * src_bytes_, pitch(), columns);
      }
      return;
    }
    switch (src_bytes_) {
      case 1:
        return transpose<std::uint8_t>(src, row.src, rows, columns, tile_, pitch());
      case 2:
        return transpose<std::uint16_t>(src, row.src, rows, columns, tile_, pitch());
      case 4:
        return transpose<std::uint32_t>(src, row.src, rows, columns, tile_, pitch());
      case 8:
        return transpose<std::uint64_t>(src, row.src, rows, columns, tile_, pitch());
      default:
        return transpose<unsigned __int128>(src, row.src, rows, columns, tile_, pitch());
    }
  }

  Kernels::Convert convert_ = nullptr;
  Kernels::Digest digest_ = nullptr;
  Loops loops_;
  Index src_bytes_, dst_bytes_;
  std::uint64_t sum_ = 0;
  alignas(64) std::byte gathered_[kBlockBytes];
  alignas(64) std::byte converted_[kBlockBytes];
  alignas(64) std::byte tile_[kTileColumnBytes * kTileRows];
};

}  // namespace

void run(const plan::Copy& copy, const std::byte* src, std::byte* dst, std::uint64_t* digest) {
  if (copy.strided.volume() == 0) return;
  const std::uint64_t sum = Mover(copy).run(src, dst);
  if (copy.line != plan::kNoLine) *digest += sum;
}

Index moved_bytes(const plan::Copy& copy) { return ceil_div(copy.strided.volume() * bits_of(copy.dst_dtype), 8); }

std::vector<plan::Copy> split(const plan::Copy& copy, int parts) {
  const layout::StridedCopy& whole = copy.strided;
  // The outermost loop that is long enough, else the longest; runs stay whole where they can.
  int cut = -1;
  for (int k = 0; k < whole.rank; ++k) {
    const layout::Loop& loop = whole.loops[k];
    if (cut < 0) cut = k;
    const layout::Loop& best = whole.loops[cut];
    const bool enough = loop.size >= parts, best_enough = best.size >= parts;
    if (enough != best_enough ? enough : enough ? loop.dst > best.dst : loop.size > best.size) cut = k;
  }
  if (cut < 0 || parts <= 1) return {copy};
  const layout::Loop& loop = whole.loops[cut];
  // Cuts of a run stay on multiples of 64 elements: whole bytes of sub-byte types, and few shared cache lines.
  const Index grain = loop.dst == 1 ? 64 : 1;
  const Index share = round_up(ceil_div(loop.size, parts), grain);
  std::vector<plan::Copy> all;
  for (Index begin = 0; begin < loop.size; begin += share) {
    plan::Copy part = copy;
    part.src_byte += begin * loop.src * bits_of(copy.src_dtype) / 8;
    part.dst_byte += begin * loop.dst * bits_of(copy.dst_dtype) / 8;
    part.strided.canonical += begin * loop.canonical;
    part.strided.loops[cut].size = std::min(share, loop.size - begin);
    all.push_back(part);
  }
  return all;
}

}  // namespace reshard::repack
