// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "extent_crcs.h"
#include "reshard/exec/executor.h"
#include "reshard/format/format.h"

namespace reshard::app {

/// The files of several checkpoints under one numbering, the most recently used ones kept open.
class CheckpointFiles : public exec::SourceFiles {
 public:
  explicit CheckpointFiles(std::vector<const format::Checkpoint*> checkpoints);

  /// Finds out how each checkpoint's store likes to be read. Local.
  Status probe();

  Expected<std::shared_ptr<io::Source>> open(std::uint32_t file) override;
  std::string path(std::uint32_t file) const override;
  /// Compares what was read with the CRCs that the files state; returns how many extents could not be compared. Errors
  /// (input): a damaged file. Collective.
  Expected<Index> compare_crcs(comm::Comm& comm) { return crcs_.compare(comm, checkpoints_); }

 private:
  struct Place {
    std::size_t checkpoint;
    std::uint32_t file;
  };
  Place place_of(std::uint32_t file) const;

  std::vector<const format::Checkpoint*> checkpoints_;
  std::vector<std::uint32_t> first_file_;  // of each checkpoint, and the total
  std::vector<io::Mode> modes_;
  SourceCrcs crcs_;

  using Open = std::pair<std::uint32_t, std::shared_ptr<io::Source>>;
  std::mutex mutex_;
  std::list<Open> recent_;  // most recent first
  std::unordered_map<std::uint32_t, std::list<Open>::iterator> by_file_;
};

}  // namespace reshard::app
