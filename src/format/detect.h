// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/base/expected.h"
#include "reshard/model/library.h"

namespace reshard::format {

/// The error (usage) for a name that is none, with a guess at the one that was meant.
Error unknown_format(const std::string& name, const model::Library& library);

}  // namespace reshard::format
