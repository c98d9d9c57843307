// SPDX-License-Identifier: Apache-2.0
#include "reshard/layout/canonical.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

namespace reshard::layout {
namespace {

struct InstanceSizes {
  Index layers = 1, experts = 1;
};

InstanceSizes instance_sizes(const Tensor& tensor) {
  InstanceSizes sizes;
  for (const Axis& axis : tensor.axes) {
    if (axis.name == "layer")
      sizes.layers = tensor.layers.empty() ? axis.size : static_cast<Index>(tensor.layers.size());
    if (axis.name == "expert") sizes.experts = axis.size;
  }
  return sizes;
}

}  // namespace

int Tensor::find_axis(std::string_view axis) const {
  for (std::size_t i = 0; i < axes.size(); ++i) {
    if (axes[i].name == axis) return static_cast<int>(i);
  }
  return -1;
}

bool is_instance_axis(std::string_view axis) { return axis == "layer" || axis == "expert"; }

Canon::Canon(std::vector<Tensor> tensors, Scope scope) : tensors_(std::move(tensors)), scope_(std::move(scope)) {
  line_base_.push_back(0);
  for (std::size_t t = 0; t < tensors_.size(); ++t) {
    const Tensor& tensor = tensors_[t];
    by_name_[tensor.name] = static_cast<int>(t);
    const InstanceSizes sizes = instance_sizes(tensor);
    line_base_.push_back(line_base_.back() + sizes.layers * sizes.experts);
    std::vector<Index> strides(tensor.axes.size(), 0);
    Index unit = 1;
    for (std::size_t a = tensor.axes.size(); a-- > 0;) {
      if (is_instance_axis(tensor.axes[a].name)) continue;
      strides[a] = unit;
      unit *= tensor.axes[a].size;
    }
    line_strides_.push_back(std::move(strides));
    line_volume_.push_back(unit);
  }
}

int Canon::find(std::string_view tensor) const {
  const auto found = by_name_.find(tensor);
  return found == by_name_.end() ? -1 : found->second;
}

Line Canon::line(Index number) const {
  const auto after = std::upper_bound(line_base_.begin(), line_base_.end(), number);
  const auto t = static_cast<std::size_t>(after - line_base_.begin() - 1);
  const Tensor& tensor = tensors_[t];
  const Index experts = instance_sizes(tensor).experts;
  const Index within = number - line_base_[t];
  Line line{static_cast<std::uint32_t>(t), -1, -1};
  if (tensor.find_axis("layer") >= 0) {
    const Index ordinal = within / experts;
    line.layer = tensor.layers.empty() ? ordinal : tensor.layers[static_cast<std::size_t>(ordinal)];
  }
  if (tensor.find_axis("expert") >= 0) line.expert = within % experts;
  return line;
}

Index Canon::line_number(std::uint32_t t, Index layer, Index expert) const {
  const Tensor& tensor = tensors_[t];
  const InstanceSizes sizes = instance_sizes(tensor);
  Index ordinal = 0;
  if (tensor.find_axis("layer") >= 0) {
    if (tensor.layers.empty()) {
      ordinal = layer;
    } else {
      const auto found = std::lower_bound(tensor.layers.begin(), tensor.layers.end(), layer);
      if (found == tensor.layers.end() || *found != layer) return -1;
      ordinal = found - tensor.layers.begin();
    }
  }
  const Index e = tensor.find_axis("expert") >= 0 ? expert : 0;
  if (ordinal < 0 || ordinal >= sizes.layers || e < 0 || e >= sizes.experts) return -1;
  return line_base_[t] + ordinal * sizes.experts + e;
}

std::string Canon::line_name(Index number) const {
  const Line at = line(number);
  const std::string& name = tensors_[at.tensor].name;
  if (at.layer >= 0 && at.expert >= 0) return fmt::format("{}[layer={},expert={}]", name, at.layer, at.expert);
  if (at.layer >= 0) return fmt::format("{}[layer={}]", name, at.layer);
  if (at.expert >= 0) return fmt::format("{}[expert={}]", name, at.expert);
  return name;
}

Shape Canon::line_shape(std::uint32_t tensor) const {
  Shape shape;
  for (const Axis& axis : tensors_[tensor].axes) {
    if (!is_instance_axis(axis.name)) shape.push_back(axis.size);
  }
  return shape;
}

}  // namespace reshard::layout
