// SPDX-License-Identifier: Apache-2.0
#include "process.h"

#include <unistd.h>

#include <array>
#include <fstream>

namespace reshard::app {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

Index peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    Index kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib * kKiB;
  }
  return 0;
}

}  // namespace reshard::app
