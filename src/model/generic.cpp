// SPDX-License-Identifier: Apache-2.0
#include "reshard/model/generic.h"

#include <fmt/format.h>

#include <set>

#include "reshard/layout/layout.h"

namespace reshard::model {
namespace {

std::string axis_name(std::size_t array, std::size_t dim) { return fmt::format("a{}.d{}", array, dim); }

}  // namespace

Expected<std::shared_ptr<const layout::Canon>> add_passthrough(const layout::Canon& canon,
                                                               const std::vector<NamedArray>& arrays) {
  std::vector<layout::Tensor> tensors = canon.tensors();
  layout::Scope scope = canon.scope();
  std::set<std::string> names;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const NamedArray& array = arrays[i];
    if (array.name.find_first_of("{}") != std::string::npos) {
      return input_error(fmt::format("array {}: names with braces cannot be carried", array.name));
    }
    if (canon.find(array.name) >= 0 || !names.insert(array.name).second) {
      return input_error(fmt::format("array {}: there is a tensor of that name already", array.name));
    }
    if (array.shape.size() > static_cast<std::size_t>(layout::kMaxAxes)) {
      return input_error(fmt::format("array {}: has {} dimensions, at most {} can be carried", array.name,
                                     array.shape.size(), layout::kMaxAxes));
    }
    if (!num_elements(array.shape)) return input_error(fmt::format("array {}: extents overflow 64 bits", array.name));
    layout::Tensor tensor;
    tensor.name = array.name;
    for (std::size_t d = 0; d < array.shape.size(); ++d) {
      tensor.axes.push_back({axis_name(i, d), array.shape[d]});
      scope.numbers[axis_name(i, d)] = array.shape[d];
    }
    tensors.push_back(std::move(tensor));
  }
  return std::make_shared<const layout::Canon>(std::move(tensors), std::move(scope));
}

Expected<layout::Table> add_passthrough(layout::Table table, const std::vector<NamedArray>& arrays) {
  if (!table.passthrough && !arrays.empty()) {
    return usage_error(
        fmt::format("format {} cannot hold the array {}, which no table describes", table.format, arrays.front().name));
  }
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    layout::ArrayRule rule;
    rule.array = arrays[i].name;
    rule.tensor = arrays[i].name;
    rule.dtype = to_string(arrays[i].dtype);
    for (std::size_t d = 0; d < arrays[i].shape.size(); ++d) {
      rule.view.dims.push_back({layout::Factor{axis_name(i, d), {}}});
      if (d > 0) rule.view_text += ' ';
      rule.view_text += axis_name(i, d);
    }
    table.rules.push_back(std::move(rule));
  }
  return table;
}

Expected<std::shared_ptr<const layout::Canon>> make_generic_canon(const std::vector<NamedArray>& arrays) {
  return add_passthrough(layout::Canon(), arrays);
}

Expected<layout::Table> make_generic_table(const Library& library, const std::string& format,
                                           const std::vector<NamedArray>& arrays) {
  RESHARD_TRY(layout::Table table, library.table(std::string(kGeneric), format));
  return add_passthrough(std::move(table), arrays);
}

}  // namespace reshard::model
