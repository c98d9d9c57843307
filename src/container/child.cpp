// SPDX-License-Identifier: Apache-2.0
#include "child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "reshard/base/index.h"

namespace reshard::container {
namespace {

constexpr rlim_t kMoreMemoryBytes = 4 * kGiB;
constexpr rlim_t kCpuSeconds = 600;
constexpr std::size_t kPipeBytes = 64 * 1024;

/// Address space in use; the bound is on what comes on top of it.
rlim_t virtual_bytes() {
  rlim_t pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
    unsigned long value = 0;
    if (std::fscanf(file, "%lu", &value) == 1) pages = value;
    std::fclose(file);
  }
  return pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE));
}

void bound(__rlimit_resource resource, rlim_t limit) {
  rlimit now;
  if (::getrlimit(resource, &now) != 0) return;
  now.rlim_cur = std::min(now.rlim_cur, limit);
  ::setrlimit(resource, &now);
}

[[noreturn]] void be_child(const std::function<std::string()>& work, int out) {
  // A crash is an answer: no core file, no handler that prints a stack.
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGPIPE}) ::signal(signal, SIG_DFL);
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  ::dup2(nowhere, STDOUT_FILENO);
  ::dup2(nowhere, STDERR_FILENO);
  bound(RLIMIT_CORE, 0);
  bound(RLIMIT_CPU, kCpuSeconds);
  if (const rlim_t used = virtual_bytes()) bound(RLIMIT_AS, used + kMoreMemoryBytes);
  int status = 0;
  try {
    const std::string result = work();
    for (std::size_t done = 0; done < result.size();) {
      const ssize_t n = ::write(out, result.data() + done, result.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) ::_exit(1);
      done += static_cast<std::size_t>(n);
    }
  } catch (...) {
    status = 1;
  }
  ::_exit(status);
}

}  // namespace

Expected<std::string> run_in_child(const std::function<std::string()>& work) {
  std::array<int, 2> ends;
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return run_error(fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  const pid_t child = ::fork();
  if (child == 0) be_child(work, ends[1]);
  ::close(ends[1]);
  std::string result;
  if (child > 0) {
    std::vector<char> block(kPipeBytes);
    for (;;) {
      const ssize_t n = ::read(ends[0], block.data(), block.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      result.append(block.data(), static_cast<std::size_t>(n));
    }
  }
  ::close(ends[0]);
  if (child < 0) return run_error(fmt::format("cannot start a process: {}", std::strerror(errno)));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return run_error(fmt::format("cannot wait for a process: {}", std::strerror(errno)));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return result;
  return input_error(WIFSIGNALED(status) ? fmt::format("the reading process died of signal {}", WTERMSIG(status))
                                         : std::string("the reading process gave up (out of memory)"));
}

}  // namespace reshard::container
