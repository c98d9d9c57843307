// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "reshard/base/expected.h"
#include "reshard/plan/round.h"

namespace reshard::exec {

/// The memory of one rank's stream: `depth` slots of each kind, in one mapping of huge pages that is made once. Round n
/// uses slot n modulo depth of each kind. Slots begin at multiples of 4 KiB.
class Slots {
 public:
  /// Errors (failed): the system has not that much memory. Local.
  static Expected<Slots> make(const plan::Schedule& schedule);
  Slots(Slots&& other) noexcept;
  Slots& operator=(Slots&&) = delete;
  ~Slots();

  std::span<std::byte> at(plan::Slot kind, Index round) const;

 private:
  Slots() = default;

  static constexpr std::size_t kKinds = 4;
  std::byte* mapping_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  Index depth_ = 1;
  std::array<std::byte*, kKinds> first_{};
  std::array<std::size_t, kKinds> bytes_{};  // of one slot
  std::array<std::size_t, kKinds> pitch_{};
};

}  // namespace reshard::exec
