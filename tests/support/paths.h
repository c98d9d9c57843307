// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace reshard::test {

/// Root of the checkout, which has the tests' data. Tests that were moved to another machine are told where it is by
/// the environment's RESHARD_SOURCE_DIR.
std::string source_dir();

/// The program under test: the environment's RESHARD_PROGRAM, or the one of this build.
std::string program();

}  // namespace reshard::test
