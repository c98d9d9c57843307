// SPDX-License-Identifier: Apache-2.0
#include "reshard/layout/canonical_table.h"

#include <cassert>

namespace reshard::layout {

Table canonical_table(const Canon& canon) {
  Table table;
  table.format = "canonical";
  for (const Tensor& tensor : canon.tensors()) {
    ArrayRule rule;
    rule.array = tensor.name;
    rule.tensor = tensor.name;
    for (const Axis& axis : tensor.axes) {
      if (is_instance_axis(axis.name)) {
        rule.array += "[" + axis.name + "={" + axis.name + "}]";
      } else {
        rule.view_text += (rule.view_text.empty() ? "" : " ") + axis.name;
        rule.view.dims.push_back({Factor{axis.name, {}}});
      }
    }
    table.rules.push_back(std::move(rule));
  }
  return table;
}

}  // namespace reshard::layout
