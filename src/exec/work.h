// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "device_steps.h"
#include "reshard/plan/round.h"

namespace reshard::exec {

/// A part of a read that one thread does in one call.
struct Piece {
  std::uint32_t file;
  Index offset;
  Index length;
  Index slot_offset;
};

/// Copies (or constants) in batches worth a thread's while: many small ones together, large ones cut.
struct Batches {
  struct Item {
    enum class Kind : std::uint8_t { pack, place, constant };
    Kind kind;
    std::uint32_t index;     ///< of round.pack, round.place or round.constants
    std::int32_t part = -1;  ///< of `parts`, where a copy was cut
  };
  std::vector<Item> items;
  std::vector<plan::Copy> parts;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> batches;  ///< ranges of items
  std::size_t taken = 0, done = 0;                               ///< batches

  bool available() const { return taken < batches.size(); }
  bool finished() const { return done == batches.size(); }
};

/// How rounds are cut into work.
struct Grain {
  Index read_bytes = 8 * kMiB;  ///< longest read of one call
  int readers = 4;              ///< threads that share a round's reads
  bool cut_copies = false;      ///< several threads repack
  bool exchanges = false;
  bool on_device = false;           ///< a device repacks
  bool messages_on_device = false;  ///< and messages travel between memories of devices
};

/// One round under way: what is to do, and how far it is. Counters are guarded by the pipeline's mutex.
struct RoundWork {
  /// Pure.
  RoundWork(Index number_, plan::Round round_, const Grain& grain);

  const Index number;
  const plan::Round round;

  std::vector<Piece> pieces;
  std::size_t pieces_taken = 0, pieces_done = 0;
  Batches pack;                        ///< source -> outgoing
  Batches local;                       ///< constants, source -> output
  Batches remote;                      ///< received -> output
  std::optional<DeviceSteps> device;   ///< instead of the batches
  std::vector<std::uint64_t> digests;  ///< per copy of round.place
  std::size_t writes_taken = 0, writes_done = 0;
  bool sent, received;  ///< by the exchange; at once where nothing is exchanged

  bool read() const { return pieces_done == pieces.size(); }
  bool packed() const { return device ? device->done(DeviceSteps::fetch) : read() && pack.finished(); }
  bool placed() const { return device ? device->done(DeviceSteps::download) : local.finished() && remote.finished(); }
  bool written() const { return placed() && writes_done == round.writes.size(); }

  /// Is the slot of this kind, of the host or of the device, free for a later round?
  bool frees(plan::Slot slot) const;
  bool frees_on_device(plan::Slot slot) const;
  /// Is all done and free that this step of the device needs of its own round?
  bool allows(DeviceSteps::Step step) const;
  bool complete() const { return written() && packed() && sent && received; }
};

}  // namespace reshard::exec
