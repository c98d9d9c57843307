// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "reshard/device/device.h"
#include "reshard/exec/executor.h"
#include "reshard/plan/round.h"

namespace reshard::exec {

/// What a device does for one round, in steps that each wait for others alone: no step is begun before all that it
/// needs is done, so that nothing is ever queued behind what may not come. A step that has nothing to do is done at
/// once.
struct DeviceSteps {
  enum Step : std::uint8_t {
    upload,    ///< source slot -> device
    pack,      ///< on the device: source -> outgoing
    fetch,     ///< outgoing -> host, where the host sends
    put,       ///< received -> device, where the host receives
    local,     ///< on the device: source and zeros -> output
    remote,    ///< on the device: received -> output
    download,  ///< output -> host
  };
  static constexpr std::size_t kSteps = 7;
  enum class State : std::uint8_t { waiting, running, done, failed };

  /// Pure.
  DeviceSteps(const plan::Round& round, bool messages_on_device);

  bool done(Step step) const { return state[step] == State::done; }

  std::array<State, kSteps> state{};
  std::array<std::unique_ptr<device::Pending>, kSteps> pending;
  std::array<std::vector<device::Range>, kSteps> ranges;  ///< of transfers
  std::array<repack::OpTable, kSteps> tables;             ///< of pack, local and remote
};

/// The stage that a step counts in.
Stage stage_of(DeviceSteps::Step step);

}  // namespace reshard::exec
