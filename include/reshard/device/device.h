// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"
#include "reshard/repack/op_table.h"

namespace reshard::device {

/// Work that a device has under way. It must be done before it is destroyed, and before memory that it uses goes.
class Pending {
 public:
  virtual ~Pending() = default;
  /// True once it is done. Never waits. Errors (failed): it failed, and is done in that sense. Local.
  virtual Expected<bool> test() = 0;
};

/// Bytes of a slot.
struct Range {
  Index offset, length;
};

/// An accelerator as one rank uses it: its memory, and work beside the host. Work of one kind (upload, repack,
/// download) runs in the order it was given, different kinds run at the same time; who needs an order between them
/// waits for what comes first. Thread-safe. The device outlives all that it gave out.
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;  ///< for reports
  /// Equal for ranks that use the same piece of hardware.
  virtual std::string identity() const = 0;

  /// Memory of the device, at a multiple of 256 bytes. Errors (failed): it has not that much left. Local.
  virtual Expected<std::shared_ptr<std::byte>> allocate(Index bytes) = 0;
  /// Host memory at its full speed for transfers, as long as the result lives. Errors (failed). Local.
  virtual Expected<std::shared_ptr<void>> pin(std::span<std::byte> memory) = 0;

  /// Copies ranges of a slot from (pinned) host memory to the same places of a slot of the device, or back. Errors
  /// (failed). Local.
  virtual Expected<std::unique_ptr<Pending>> upload(std::byte* device, const std::byte* host,
                                                    const std::vector<Range>& ranges) = 0;
  virtual Expected<std::unique_ptr<Pending>> download(std::byte* host, const std::byte* device,
                                                      const std::vector<Range>& ranges) = 0;
  /// Runs a table on slots of the device. When it is done, test() has added the digests to `digests` (modulo 2^64).
  /// Table and digests must live until then. Errors (failed). Local.
  virtual Expected<std::unique_ptr<Pending>> repack(const repack::OpTable& table, const repack::SlotBases& slots,
                                                    std::span<std::uint64_t> digests) = 0;

  /// The queue for transfers between devices (a cudaStream_t), and what has been put into it so far.
  virtual void* exchange_queue() = 0;
  virtual Expected<std::unique_ptr<Pending>> mark_exchange() = 0;
};

/// The CUDA device of a rank: number `local_rank` modulo the number of visible devices. Errors (failed), each with what
/// to do: built without CUDA, no driver, a driver that is too old, no device, a device that the program has no code
/// for. Local.
Expected<std::unique_ptr<Device>> open_cuda(int local_rank);

/// Copies between two places of the host, or of devices, and waits: messages of ranks that are threads of one process.
/// Errors (failed). Local.
Status copy_any(std::byte* to, const std::byte* from, std::size_t bytes);

/// What the program was built with and finds here, for --version: "13.0, driver 13.0, 8 x NVIDIA H100". Local.
std::string describe_cuda();

}  // namespace reshard::device
