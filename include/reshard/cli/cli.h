// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace reshard::cli {

/// The whole program: parses the command line, runs the command, prints, and returns the exit status. Collective under
/// mpirun.
int run(int argc, char** argv);

}  // namespace reshard::cli
