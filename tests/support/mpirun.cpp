// SPDX-License-Identifier: Apache-2.0
#include "tests/support/mpirun.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>

namespace reshard::test {

Ran run_command(const std::string& command) {
  Ran ran;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return ran;
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) ran.output.append(buffer, n);
  const int status = pclose(pipe);
  ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ran;
}

std::string this_program() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

Ran run_test_on_ranks(int ranks, const std::string& disabled_test, const std::string& environment) {
  return run_command(fmt::format(
      "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
      "OMPI_MCA_mpi_yield_when_idle=1 {} mpirun -n {} '{}' --gtest_also_run_disabled_tests --gtest_filter={}",
      environment, ranks, this_program(), disabled_test));
}

}  // namespace reshard::test
