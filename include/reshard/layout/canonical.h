// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"
#include "reshard/layout/expression.h"

namespace reshard::layout {

/// A named axis of a canonical tensor and its true (unpadded, unreplicated) extent.
struct Axis {
  std::string name;
  Index size = 0;
};

/// A model weight with named, fully factored axes and no storage, for example
/// attn.q[layer, group, query, half, pair, embed]. The order of the axes is the canonical order.
struct Tensor {
  std::string name;
  std::vector<Axis> axes;
  /// Values of the `layer` axis at which the tensor exists; empty means all (or that it has no such axis).
  std::vector<Index> layers;

  int find_axis(std::string_view axis) const;  ///< position, or -1
};

/// The axes whose values tell apart the lines of a digest, and copies never span more than one value of.
bool is_instance_axis(std::string_view axis);

/// A canonical tensor at one value of its `layer` and `expert` axes: what digests, diffs and reports call a tensor.
struct Line {
  std::uint32_t tensor;
  Index layer = -1;  ///< -1: the tensor has no such axis
  Index expert = -1;
};

/// All canonical tensors of one checkpoint, and the numbers and names that format tables may ask for.
class Canon {
 public:
  Canon() = default;
  Canon(std::vector<Tensor> tensors, Scope scope);

  const std::vector<Tensor>& tensors() const { return tensors_; }
  int find(std::string_view tensor) const;  ///< position, or -1
  /// Hyper-parameters, axis extents, flags and index sets of the model.
  const Scope& scope() const { return scope_; }

  /// Lines of all tensors, in order of tensor, layer, expert.
  Index num_lines() const { return line_base_.empty() ? 0 : line_base_.back(); }
  Line line(Index number) const;
  /// Number of the line that holds `tensor` at these values (-1 where it has no such axis); -1 if it does not exist
  /// there.
  Index line_number(std::uint32_t tensor, Index layer, Index expert) const;
  /// Elements of one line of `tensor`.
  Index line_volume(std::uint32_t tensor) const { return line_volume_[tensor]; }
  /// "attn.q[layer=3]", "moe.gate[layer=3,expert=17]", "embed".
  std::string line_name(Index number) const;
  /// Step of axis k of `tensor` in the row-major index inside a line; 0 for instance axes.
  Index line_stride(std::uint32_t tensor, int axis) const {
    return line_strides_[tensor][static_cast<std::size_t>(axis)];
  }
  /// Extents of one line: the tensor's shape without its instance axes.
  Shape line_shape(std::uint32_t tensor) const;

 private:
  std::vector<Tensor> tensors_;
  Scope scope_;
  std::map<std::string, int, std::less<>> by_name_;
  std::vector<Index> line_base_;  // first line of each tensor, and the total
  std::vector<Index> line_volume_;
  std::vector<std::vector<Index>> line_strides_;
};

}  // namespace reshard::layout
