// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>

#include "reshard/comm/comm.h"
#include "reshard/exec/executor.h"

namespace reshard::exec {

/// What all ranks together have done and whether any of them failed, at about the same moment.
struct Pulse {
  bool failed = false;  ///< some rank
  bool busy = false;    ///< some rank
  Progress all_ranks;
};

/// A sum over all ranks without waiting, repeated every few milliseconds, in which ranks tell each other how they fare.
/// All ranks get the same pulses in the same order, so that what follows from one is decided alike everywhere. A rank
/// beats until a pulse ends its job.
class Beat {
 public:
  using Clock = std::chrono::steady_clock;

  Beat(comm::Comm& comm, double timeout_s) : comm_(comm), timeout_s_(timeout_s) {}

  /// Starts the next beat when it is due (at once if this rank has news) and returns a pulse when one is complete. Ends
  /// the job if other ranks do not answer in time.
  std::optional<Pulse> step(bool failed, bool busy, const Progress& mine);
  bool under_way() const { return request_ != nullptr; }

 private:
  static constexpr auto kFirst = std::chrono::milliseconds(1);  // short streams end soon
  static constexpr auto kSlowest = std::chrono::milliseconds(20);

  comm::Comm& comm_;
  double timeout_s_;
  static constexpr std::size_t kFirstStage = 5;  // of the values below
  std::array<std::uint64_t, kFirstStage + kStages> values_{};
  std::unique_ptr<comm::Request> request_;
  bool told_ = false;  // that this rank is done or has failed
  Clock::time_point started_{}, due_ = Clock::now();
  Clock::duration interval_ = kFirst;
};

}  // namespace reshard::exec
