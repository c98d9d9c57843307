// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
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
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      Status status = sync(i);
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
