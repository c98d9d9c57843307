// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "reshard/base/expected.h"
#include "reshard/device/device.h"
#include "reshard/plan/round.h"

namespace reshard::exec {

/// The memory of one rank's stream: `depth` slots of each kind, made once. Round n uses slot n modulo depth of each
/// kind. Slots begin at multiples of 4 KiB.
class Slots {
 public:
  /// In one mapping of huge pages; slots for messages only if the CPU holds them. Errors (failed): the system has not
  /// that much memory. Local.
  static Expected<Slots> make(const plan::Schedule& schedule, bool with_messages);
  /// In the memory of a device. Errors (failed): it has not that much. Local.
  static Expected<Slots> make_on(device::Device& device, const plan::Schedule& schedule);

  std::span<std::byte> at(plan::Slot kind, Index round) const;
  /// All of it.
  std::span<std::byte> memory() const { return {memory_.get(), static_cast<std::size_t>(bytes_of_all_)}; }

 private:
  static constexpr std::size_t kKinds = 4;

  Slots(const plan::Schedule& schedule, bool with_messages);

  Index depth_ = 1;
  std::array<Index, kKinds> begin_{}, bytes_{}, pitch_{};  // of the first slot; of one slot
  Index bytes_of_all_ = 0;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace reshard::exec
