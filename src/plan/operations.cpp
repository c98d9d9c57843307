// SPDX-License-Identifier: Apache-2.0
#include "reshard/plan/operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>
#include <unordered_map>

#include "reshard/base/hash.h"

namespace reshard::plan {
namespace {

using layout::Fusion;
using layout::Piece;
using layout::StridedCopy;

Fusion common_fusion(const Transfer& transfer, std::uint32_t tensor) {
  const std::vector<bool> src = transfer.src->fusable(tensor);
  const std::vector<bool> dst = transfer.dst->fusable(tensor);
  Fusion fusion;
  const std::size_t rank = transfer.src->canon().tensors()[tensor].axes.size();
  for (std::size_t a = 0; a < rank; ++a) {
    if (a == 0 || !src[a - 1] || !dst[a - 1]) fusion.first.push_back(static_cast<int>(a));
  }
  return fusion;
}

Index volume(const Piece& piece) {
  Index n = 1;
  for (int k = 0; k < piece.rank; ++k) n *= piece.size[k];
  return n;
}

/// Boxes as a tree of intervals, one level per axis: the children of a node are its distinct intervals on that axis, by
/// rising begin. A query visits only what it overlaps, whether the boxes form a grid or not.
class BoxTree {
 public:
  /// Sorts `boxes`, which must outlive the tree.
  explicit BoxTree(std::vector<Piece>& boxes) : boxes_(boxes) {
    if (boxes_.empty()) return;
    rank_ = boxes_.front().rank;
    const auto before = [this](const Piece& a, const Piece& b) {
      for (int k = 0; k < rank_; ++k) {
        if (a.begin[k] != b.begin[k]) return a.begin[k] < b.begin[k];
        if (a.size[k] != b.size[k]) return a.size[k] < b.size[k];
      }
      return false;
    };
    // Layouts spell pieces out in this order already, but for a few.
    if (!std::is_sorted(boxes_.begin(), boxes_.end(), before)) std::stable_sort(boxes_.begin(), boxes_.end(), before);
    build(0, 0, boxes_.size());
  }

  /// Calls visit(box) for each box that shares an element with `query`.
  template <class Visit>
  void overlapping(const Piece& query, Visit&& visit) const {
    if (!nodes_.empty()) descend(0, query, visit);
  }

  const std::vector<Piece>& boxes() const { return boxes_; }

 private:
  struct Interval {
    Index begin, end, farthest;  // farthest: largest end so far
    std::size_t child;           // node, or first box at the last level
    std::size_t last_box;
  };
  struct Node {
    int axis;
    std::size_t first, last;  // intervals
  };

  std::size_t build(int axis, std::size_t first, std::size_t last) {
    const std::size_t number = nodes_.size();
    nodes_.push_back({axis, 0, 0});
    if (axis == rank_) {  // a tensor without axes, or the end: boxes first..last are equal
      nodes_[number].first = first;
      nodes_[number].last = last;
      return number;
    }
    std::vector<Interval> here;
    for (std::size_t i = first; i < last;) {
      std::size_t j = i + 1;
      while (j < last && boxes_[j].begin[axis] == boxes_[i].begin[axis] && boxes_[j].size[axis] == boxes_[i].size[axis])
        ++j;
      const Index end = boxes_[i].begin[axis] + boxes_[i].size[axis];
      const Index farthest = here.empty() ? end : std::max(end, here.back().farthest);
      here.push_back({boxes_[i].begin[axis], end, farthest, i, j});
      i = j;
    }
    const bool leaf = axis + 1 == rank_;
    if (!leaf) {
      for (Interval& interval : here) interval.child = build(axis + 1, interval.child, interval.last_box);
    }
    nodes_[number].first = intervals_.size();
    intervals_.insert(intervals_.end(), here.begin(), here.end());
    nodes_[number].last = intervals_.size();
    return number;
  }

  template <class Visit>
  void descend(std::size_t number, const Piece& query, Visit& visit) const {
    const Node& node = nodes_[number];
    if (node.axis == rank_) {
      for (std::size_t i = node.first; i < node.last; ++i) visit(boxes_[i]);
      return;
    }
    const Index begin = query.begin[node.axis], end = begin + query.size[node.axis];
    const auto first = intervals_.begin() + static_cast<std::ptrdiff_t>(node.first);
    const auto last = intervals_.begin() + static_cast<std::ptrdiff_t>(node.last);
    auto at = std::partition_point(first, last, [&](const Interval& i) { return i.farthest <= begin; });
    for (; at != last && at->begin < end; ++at) {
      if (at->end <= begin) continue;
      if (node.axis + 1 == rank_) {
        for (std::size_t i = at->child; i < at->last_box; ++i) visit(boxes_[i]);
      } else {
        descend(at->child, query, visit);
      }
    }
  }

