// SPDX-License-Identifier: Apache-2.0
#include "reshard/base/index.h"

namespace reshard {

std::optional<Index> num_elements(const Shape& shape) {
  for (Index n : shape) {
    if (n < 0) return std::nullopt;
  }
  for (Index n : shape) {
    if (n == 0) return 0;
  }
  Index product = 1;
  for (Index n : shape) {
    auto next = checked_mul(product, n);
    if (!next) return std::nullopt;
    product = *next;
  }
  return product;
}

}  // namespace reshard
