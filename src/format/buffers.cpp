// SPDX-License-Identifier: Apache-2.0
#include "buffers.h"

namespace reshard::format {

Expected<std::shared_ptr<const std::string>> make_buffer(const std::string& name, const model::Spec&, const Shape&,
                                                         DType) {
  return usage_error("there is no buffer \"" + name + "\"");
}

}  // namespace reshard::format
