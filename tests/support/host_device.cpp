// SPDX-License-Identifier: Apache-2.0
#include "tests/support/host_device.h"

#include <cstdlib>
#include <cstring>

namespace reshard::test {
namespace {

constexpr std::size_t kAlignment = 4096;
constexpr int kPoison = 0xA5;

// Memory of all emulated devices, by its first byte.
std::mutex allocations_mutex;
std::map<const std::byte*, Index> allocations;

bool inside(const std::map<const std::byte*, Index>& blocks, const std::byte* first, Index bytes) {
  auto block = blocks.upper_bound(first);
  if (block == blocks.begin()) return false;
  --block;
  return first + bytes <= block->first + block->second;
}

}  // namespace

std::uint64_t HostQueue::push(std::function<bool()> work) {
  const std::lock_guard lock(mutex_);
  work_.push_back(std::move(work));
  return done_ + work_.size();
}

bool HostQueue::reach(std::uint64_t end) {
  const std::lock_guard lock(mutex_);
  while (done_ < end && work_.front()()) {
    work_.pop_front();
    ++done_;
  }
  return done_ >= end;
}

std::uint64_t HostQueue::end() {
  const std::lock_guard lock(mutex_);
  return done_ + work_.size();
}

class HostDevice::Wait : public device::Pending {
 public:
  Wait(HostDevice& device, HostQueue& queue, std::uint64_t end, int looks)
      : device_(device), queue_(queue), end_(end), looks_(looks) {
    ++device_.pending;
  }
  ~Wait() override {
    if (done_) --device_.pending;
  }
  Expected<bool> test() override {
    if (looks_-- > 0) return false;
    if (device_.waits_left-- <= 0) {
      // It reads and writes until it fails.
      queue_.reach(end_);
      done_ = true;
      return run_error("emulated device: an illegal address");
    }
    return done_ = done_ || queue_.reach(end_);
  }

 private:
  HostDevice& device_;
  HostQueue& queue_;
  std::uint64_t end_;
  int looks_;
  bool done_ = false;
};

HostDevice::~HostDevice() = default;

bool HostDevice::owns(const std::byte* first, Index bytes) {
  const std::lock_guard lock(allocations_mutex);
  return inside(allocations, first, bytes);
}

Expected<std::shared_ptr<std::byte>> HostDevice::allocate(Index bytes) {
  if (bytes > memory_left) return run_error("emulated device: out of memory; give a smaller --device-memory-budget");
  memory_left -= bytes;
  const auto size = static_cast<std::size_t>(round_up(std::max<Index>(bytes, 1), static_cast<Index>(kAlignment)));
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size));
  std::memset(memory, kPoison, size);
  const std::lock_guard lock(allocations_mutex);
  allocations[memory] = static_cast<Index>(size);
  return std::shared_ptr<std::byte>(memory, [](std::byte* p) {
    {
      const std::lock_guard unlist(allocations_mutex);
      allocations.erase(p);
    }
    std::free(p);
  });
}

Expected<std::shared_ptr<void>> HostDevice::pin(std::span<std::byte> memory) {
  const std::lock_guard lock(mutex_);
  pinned_[memory.data()] = static_cast<Index>(memory.size());
  return std::shared_ptr<void>(memory.data(), [this](void* p) {
    const std::lock_guard unlist(mutex_);
    pinned_.erase(static_cast<std::byte*>(p));
  });
}

std::unique_ptr<device::Pending> HostDevice::wait(HostQueue& queue, std::uint64_t end) {
  const std::lock_guard lock(mutex_);
  return std::make_unique<Wait>(*this, queue, end, std::uniform_int_distribution<int>(0, 3)(random_));
}

Expected<std::unique_ptr<device::Pending>> HostDevice::give(HostQueue& queue, std::function<void()> work) {
  return wait(queue, queue.push([work = std::move(work)] {
    work();
    return true;
  }));
}

Expected<std::unique_ptr<device::Pending>> HostDevice::transfer(HostQueue& queue, std::byte* to, const std::byte* from,
                                                                const std::byte* there, const std::byte* here,
                                                                const std::vector<device::Range>& ranges) {
  for (const device::Range& range : ranges) {
    const std::lock_guard lock(mutex_);
    if (!owns(there + range.offset, range.length)) ++misuses;
    if (!inside(pinned_, here + range.offset, range.length)) ++misuses;
  }
  return give(queue, [to, from, ranges] {
    for (const device::Range& range : ranges) {
      std::memcpy(to + range.offset, from + range.offset, static_cast<std::size_t>(range.length));
    }
  });
}

Expected<std::unique_ptr<device::Pending>> HostDevice::upload(std::byte* device, const std::byte* host,
                                                              const std::vector<device::Range>& ranges) {
  return transfer(upload_, device, host, device, host, ranges);
}

Expected<std::unique_ptr<device::Pending>> HostDevice::download(std::byte* host, const std::byte* device,
                                                                const std::vector<device::Range>& ranges) {
  return transfer(download_, host, device, device, host, ranges);
}

Expected<std::unique_ptr<device::Pending>> HostDevice::repack(const repack::OpTable& table,
                                                              const repack::SlotBases& slots,
                                                              std::span<std::uint64_t> digests) {
  if (repacks_left-- <= 0) return run_error("emulated device: a kernel failed");
  for (const std::byte* slot : slots.at) {
    if (slot && !owns(slot, 0)) ++misuses;
  }
  return give(repack_, [&table, slots, digests] {
    std::vector<std::uint64_t> sums(digests.size() + 1, 0);
    repack::emulate(table.ops(), table.tasks(), slots, sums.data());
    for (std::size_t i = 0; i < digests.size(); ++i) digests[i] += sums[i];
  });
}

Expected<std::unique_ptr<device::Pending>> HostDevice::mark_exchange() { return wait(exchange_, exchange_.end()); }

}  // namespace reshard::test
