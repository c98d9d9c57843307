// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/comm/comm.h"
#include "reshard/container/container.h"
#include "reshard/format/format.h"
#include "reshard/job/journal.h"

namespace reshard::app {

/// Per file, the CRC-32s of its checked extents, from records of all spans, sorted by file and span. Errors (failed):
/// parts that do not make up an extent. Pure.
Expected<std::vector<std::vector<std::uint32_t>>> join_crcs(const std::vector<job::SpanRecord>& records,
                                                            const std::vector<container::FileImage>& images);

/// Watches what is read of a source's files, where these state CRC-32s, and compares. Thread-safe.
class SourceCrcs {
 public:
  /// Numbers of files count on over the checkpoints.
  explicit SourceCrcs(const std::vector<const format::Checkpoint*>& checkpoints);

  bool watches(std::uint32_t file) const { return !checks_[file]->empty(); }
  void add(std::uint32_t file, Index offset, std::span<const std::byte> bytes);
  /// Compares every extent that was read as a whole, by whichever ranks; bytes that two reads share are read again on
  /// rank 0 to tell their CRCs apart. Returns how many extents were touched but could not be compared. Errors (input):
  /// one whose bytes are not those that were written. Collective.
  Expected<Index> compare(comm::Comm& comm, const std::vector<const format::Checkpoint*>& checkpoints);

 private:
  struct Part {
    std::uint32_t file;
    Index check, begin, length;
    std::uint32_t crc;
    Index end() const { return begin + length; }
  };
  static bool comes_before(const Part& a, const Part& b);
  void join_neighbours();
  /// CRC of an extent from all its parts; nothing if they do not cover it, or overlap too much. Local.
  Expected<std::optional<std::uint32_t>> join(const std::vector<const format::Checkpoint*>& checkpoints,
                                              std::span<const Part> parts) const;
  Expected<std::uint32_t> crc_of(const std::vector<const format::Checkpoint*>& checkpoints, std::uint32_t file,
                                 Index begin, Index length) const;
  std::vector<const std::vector<container::FileDirectory::Check>*> checks_;  // per file
  std::vector<std::string> paths_;
  std::mutex mutex_;
  std::vector<Part> parts_;
};

}  // namespace reshard::app
