// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/files.h"

namespace reshard::test {

/// What the program printed, apart, and its exit status.
struct ProgramRun {
  int status = -1;
  std::string out, err;

  /// stdout as one JSON document.
  nlohmann::json document() const { return nlohmann::json::parse(out); }
  /// Lines of stderr that report an error.
  std::ptrdiff_t num_errors() const {
    std::ptrdiff_t count = 0;
    for (std::size_t at = 0; (at = err.find("reshard: error: ", at)) != std::string::npos; ++at) ++count;
    return count;
  }
};

/// Runs a program with these arguments (words for a shell), alone or on several MPI ranks.
inline ProgramRun run_program(const std::string& program, const std::string& arguments, int ranks = 1,
                              const std::string& environment = "") {
  const TemporaryFolder folder;
  std::string command = environment + " ";
  if (ranks > 1) {
    command +=
        "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
        "OMPI_MCA_mpi_yield_when_idle=1 mpirun -n " +
        std::to_string(ranks) + " ";
  }
  command += program + " " + arguments + " >" + folder.path("out") + " 2>" + folder.path("err");
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), file_bytes(folder.path("out")),
          file_bytes(folder.path("err"))};
}

}  // namespace reshard::test
