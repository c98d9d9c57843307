// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/resource.h>

#include <functional>

namespace reshard::test {

/// Seconds of processor time that `body` takes in user mode, so that neither a busy machine fails a test nor one whose
/// kernel is slow to give out memory; of a sanitizer's build, about what it would take
/// without.
inline double processor_seconds(const std::function<void()>& body) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr double kSlower = 20;
#else
  constexpr double kSlower = 1;
#endif
  const auto now = [] {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    return static_cast<double>(used.ru_utime.tv_sec) + static_cast<double>(used.ru_utime.tv_usec) / 1e6;
  };
  const double start = now();
  body();
  return (now() - start) / kSlower;
}

}  // namespace reshard::test
