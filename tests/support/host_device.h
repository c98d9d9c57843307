// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>

#include "reshard/device/device.h"

namespace reshard::test {

/// Work of one kind on a HostDevice: done in order, as late as the one who waits for it allows.
class HostQueue {
 public:
  /// `work` is called until it returns true.
  std::uint64_t push(std::function<bool()> work);
  /// Works off what comes before `end` as far as it goes; true if all of it is done.
  bool reach(std::uint64_t end);
  std::uint64_t end();

 private:
  std::mutex mutex_;
  std::deque<std::function<bool()>> work_;
  std::uint64_t done_ = 0;
};

/// A device in the memory of the host: runs the kernel's code, keeps its own memory apart from the host's, and does
/// everything at the last moment, after a random number of looks, so that who uses memory too early or too late is
/// found out.
class HostDevice : public device::Device {
 public:
  explicit HostDevice(std::uint64_t seed = 1) : random_(seed) {}
  ~HostDevice() override;

  std::string name() const override { return "emulated device"; }
  std::string identity() const override { return "host:0"; }
  Expected<std::shared_ptr<std::byte>> allocate(Index bytes) override;
  Expected<std::shared_ptr<void>> pin(std::span<std::byte> memory) override;
  Expected<std::unique_ptr<device::Pending>> upload(std::byte* device, const std::byte* host,
                                                    const std::vector<device::Range>& ranges) override;
  Expected<std::unique_ptr<device::Pending>> download(std::byte* host, const std::byte* device,
                                                      const std::vector<device::Range>& ranges) override;
  Expected<std::unique_ptr<device::Pending>> repack(const repack::OpTable& table, const repack::SlotBases& slots,
                                                    std::span<std::uint64_t> digests) override;
  void* exchange_queue() override { return &exchange_; }
  Expected<std::unique_ptr<device::Pending>> mark_exchange() override;

  /// Does this memory belong to any HostDevice?
  static bool owns(const std::byte* first, Index bytes);

  // Faults and findings, set before and read after use.
  Index memory_left = Index{1} << 40;
  std::atomic<int> waits_left{1 << 30};  ///< then work fails while it is under way
  int repacks_left = 1 << 30;            ///< then they fail
  std::atomic<int> misuses{0};           ///< host memory in place of the device's, or the other way, or not pinned
  std::atomic<int> pending{0};           ///< that were not waited for

 private:
  class Wait;
  Expected<std::unique_ptr<device::Pending>> give(HostQueue& queue, std::function<void()> work);
  std::unique_ptr<device::Pending> wait(HostQueue& queue, std::uint64_t end);
  Expected<std::unique_ptr<device::Pending>> transfer(HostQueue& queue, std::byte* to, const std::byte* from,
                                                      const std::byte* there, const std::byte* here,
                                                      const std::vector<device::Range>& ranges);

  std::mutex mutex_;
  std::mt19937_64 random_;
  std::map<const std::byte*, Index> pinned_;
  HostQueue upload_, repack_, download_, exchange_;
};

}  // namespace reshard::test
