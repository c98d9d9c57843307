// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "reshard/format/format.h"

namespace reshard::app {

/// File `file` of the directory, whose numbers are big-endian, as if they were little-endian. Thread-safe.
std::unique_ptr<io::Source> make_swapped_source(std::unique_ptr<io::Source> source, const format::Directory& directory,
                                                std::uint32_t file);

}  // namespace reshard::app
