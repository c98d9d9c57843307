// SPDX-License-Identifier: Apache-2.0
#include "tests/support/paths.h"

#include <cstdlib>

namespace reshard::test {
namespace {

std::string environment_or(const char* name, const char* built) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : built;
}

}  // namespace

std::string source_dir() { return environment_or("RESHARD_SOURCE_DIR", RESHARD_SOURCE_DIR); }

std::string program() { return environment_or("RESHARD_PROGRAM", RESHARD_PROGRAM); }

}  // namespace reshard::test
