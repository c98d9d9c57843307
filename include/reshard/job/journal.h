// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::job {

/// A span that is durable in the partial output.
struct SpanRecord {
  struct LineDigest {
    Index line;
    std::uint64_t digest;  ///< of the values in this span
  };
  std::uint32_t file = 0;   ///< of the plan's targets
  std::uint32_t span = 0;   ///< bytes [span * 16 MiB, (span + 1) * 16 MiB) of the file
  std::vector<LineDigest> lines;
};

/// One process's append-only journal: text lines, each with its length and CRC-32, so that a torn tail is recognised.
class Journal {
 public:
  static Expected<Journal> create(const std::string& folder, const std::string& name, const std::string& plan_hash);
  /// Appends and syncs records whose data is already durable. Local.
  Status append(const std::vector<SpanRecord>& records);
  /// All whole records of all journals in `folder`; torn tails and foreign plans are left out. Local.
  static Expected<std::vector<SpanRecord>> read_all(const std::string& folder, const std::string& plan_hash);

  Journal(Journal&&) noexcept;
  Journal& operator=(Journal&&) noexcept;
  ~Journal();

 private:
  explicit Journal(int fd);
  int fd_ = -1;
};

}  // namespace reshard::job
