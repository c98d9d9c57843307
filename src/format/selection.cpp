// SPDX-License-Identifier: Apache-2.0
#include "selection.h"

#include <fmt/format.h>

#include <algorithm>

#include "reshard/base/text.h"

namespace reshard::format {

namespace {

Index axis_size(const layout::Tensor& tensor, std::string_view axis) {
  const int found = tensor.find_axis(axis);
  return found < 0 ? 1 : tensor.axes[static_cast<std::size_t>(found)].size;
}

// Layers at which each tensor is held by arrays (numbers) that pass `filter`; tensors without layers count as layer 0.
template <class Filter>
std::vector<std::vector<bool>> layers_held(const layout::Layout& layout, const Filter& filter) {
  std::vector<std::vector<bool>> held;
  for (const layout::Tensor& tensor : layout.canon().tensors()) {
    held.emplace_back(static_cast<std::size_t>(axis_size(tensor, "layer")), false);
  }
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    if (!filter(a)) continue;
    const layout::Array& array = layout.arrays()[a];
    for (const std::uint32_t tensor : layout.tensors(array)) {
      if (array.layer >= 0 && held[tensor].size() > 1) {
        held[tensor][static_cast<std::size_t>(array.layer)] = true;
      } else {
        held[tensor].assign(held[tensor].size(), true);
      }
    }
  }
  return held;
}

bool exists_at(const layout::Tensor& tensor, Index layer) {
  return tensor.layers.empty() || std::binary_search(tensor.layers.begin(), tensor.layers.end(), layer);
}

}  // namespace

bool is_selected(const SourceOptions& options, const std::string& array) {
  const auto matches = [&](const std::string& glob) { return matches_glob(glob, array); };
  const bool included = options.include.empty() || std::any_of(options.include.begin(), options.include.end(), matches);
  return included && std::none_of(options.exclude.begin(), options.exclude.end(), matches);
}

Expected<std::shared_ptr<const layout::Canon>> select(const layout::Layout& layout,
                                                      const std::function<bool(std::uint32_t array)>& is_in) {
  const auto kept = layers_held(layout, is_in);
  const auto left_out = layers_held(layout, [&](std::uint32_t array) {
    // The last shards of a small array have no elements and may be missing.
    return !is_in(array) && num_elements(layout.shape(layout.arrays()[array])) != Index{0};
  });
  std::vector<layout::Tensor> tensors;
  for (std::size_t t = 0; t < kept.size(); ++t) {
    layout::Tensor tensor = layout.canon().tensors()[t];
    std::vector<Index> layers;
    for (std::size_t layer = 0; layer < kept[t].size(); ++layer) {
      if (!kept[t][layer] || !exists_at(tensor, static_cast<Index>(layer))) continue;
      if (left_out[t][layer]) {
        return usage_error(
            fmt::format("--include and --exclude take a part of {}: they can only take all experts of a "
                        "layer, or none",
                        tensor.name));
      }
      layers.push_back(static_cast<Index>(layer));
    }
    if (layers.empty()) continue;
    if (layers.size() < kept[t].size()) tensor.layers = std::move(layers);
    tensors.push_back(std::move(tensor));
  }
  if (tensors.empty())
    return usage_error("--include and --exclude leave nothing; `reshard inspect` lists the names of tensors");
  return std::make_shared<const layout::Canon>(std::move(tensors), layout.canon().scope());
}

Status check_complete(const layout::Layout& layout) {
  const auto held = layers_held(layout, [](std::uint32_t) { return true; });
  for (std::size_t t = 0; t < held.size(); ++t) {
    const layout::Tensor& tensor = layout.canon().tensors()[t];
    for (std::size_t layer = 0; layer < held[t].size(); ++layer) {
      if (held[t][layer] || !exists_at(tensor, static_cast<Index>(layer))) continue;
      return usage_error(fmt::format("format {} cannot hold {} of layer {} without the tensors it is stored with",
                                     layout.table().format, tensor.name, layer));
    }
  }
  return {};
}

}  // namespace reshard::format
