// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace reshard::cli {

/// Version of the program alone.
std::string program_version();

/// Versions of the program, its compiler and all libraries, a line each.
std::string version_text();

}  // namespace reshard::cli
