// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace reshard::test {

/// What a command printed (stdout and stderr together) and its exit status.
struct Ran {
  int status = -1;
  std::string output;
};
Ran run_command(const std::string& command);

/// Path of the running test executable.
std::string this_program();

/// Runs one disabled test of this very executable on `ranks` MPI ranks, more than there are cores if need be; the body
/// of such a test is written for each rank.
Ran run_test_on_ranks(int ranks, const std::string& disabled_test, const std::string& environment = "");

}  // namespace reshard::test
