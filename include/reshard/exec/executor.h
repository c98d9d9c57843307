// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/comm/comm.h"
#include "reshard/device/device.h"
#include "reshard/device/groups.h"
#include "reshard/io/file.h"
#include "reshard/plan/round.h"
#include "reshard/plan/stage.h"

namespace reshard::exec {

/// Opens source files by number, on first use; keeps a bounded number open. Thread-safe.
class SourceFiles {
 public:
  virtual ~SourceFiles() = default;
  virtual Expected<std::shared_ptr<io::Source>> open(std::uint32_t file) = 0;
  virtual std::string path(std::uint32_t file) const = 0;  ///< for messages
};

/// Where the output of a round goes. `consume` is called once per write of a round, from I/O threads, any number at
/// once; `output` is the round's whole output slot, `digests` has one value per copy of round.place (0 where none is
/// counted). `finish` is called once, after the last consume, from an I/O thread; not after a failure. Local.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual Status consume(const plan::Round& round, std::size_t write, std::span<const std::byte> output,
                         std::span<const std::uint64_t> digests) = 0;
  virtual Status finish() = 0;
};

using plan::kStages;
using plan::Stage;

/// What happens at this moment, for progress lines. Bytes of this rank.
struct Progress {
  Index bytes_read = 0, bytes_written = 0, rounds = 0;
  /// Seconds, by Stage, that the stage's threads were busy, over the number of its threads; for the exchange: that a
  /// packed message was on its way; on a device: that any such work was under way.
  std::array<double, kStages> busy_s{};
  double busy(Stage stage) const { return busy_s[static_cast<std::size_t>(stage)]; }
};

/// What repacks, and what carries messages; the same kind on all ranks. What is given must outlive the stream.
struct Engine {
  device::Device* device = nullptr;  ///< none: threads of the CPU
  device::Groups* groups = nullptr;  ///< between memories of devices; none: Comm
  bool messages_on_device = false;   ///< Comm's transfers take memory of the device (virtual ranks)
  bool carries_on_device() const { return groups != nullptr || messages_on_device; }
};

struct Options {
  Engine engine = {};
  int io_threads = 4;  ///< per direction
  int repack_threads = 1;
  Index io_block_bytes = 8 * kMiB;  ///< longest read of one call; of small rounds less
  /// How long ranks wait for each other's answer, and after a failure for what is under way, before one ends the job.
  double agreement_timeout_s = 30;
  /// Asked all the time on every rank: why to stop before the end, or an empty text. May be empty.
  std::function<std::string()> interruption;
  /// Called about ten times a second on rank 0 with the sum over ranks. May be empty.
  std::function<void(const Progress& all_ranks, double elapsed_s)> progress;
};

struct Outcome {
  plan::Totals totals;                 ///< of this rank, counted as the bytes move
  Progress busy;                       ///< of this rank
  std::vector<std::uint64_t> digests;  ///< per line, of this rank's copies; sum over ranks for the whole
};

/// Runs a schedule: stages overlap over `depth` slots of each kind, allocated once. Copies and constants of a round go
/// to disjoint bytes and may be done in any order. All ranks get the same outcome: if one fails, all stop within a
/// round and return the error of the lowest failing rank. If a rank hangs, another ends the job with status 4.
/// Collective.
Expected<Outcome> execute(const plan::Schedule& schedule, SourceFiles& sources, Sink& sink, comm::Comm& comm,
                          const Options& options);

}  // namespace reshard::exec
