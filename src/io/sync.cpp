// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "reshard/io/file.h"

namespace reshard::io {
namespace {

constexpr std::size_t kSyncsAtOnce = 16;

}  // namespace

Status sync_together(std::size_t count, const std::function<Status(std::size_t)>& sync) {
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  Status first;
  const auto call = [&](std::size_t i) -> Status {
    try {
      return sync(i);
    } catch (const std::exception& thrown) {  // a thread must not end by it
      return run_error(fmt::format("syncing broke off: {}", thrown.what()));
    }
  };
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      Status status = call(i);
      const std::lock_guard lock(mutex);
      if (first && !status) first = std::move(status);
    }
  };
  {
    std::vector<std::jthread> helpers;
    try {
      while (helpers.size() + 1 < std::min(kSyncsAtOnce, count)) helpers.emplace_back(work);
    } catch (const std::system_error&) {  // fewer will do
    }
    work();
  }
  return first;
}

}  // namespace reshard::io
