// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
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
    bool operator==(const LineDigest&) const = default;
  };
  std::uint32_t file = 0;  ///< of the plan's targets
  std::uint32_t span = 0;  ///< bytes [span * 16 MiB, (span + 1) * 16 MiB) of the file
  std::vector<LineDigest> lines;
  /// What the span holds of an extent whose CRC-32 the file will state.
  struct ExtentCrc {
    Index extent;
    Index length;  ///< bytes
    std::uint32_t crc;
    bool operator==(const ExtentCrc&) const = default;
  };
  std::vector<ExtentCrc> crcs = {};
  bool operator==(const SpanRecord&) const = default;
};

/// One process's append-only journal: text lines, each with its length and CRC-32, so that a torn tail is recognised.
class Journal {
 public:
  /// A new file `name`.log in `folder`. Errors (failed): it exists, or cannot be written. Local.
  static Expected<Journal> create(const std::string& folder, const std::string& name, const std::string& plan_hash);
  /// Appends and syncs records whose data is already durable. Errors (failed). Local.
  Status append(const std::vector<SpanRecord>& records);
  /// All whole records of all journals in `folder`, by file name; what follows a torn or damaged line and journals of
  /// other plans are left out. Errors (failed): a folder or file that cannot be read. Local.
  static Expected<std::vector<SpanRecord>> read_all(const std::string& folder, const std::string& plan_hash);

  Journal(Journal&& other) noexcept;
  Journal& operator=(Journal&& other) noexcept;
  ~Journal();

 private:
  Journal(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  Status write(const std::string& text);
  Status sync();

  int fd_ = -1;
  std::string path_;
};

}  // namespace reshard::job
