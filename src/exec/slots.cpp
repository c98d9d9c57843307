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

Expected<Slots> Slots::make(const plan::Schedule& schedule) {
  Slots slots;
  slots.depth_ = schedule.depth();
  Index total = kHugePage;
  std::array<Index, kKinds> begin{};
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    const auto slot = static_cast<plan::Slot>(kind);
    const bool moves = slot == plan::Slot::received || slot == plan::Slot::outgoing;
    const Index bytes = moves && !schedule.exchanges() ? 0 : schedule.slot_bytes(slot);
    const Index pitch = round_up(bytes, io::kPage);
    slots.bytes_[kind] = static_cast<std::size_t>(bytes);
    slots.pitch_[kind] = static_cast<std::size_t>(pitch);
    begin[kind] = total - kHugePage;
    total += pitch * slots.depth_;
  }
  void* mapping =
      mmap(nullptr, static_cast<std::size_t>(total), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    return run_error(fmt::format("cannot get {} bytes of memory for buffers: {}; give a smaller --memory-budget", total,
                                 std::strerror(errno)));
  }
  // Fewer page faults and TLB misses; not having huge pages is no error.
  madvise(mapping, static_cast<std::size_t>(total), MADV_HUGEPAGE);
  slots.mapping_ = static_cast<std::byte*>(mapping);
  slots.mapped_bytes_ = static_cast<std::size_t>(total);
  const auto address = static_cast<Index>(reinterpret_cast<std::uintptr_t>(mapping));
  std::byte* const aligned = slots.mapping_ + (round_up(address, kHugePage) - address);
  for (std::size_t kind = 0; kind < kKinds; ++kind) slots.first_[kind] = aligned + begin[kind];
  return slots;
}

Slots::Slots(Slots&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_bytes_(other.mapped_bytes_),
      depth_(other.depth_),
      first_(other.first_),
      bytes_(other.bytes_),
      pitch_(other.pitch_) {}

Slots::~Slots() {
  if (mapping_) munmap(mapping_, mapped_bytes_);
}

std::span<std::byte> Slots::at(plan::Slot kind, Index round) const {
  const auto k = static_cast<std::size_t>(kind);
  return {first_[k] + static_cast<std::size_t>(round % depth_) * pitch_[k], bytes_[k]};
}

}  // namespace reshard::exec
