// SPDX-License-Identifier: Apache-2.0
#include "slots.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "reshard/io/file.h"

namespace reshard::exec {
namespace {

constexpr Index kHugePage = 2 * kMiB;

}  // namespace

Slots::Slots(const plan::Schedule& schedule, bool with_messages) : depth_(schedule.depth()) {
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    const auto slot = static_cast<plan::Slot>(kind);
    const bool moves = slot == plan::Slot::received || slot == plan::Slot::outgoing;
    bytes_[kind] = moves && !(schedule.exchanges() && with_messages) ? 0 : schedule.slot_bytes(slot);
    pitch_[kind] = round_up(bytes_[kind], io::kPage);
    begin_[kind] = bytes_of_all_;
    bytes_of_all_ += pitch_[kind] * depth_;
  }
}

Expected<Slots> Slots::make(const plan::Schedule& schedule, bool with_messages) {
  Slots slots(schedule, with_messages);
  const auto total = static_cast<std::size_t>(slots.bytes_of_all_ + kHugePage);
  void* mapping = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    return run_error(fmt::format("cannot get {} bytes of memory for buffers: {}; give a smaller --memory-budget", total,
                                 std::strerror(errno)));
  }
  // Fewer page faults and TLB misses; not having huge pages is no error.
  madvise(mapping, total, MADV_HUGEPAGE);
  const auto address = static_cast<Index>(reinterpret_cast<std::uintptr_t>(mapping));
  std::byte* const aligned = static_cast<std::byte*>(mapping) + (round_up(address, kHugePage) - address);
  slots.memory_ = std::shared_ptr<std::byte>(aligned, [mapping, total](std::byte*) { munmap(mapping, total); });
  return slots;
}

Expected<Slots> Slots::make_on(device::Device& device, const plan::Schedule& schedule) {
  Slots slots(schedule, true);
  RESHARD_TRY(slots.memory_, device.allocate(slots.bytes_of_all_));
  return slots;
}

std::span<std::byte> Slots::at(plan::Slot kind, Index round) const {
  const auto k = static_cast<std::size_t>(kind);
  return {memory_.get() + begin_[k] + round % depth_ * pitch_[k], static_cast<std::size_t>(bytes_[k])};
}

}  // namespace reshard::exec
