// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::job {

/// An output path under construction: DST grows in DST.partial, the folder DST.journal is the claim. See
/// src/job/README.md. One process (rank 0) makes the claim and commits; the paths are the same for all.
class Claim {
 public:
  struct Request {
    std::string target;     ///< DST; of a one-file target, the file
    bool one_file = false;  ///< DST is a file, not a folder
    bool overwrite = false;
    std::string plan_hash;
    std::string job_id;  ///< of the scheduler, may be empty
  };

  /// Where a target grows and is claimed. Pure.
  static std::string partial_path(const std::string& target);
  static std::string journal_path(const std::string& target);

  /// Finishes a commit that a crash cut in half, then builds the claim under a private name and renames it into place.
  /// An empty DST.partial folder exists then (of a one-file target: nothing). Errors (usage): DST exists (say
  /// --overwrite), is a symlink or a mount point, its parent is missing or not writable, something else has one of the
  /// names DST.partial and DST.old, or another job holds the claim (its host, pid and job are named; a dead owner on
  /// this host is replaced and what it left is removed). Local, rank 0.
  static Expected<Claim> make(const Request& request);

  /// The errors that make would give now, as far as they can be told without writing. Local, rank 0.
  static Status check(const Request& request);

  const std::string& partial() const { return partial_; }
  const std::string& journal() const { return journal_; }

  /// The files under partial() are complete and synced: syncs its folders, makes it DST by one rename (a DST in the way
  /// becomes DST.old before and is removed after) and gives up the claim. Errors (failed); the next run finishes what
  /// this one could not. Local, rank 0.
  Status commit();
  /// Removes partial output and claim after a failure that is not worth resuming. Local, rank 0.
  void discard();

 private:
  Claim(const std::string& target, bool overwrite);

  std::string target_, partial_, journal_;
  bool overwrite_;
};

}  // namespace reshard::job
