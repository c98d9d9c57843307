// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "reshard/base/expected.h"
#include "reshard/comm/comm.h"
#include "reshard/device/device.h"
#include "reshard/device/groups.h"
#include "reshard/exec/executor.h"

namespace reshard::app {

enum class DeviceWish { automatic, cpu, cuda };
enum class ExchangeWish { automatic, mpi, nccl, loopback };
std::string_view to_string(DeviceWish wish);
std::string_view to_string(ExchangeWish wish);

/// What streams of a command repack with and exchange by: looked for once, when the first stream needs it; the same
/// kind on all ranks.
class Engines {
 public:
  Engines(DeviceWish device, ExchangeWish exchange) : device_wish_(device), exchange_wish_(exchange) {}

  /// For a stream that exchanges, or not. Errors (failed): a device was asked for that a rank does not have; NCCL was
  /// asked for and cannot be used, or does not start. Collective.
  Expected<exec::Engine> engine(comm::Comm& comm, bool exchanges);

  /// For reports, after engine(): what is used ("cpu", "mpi", ...) and why, in a few words.
  struct Use {
    std::string name, reason;
  };
  const Use& device_use() const { return device_use_; }
  const Use& exchange_use() const { return exchange_use_; }

 private:
  Status choose_device(comm::Comm& comm);
  Status choose_exchange(comm::Comm& comm);
  Status start_nccl(comm::Comm& comm);

  DeviceWish device_wish_;
  ExchangeWish exchange_wish_;
  Use device_use_, chosen_exchange_;  // names are empty until they are chosen
  Use exchange_use_;                  // of the newest stream
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<device::Nccl> nccl_;
  std::unique_ptr<device::Groups> groups_;  // last: gone first
};

}  // namespace reshard::app
