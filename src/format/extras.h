// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "reshard/format/format.h"

namespace reshard::format {

/// Puts the extras of the layout (other names of arrays, buffers) into the files, each before the array that follows it
/// in writing order: a name into the file of the array that it repeats, a buffer into the one that its rule names. Does
/// nothing for containers that hold each extent once. Errors (usage): a buffer that nobody can make. Local.
Status add_extras(const layout::Layout& layout, const model::Spec& spec, std::vector<TargetFile>& files);

}  // namespace reshard::format
