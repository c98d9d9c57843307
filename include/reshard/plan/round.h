// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "reshard/base/dtype.h"
#include "reshard/base/index.h"
#include "reshard/layout/strided.h"

namespace reshard::plan {

/// The four slots of a round. Bytes enter by `source` (read) and `received` (peers) and leave by `outgoing` and
/// `output`.
enum class Slot : std::uint8_t { source, received, outgoing, output };

/// Contiguous source bytes to read into the source slot.
struct Read {
  std::uint32_t file;  ///< of Plan::sources
  Index offset;        ///< bytes in the file
  Index length;
  Index slot_offset;
};

/// Contiguous target bytes to write from the output slot.
struct Write {
  std::uint32_t file;  ///< of Plan::targets
  Index offset;
  Index length;
  Index slot_offset;
};

inline constexpr std::int64_t kNoLine = -1;

/// One strided copy between two slots. Byte positions are those of element 0 of the copy; loops are in elements.
/// Message buffers hold the elements of a copy densely, in the order of its loops, in the source's dtype.
struct Copy {
  Slot src_slot, dst_slot;
  DType src_dtype, dst_dtype;  ///< they differ only where dst_slot is output: the cast is done last
  Index src_byte, dst_byte;
  std::int64_t line = kNoLine;  ///< digest line that the values count in; kNoLine: a replica, or an outgoing copy
  std::uint32_t write = 0;      ///< of Round::writes: the one that a copy into the output slot belongs to
  layout::StridedCopy strided;  ///< its src, dst are 0; canonical is used
};

/// Constant bytes (headers, zeros) to put into the output slot, where no copy goes.
struct Constant {
  Index slot_offset;
  Index length;
  const char* bytes;  ///< nullptr: zeros
};

/// Bytes exchanged with one peer: a contiguous part of the outgoing or received slot.
struct Message {
  int peer;
  Index slot_offset;
  Index length;
};

/// One step of one rank: read, pack (source -> outgoing), exchange, place (source or received -> output), write.
struct Round {
  std::vector<Read> reads;
  std::vector<Copy> pack;
  std::vector<Message> sends, receives;
  std::vector<Constant> constants;
  std::vector<Copy> place;
  std::vector<Write> writes;
};

/// What one rank moves; the executor's counters must come out equal.
struct Totals {
  Index bytes_read = 0;
  Index bytes_sent = 0;
  Index bytes_received = 0;
  Index bytes_written = 0;
  Index rounds = 0;
  bool operator==(const Totals&) const = default;
};

/// The work of one rank as the executor sees it: rounds spelt out one at a time, so that a plan stays small.
class Schedule {
 public:
  virtual ~Schedule() = default;
  virtual Index num_rounds() const = 0;
  /// Pure; the same every time. Local, thread-safe.
  virtual Round round(Index number) const = 0;
  /// Bytes that each slot must hold, over all rounds.
  virtual Index slot_bytes(Slot slot) const = 0;
  /// Slots of each kind that the memory budget allows (2 or more: stages overlap).
  virtual int depth() const = 0;
  /// True if any rank exchanges: then all ranks have the same number of rounds and walk them in step.
  virtual bool exchanges() const = 0;
  virtual Index num_lines() const = 0;
};

}  // namespace reshard::plan
