// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::job {

/// An output path under construction: DST grows in DST.partial, the folder DST.journal is the claim. See src/job/README.md.
/// One process (rank 0) makes the claim and commits; the paths are the same for all.
class Claim {
 public:
  struct Request {
    std::string target;     ///< DST
    bool one_file = false;  ///< DST is a file, not a folder
    bool overwrite = false;
    std::string plan_hash;
    std::string job_id;     ///< of the scheduler, may be empty
  };

  /// Builds the claim under a private name and renames it into place. Repairs a commit that a crash cut in half.
  /// Errors (usage): DST exists (say --overwrite), parent not writable or a mount point, another job holds the claim
  /// (its host, pid and job are named; a dead owner on this host is replaced). Local, rank 0.
  static Expected<Claim> make(const Request& request);

  const std::string& partial() const { return partial_; }
  const std::string& journal() const { return journal_; }

  /// Everything under partial() is complete and synced: one rename makes it DST, then the claim goes. Local, rank 0.
  Status commit();
  /// Removes partial output and claim after a failure that is not worth resuming. Local, rank 0.
  void discard();

 private:
  std::string target_, partial_, journal_;
  bool one_file_ = false, overwrite_ = false;
};

}  // namespace reshard::job
