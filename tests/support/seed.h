// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>

namespace reshard::test {

/// RESHARD_SEED if that is set, else `otherwise`. Tests say which seed they have.
inline std::uint64_t seed_or(std::uint64_t otherwise) {
  const char* fixed = std::getenv("RESHARD_SEED");
  return fixed ? std::strtoull(fixed, nullptr, 10) : otherwise;
}
/// The same, or another one each time.
inline std::uint64_t seed() { return seed_or(std::random_device()()); }

}  // namespace reshard::test
