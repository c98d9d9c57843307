// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "reshard/base/expected.h"

namespace reshard::job {

/// Of this machine. Local.
std::string host_name();

/// A process that works on a part of an output.
struct Runner {
  std::string host;
  long pid = 0;
  std::string start;  ///< ticks since boot: tells it apart from a later process of the same number
  std::string job;    ///< of the scheduler, may be empty
  bool operator==(const Runner&) const = default;

  static Runner self(const std::string& job);
  std::string describe() const;
  bool is_here() const;  ///< on this host
  /// The process is gone, or another has its number. Only for one that is here.
  bool is_gone() const;
};

/// What a part last said of itself: a file of DST.journal, replaced as a whole every two seconds while it runs.
struct PartRecord {
  int part = 0, parts = 1;
  Runner runner;
  std::string state;               ///< running, stopped (may be resumed), failed (the same), finished
  double time = 0;                 ///< of the record, seconds since 1970 by the runner's clock
  nlohmann::ordered_json details;  ///< bytes, rates, error: what Claim::tell was given
  bool operator==(const PartRecord&) const = default;

  /// Name of the file. Pure.
  static std::string file_name(int part, int parts);
  /// Errors (failed): cannot be written. Local.
  Status write(const std::string& folder) const;
  /// Nothing if it is not there or not a record. Local.
  static std::optional<PartRecord> read(const std::string& path);
  /// All of a folder, by name. Local.
  static std::vector<PartRecord> read_all(const std::string& folder);
};

/// States of a part.
inline constexpr const char* kRunning = "running";
inline constexpr const char* kStopped = "stopped";    ///< interrupted; may be resumed
inline constexpr const char* kFailed = "failed";      ///< by an error; may be resumed
inline constexpr const char* kFinished = "finished";  ///< its spans are durable
inline constexpr int kMostParts = 10'000;
/// How long a record of a living part may be without being replaced.
inline constexpr double kSilence_s = 10;

}  // namespace reshard::job
