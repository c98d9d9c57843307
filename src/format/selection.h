// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "reshard/format/format.h"

namespace reshard::format {

/// Do --include and --exclude leave this stored array in?
bool is_selected(const SourceOptions& options, const std::string& array);

/// `layout`'s canonical tensors without what lies in arrays that are not in: whole tensors, or some of their layers.
/// Errors (usage): a selection that takes some experts of a layer, or everything. Pure.
Expected<std::shared_ptr<const layout::Canon>> select(const layout::Layout& layout,
                                                      const std::function<bool(std::uint32_t array)>& is_in);

/// Errors (usage): a tensor of the model, or one of its layers, that no array of the layout holds. Pure.
Status check_complete(const layout::Layout& layout);

}  // namespace reshard::format
