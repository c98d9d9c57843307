// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <utility>

namespace reshard::test {

/// RESHARD_SEED if that is set, else `otherwise`. Says which it is, once in a test.
inline std::uint64_t seed_or(std::uint64_t otherwise) {
  const char* fixed = std::getenv("RESHARD_SEED");
  const std::uint64_t seed = fixed ? std::strtoull(fixed, nullptr, 10) : otherwise;
  static const ::testing::TestInfo* told = nullptr;
  const ::testing::TestInfo* test = ::testing::UnitTest::GetInstance()->current_test_info();
  if (std::exchange(told, test) != test) std::printf("RESHARD_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}
/// The same, or another one each time.
inline std::uint64_t seed() { return seed_or(std::random_device()()); }

}  // namespace reshard::test
