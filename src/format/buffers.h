// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "reshard/base/dtype.h"
#include "reshard/base/expected.h"
#include "reshard/model/spec.h"

namespace reshard::format {

/// Content of the buffer that a table calls `name`: tensors that a model's code registers and saves although they
/// follow from its configuration. Errors (usage): no such buffer, or none of this dtype or shape. Pure.
Expected<std::shared_ptr<const std::string>> make_buffer(const std::string& name, const model::Spec& spec,
                                                         const Shape& shape, DType dtype);

}  // namespace reshard::format