  std::vector<Piece>& boxes_;
  int rank_ = 0;
  std::vector<Node> nodes_;
  std::vector<Interval> intervals_;
};

/// Keeps each different list of loops once.
class LoopPool {
 public:
  explicit LoopPool(std::vector<layout::Loop>& pool) : pool_(pool) {}

  std::uint32_t intern(const StridedCopy& copy) {
    Hasher hasher;
    for (int k = 0; k < copy.rank; ++k) {
      for (const Index v : {copy.loops[k].size, copy.loops[k].src, copy.loops[k].dst, copy.loops[k].canonical}) {
        hasher.step(static_cast<std::uint64_t>(v));
      }
    }
    auto [at, end] = known_.equal_range(hasher.value());
    for (; at != end; ++at) {
      if (std::equal(
              copy.loops, copy.loops + copy.rank, pool_.begin() + at->second,
              pool_.begin() + std::min<std::ptrdiff_t>(std::ptrdiff_t{at->second} + copy.rank, std::ssize(pool_)))) {
        return at->second;
      }
    }
    const auto number = static_cast<std::uint32_t>(pool_.size());
    pool_.insert(pool_.end(), copy.loops, copy.loops + copy.rank);
    known_.emplace(hasher.value(), number);
    return number;
  }

 private:
  std::vector<layout::Loop>& pool_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> known_;
};

/// Sorts operations[first..] by target array, then by destination: a counting sort, as arrays are many and ops per
/// array few. Tensor by tensor the ops come in array order already, so that the scatter walks memory forwards.
void sort_by_target(std::vector<Operation>& operations, std::size_t first, std::size_t num_arrays) {
  std::vector<std::size_t> next(num_arrays + 1, 0);
  for (std::size_t i = first; i < operations.size(); ++i) ++next[operations[i].dst_array + 1];
  next[0] = first;
  for (std::size_t a = 0; a < num_arrays; ++a) next[a + 1] += next[a];
  std::vector<Operation> sorted(operations.size());
  std::copy_n(operations.begin(), first, sorted.begin());
  for (std::size_t i = first; i < operations.size(); ++i) sorted[next[operations[i].dst_array]++] = operations[i];
  operations = std::move(sorted);
  const auto by_dst = [](const Operation& a, const Operation& b) { return a.dst < b.dst; };
  for (auto at = operations.begin() + static_cast<std::ptrdiff_t>(first); at != operations.end();) {
    auto end = at + 1;
    while (end != operations.end() && end->dst_array == at->dst_array) ++end;
    if (!std::is_sorted(at, end, by_dst)) std::stable_sort(at, end, by_dst);
    at = end;
  }
}

/// What the intersection of one tensor needs to know, computed once.
struct TensorForm {
  std::uint32_t tensor;
  int rank;
  int layer_axis = -1, expert_axis = -1;  // fused positions
  Index canonical[layout::kMaxAxes];      // steps of the fused axes in the line index
};

TensorForm form_of(const layout::Canon& canon, std::uint32_t t, const Fusion& fusion) {
  const layout::Tensor& tensor = canon.tensors()[t];
  TensorForm form{t, static_cast<int>(fusion.first.size()), -1, -1, {}};
  for (int k = 0; k < form.rank; ++k) {
    const auto first = static_cast<std::size_t>(fusion.first[static_cast<std::size_t>(k)]);
    const auto next = k + 1 < form.rank ? static_cast<std::size_t>(fusion.first[static_cast<std::size_t>(k) + 1])
                                        : tensor.axes.size();
    form.canonical[k] = canon.line_stride(t, static_cast<int>(next) - 1);
    if (tensor.axes[first].name == "layer") form.layer_axis = k;
    if (tensor.axes[first].name == "expert") form.expert_axis = k;
  }
  return form;
}

}  // namespace

Expected<Operations> Operations::intersect(std::span<const Transfer> transfers) {
  Operations result;
  LoopPool pool(result.pool_);
  std::vector<Operation>& operations = result.operations_;
  std::vector<Piece> stored, wanted_pieces;  // of one tensor at a time
  for (std::size_t number = 0; number < transfers.size(); ++number) {
    const Transfer& transfer = transfers[number];
    const layout::Canon& canon = transfer.dst->canon();
    const std::size_t first_operation = operations.size();
    std::int64_t per_piece_line = 0;
    // Two sorted lists of cuts meet at most as often as both are long; only experts and layers stacked in one array
    // give more.
    operations.reserve(first_operation + transfer.src->arrays().size() + transfer.dst->arrays().size());
    for (std::uint32_t t = 0; t < canon.tensors().size(); ++t) {
      const layout::Tensor& tensor = canon.tensors()[t];
      const Fusion fusion = common_fusion(transfer, t);
      const TensorForm form = form_of(canon, t, fusion);
      transfer.src->pieces(t, fusion, stored);
      if (transfer.per_piece) {
        for (const Piece& piece : stored) {
          StridedCopy copy;
          copy.src = copy.dst = piece.offset;
          for (int k = 0; k < form.rank; ++k) {
            copy.canonical += piece.begin[k] * form.canonical[k];
            copy.loops[copy.rank++] = {piece.size[k], piece.stride[k], piece.stride[k], form.canonical[k]};
          }
          order_by_dst(copy);
          coalesce(copy);
          operations.push_back({piece.array, piece.array, pool.intern(copy), static_cast<std::uint8_t>(copy.rank),
                                static_cast<std::uint8_t>(number), transfer.line_base + per_piece_line++, copy.src,
                                copy.dst, copy.canonical});
        }
        continue;
      }
      const auto kept = std::stable_partition(stored.begin(), stored.end(), [](const Piece& p) { return !p.replica; });
      for (auto replica = kept; replica != stored.end(); ++replica) result.replicas_skipped_ += volume(*replica);
      stored.erase(kept, stored.end());
      const BoxTree tree(stored);

      Index source_volume = 0;
      for (const Piece& box : tree.boxes()) source_volume += volume(box);
      const Index lines = tensor.find_axis("layer") < 0 && tensor.find_axis("expert") < 0 ? 1 : 0;
      Index tensor_volume = canon.line_volume(t);
      if (lines == 0) {
        Index count = 1;
        for (const layout::Axis& axis : tensor.axes) {
          if (axis.name == "layer") count *= tensor.layers.empty() ? axis.size : std::ssize(tensor.layers);
          if (axis.name == "expert") count *= axis.size;
        }
        tensor_volume *= count;
      }
      if (source_volume != tensor_volume) {
        return input_error(
            fmt::format("tensor {}: the source's shards hold {} elements, expected {}: shards overlap or are missing",
                        tensor.name, source_volume, tensor_volume));
      }

      Index counted = 0;
      transfer.dst->pieces(t, fusion, wanted_pieces);
      for (const Piece& target : wanted_pieces) {
        const Index wanted = volume(target);
        Index found = 0;
        tree.overlapping(target, [&](const Piece& source) {
          Index begin[layout::kMaxAxes], size[layout::kMaxAxes];
          for (int k = 0; k < form.rank; ++k) {
            begin[k] = std::max(source.begin[k], target.begin[k]);
            size[k] = std::min(source.begin[k] + source.size[k], target.begin[k] + target.size[k]) - begin[k];
          }
          const Index layers = form.layer_axis >= 0 ? size[form.layer_axis] : 1;
          const Index experts = form.expert_axis >= 0 ? size[form.expert_axis] : 1;
          StridedCopy copy;
          for (int k = 0; k < form.rank; ++k) {
            copy.src += (begin[k] - source.begin[k]) * source.stride[k];
            copy.dst += (begin[k] - target.begin[k]) * target.stride[k];
            copy.canonical += begin[k] * form.canonical[k];
            if (k == form.layer_axis || k == form.expert_axis) continue;
            copy.loops[copy.rank++] = {size[k], source.stride[k], target.stride[k], form.canonical[k]};
          }
          copy.src += source.offset;
          copy.dst += target.offset;
          const Index line_elements = copy.volume();
          order_by_dst(copy);
          coalesce(copy);
          const std::uint32_t loops = pool.intern(copy);
          for (Index l = 0; l < layers; ++l) {
            for (Index e = 0; e < experts; ++e) {
              Operation op;
              op.src_array = source.array;
              op.dst_array = target.array;
              op.loops = loops;
              op.rank = static_cast<std::uint8_t>(copy.rank);
              op.transfer = static_cast<std::uint8_t>(number);
              op.src = copy.src;
              op.dst = copy.dst;
              op.canonical = copy.canonical;
              Index layer = -1, expert = -1;
              if (form.layer_axis >= 0) {
                layer = begin[form.layer_axis] + l;
                op.src += l * source.stride[form.layer_axis];
                op.dst += l * target.stride[form.layer_axis];
              }
              if (form.expert_axis >= 0) {
                expert = begin[form.expert_axis] + e;
                op.src += e * source.stride[form.expert_axis];
                op.dst += e * target.stride[form.expert_axis];
              }
              op.line = target.replica ? -1 : transfer.line_base + canon.line_number(t, layer, expert);
              operations.push_back(op);
              found += line_elements;
            }
          }
        });
        if (found != wanted) {
          const layout::Array& array = transfer.dst->arrays()[target.array];
          return input_error(fmt::format("tensor {}: {} of the {} elements that {} holds are not in the source",
                                         tensor.name, wanted - found, wanted, transfer.dst->name(array)));
        }
        if (!target.replica) counted += wanted;
      }
      if (counted != tensor_volume) {
        return usage_error(fmt::format("tensor {}: format {} would hold {} elements once, expected {}", tensor.name,
                                       transfer.dst->table().format, counted, tensor_volume));
      }
    }

    sort_by_target(operations, first_operation, transfer.dst->arrays().size());
    std::vector<Into> into(transfer.dst->arrays().size(), Into{0, 0, 0});
    for (std::size_t i = first_operation; i < operations.size();) {
      std::size_t j = i;
      Index longest = 0, written = 0;
      const std::uint32_t array = operations[i].dst_array;
      for (; j < operations.size() && operations[j].dst_array == array; ++j) {
        const StridedCopy copy = result.strided(operations[j]);
        const layout::Reach reach = dst_reach(copy);
        longest = std::max(longest, reach.end - reach.begin);
        written += copy.volume();
      }
      for (const Piece& fill : transfer.dst->fills(array)) written += volume(fill);
      const Index elements = *num_elements(transfer.dst->shape(transfer.dst->arrays()[array]));
      if (written != elements) {
        return usage_error(
            fmt::format("array {}: its parts cover {} elements, expected {}: the format's table is wrong",
                        transfer.dst->name(transfer.dst->arrays()[array]), written, elements));
      }
      into[array] = {static_cast<Index>(i), static_cast<Index>(j), longest};
      i = j;
    }
    result.into_.push_back(std::move(into));
  }
  return result;
}

std::vector<PieceLine> piece_lines(const layout::Layout& layout) {
  const Transfer itself{&layout, {}, &layout, {}, 0, true};
  std::vector<PieceLine> lines;
  std::vector<Piece> pieces;
  for (std::uint32_t t = 0; t < layout.canon().tensors().size(); ++t) {
    layout.pieces(t, common_fusion(itself, t), pieces);
    for (const Piece& piece : pieces) lines.push_back({t, piece});
  }
  return lines;
}

std::span<const Operation> Operations::into(std::size_t transfer, std::uint32_t dst_array) const {
  const Into& range = into_[transfer][dst_array];
  return std::span(operations_)
      .subspan(static_cast<std::size_t>(range.begin), static_cast<std::size_t>(range.end - range.begin));
}

Index Operations::longest_reach(std::size_t transfer, std::uint32_t dst_array) const {
  return into_[transfer][dst_array].longest;
}

StridedCopy Operations::strided(const Operation& op) const {
  StridedCopy copy;
  copy.src = op.src;
  copy.dst = op.dst;
  copy.canonical = op.canonical;
  copy.rank = op.rank;
  std::copy_n(pool_.begin() + op.loops, op.rank, copy.loops);
  return copy;
}

Index Operations::memory_bytes() const {
  Index bytes =
      static_cast<Index>(operations_.capacity() * sizeof(Operation) + pool_.capacity() * sizeof(layout::Loop));
  for (const auto& into : into_) bytes += static_cast<Index>(into.capacity() * sizeof(Into));
  return bytes;
}

}  // namespace reshard::plan
