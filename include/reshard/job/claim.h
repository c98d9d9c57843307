// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"
#include "reshard/job/runner.h"

namespace reshard::job {

/// An output path under construction: DST grows in DST.partial, the folder DST.journal is the claim. See
/// src/job/README.md. One process of each part (its rank 0) makes or joins the claim; the last part to finish commits.
class Claim {
 public:
  struct Request {
    std::string target;     ///< DST; of a one-file target, the file
    bool one_file = false;  ///< DST is a file, not a folder
    bool overwrite = false;
    /// Go on where others stopped, if there is a journal of the same plan. Implied by `parts` above 1.
    bool resume = false;
    int parts = 1, part = 0;  ///< 0 <= part < parts
    std::string plan_hash;
    std::string sources;  ///< what the source's files are, in any words: a resumed conversion wants the same
    std::string job_id;   ///< of the scheduler, may be empty
    /// Does DST hold the output of this very plan? Asked where resuming finds no journal. May be empty: no.
    std::function<bool()> is_done = {};
    /// Asked while make() waits: shall it give up? May be empty.
    std::function<bool()> interrupted = {};

    bool joins() const { return resume || parts > 1; }  ///< those who work on the same
    bool finds_it_done() const { return joins() && is_done && is_done(); }
  };

  /// Where a target grows and is claimed. Pure.
  static std::string partial_path(const std::string& target);
  static std::string journal_path(const std::string& target);

  /// Finishes a commit that a crash cut in half, then builds the claim under a private name and renames it into place;
  /// or joins the one that is there (Request::joins). Nothing: DST holds this output already. An empty DST.partial
  /// folder exists then (of a one-file target: nothing), or what others left of it. Errors (usage): DST exists (say
  /// --overwrite), is a symlink or a mount point, its parent is missing or not writable, something else has one of the
  /// names DST.partial and DST.old, another job holds the claim (its host, pid and job are named; without `joins` a
  /// dead owner on this host is replaced and what it left is removed), or it is the claim of another plan, or of the
  /// same source before that changed. May wait ten seconds for a sign of life from another host. Local.
  static Expected<std::optional<Claim>> make(const Request& request);

  /// The errors that make would give now, as far as they can be told without writing and waiting. Local.
  static Status check(const Request& request);

  const std::string& partial() const { return partial_; }
  const std::string& journal() const { return journal_; }
  /// What the names of this run's journals begin with: no other run's do.
  std::string journal_name() const;
  /// True if others had worked on this output before.
  bool resumed() const { return resumed_; }

  /// True if the output was committed, or is about to be, or the claim was given up. Local.
  bool is_over() const;

  /// Errors (failed): the record of this part is another run's, which took it for dead. Local.
  Status check_mine() const;
  /// Tells how this part is doing, in its record: for `reshard status`, and for whoever asks whether it is alive.
  /// `state` is running, stopped, failed or finished; `details` are added to it. Errors (failed). Local.
  Status tell(const std::string& state, const nlohmann::ordered_json& details);

  /// This part's spans are durable: takes its ticket, unless it has one. True: that is the last, so that this part has
  /// to finish the output. Errors (failed). Local.
  Expected<bool> take_ticket();

  /// The files under partial() are complete and synced: syncs its folders, makes it DST by one rename (a DST in the way
  /// becomes DST.old before and is removed after) and gives up the claim. `before` is called once nothing is in the
  /// way. Errors (failed): those of `before`, too; the next run finishes what this one could not. Local.
  Status commit(const std::function<Status()>& before = {});
  /// Removes partial output and claim after a failure that is not worth resuming. Local.
  void discard();

 private:
  /// What became of an attempt to join a claim.
  enum class Joined {
    yes,
    complete,  ///< the output is complete, and DST now or in a moment
    gone,      ///< it was given up or changed hands meanwhile: to be looked at anew
  };

  explicit Claim(const Request& request);
  Expected<bool> build();
  Expected<Joined> join();
  PartRecord record(const std::string& state, const nlohmann::ordered_json& details) const;

  Request request_;
  std::string partial_, journal_;
  Runner me_;
  bool resumed_ = false;
};

}  // namespace reshard::job
