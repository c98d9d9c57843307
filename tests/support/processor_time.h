// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ctime>
#include <functional>

namespace reshard::test {

/// Seconds of processor time that `body` takes, so that a busy machine fails no test; of a sanitizer's build, about
/// what it would take without.
inline double processor_seconds(const std::function<void()>& body) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr double kSlower = 20;
#else
  constexpr double kSlower = 1;
#endif
  const std::clock_t start = std::clock();
  body();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / kSlower;
}

}  // namespace reshard::test
