// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "reshard/comm/comm.h"
#include "reshard/device/device.h"
#include "reshard/device/nccl.h"

namespace reshard::device {

/// Transfers between the devices of all ranks, in groups that ranks start in the same order, empty ones too. All calls
/// of a rank come from one thread.
class Groups {
 public:
  /// Bytes of this rank's device for, or from, a peer.
  struct Part {
    int peer;
    std::byte* bytes;
    Index length;
  };
  virtual ~Groups() = default;
  /// May the next group be started?
  virtual bool ready() = 0;
  /// Starts the transfers of a group. Each send has its receive of as many bytes in the peer's group of the same
  /// number. Errors (failed). Local.
  virtual Expected<std::unique_ptr<Pending>> start(const std::vector<Part>& sends,
                                                   const std::vector<Part>& receives) = 0;
  /// Ends what is under way, whatever the peers do; nothing can be started any more. Local.
  virtual void abort() = 0;
};

/// One NCCL communicator over all ranks of `comm`. Errors (failed), on all ranks alike: ranks with different versions
/// of NCCL, ranks that share a device (NCCL's own words), no answer within `timeout_s`. Collective.
Expected<std::unique_ptr<Groups>> make_nccl_groups(Nccl& nccl, Device& device, comm::Comm& comm, double timeout_s);

}  // namespace reshard::device
