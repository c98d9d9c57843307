// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "pipeline.h"
#include "reshard/comm/comm.h"

namespace reshard::exec {

/// The messages of the rounds, in the order of the rounds, for one rank. Receives are posted as soon as their slot is
/// free, sends when their round is packed; nothing waits. Used by the one thread that talks to other ranks.
class Exchange {
 public:
  Exchange(const plan::Schedule& schedule, const Slots& slots, Pipeline& pipeline, comm::Comm& comm)
      : schedule_(schedule), slots_(slots), pipeline_(pipeline), comm_(comm) {}

  /// Posts what is ready and takes note of what is done. True if anything moved.
  bool step();
  /// Takes note of what is done, posts nothing. True if anything moved.
  bool test();
  bool pending() const { return !in_flight_.empty(); }
  /// Is a packed message waiting to be taken by its receiver?
  bool sending() const;

  /// Rounds of which anything is posted are below this. All ranks must post the rounds below the largest such number,
  /// or others wait for ever.
  Index posted() const { return std::max(next_receive_, next_send_); }
  /// After a failure, with an idle pipeline: posts the remaining messages below `bound`, whatever the slots hold, no
  /// more rounds at once than there are slots, and takes note of what is done. True when all are.
  bool drain(Index bound);

 private:
  struct Transfer {
    std::unique_ptr<comm::Request> request;
    Index length;
  };
  struct InFlight {
    Index number = 0;
    bool receives_posted = false, sends_posted = false;
    std::vector<Transfer> receives, sends;
    Index bytes_received = 0, bytes_sent = 0;
    bool received = false, sent = false;  // reported
  };

  InFlight& at(Index number);
  void post_receives(Index number, const plan::Round& round);
  void post_sends(Index number, const plan::Round& round);

  const plan::Schedule& schedule_;
  const Slots& slots_;
  Pipeline& pipeline_;
  comm::Comm& comm_;
  std::deque<InFlight> in_flight_;  // by number; those below are done
  Index first_ = 0;                 // number of in_flight_.front()
  Index next_receive_ = 0, next_send_ = 0;
  bool draining_ = false;
};

}  // namespace reshard::exec
