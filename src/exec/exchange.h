// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "pipeline.h"
#include "reshard/comm/comm.h"
#include "reshard/device/groups.h"

namespace reshard::exec {

/// The messages of the rounds, in the order of the rounds, for one rank; nothing waits. Used by the one thread that
/// talks to other ranks.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// Posts what is ready and takes note of what is done. True if anything moved.
  virtual bool step() = 0;
  /// Takes note of what is done, posts nothing. True if anything moved.
  virtual bool test() = 0;
  virtual bool pending() const = 0;
  /// Is a packed message waiting to be taken by its receiver?
  virtual bool sending() const = 0;

  /// Rounds of which anything is posted are below this. All ranks must post the rounds below the largest such number,
  /// or others wait for ever.
  virtual Index posted() const = 0;
  /// Some rank failed, and all know it: what can be stopped without the peers is. Errors count no more.
  virtual void stop() = 0;
  /// After that, with an idle pipeline: sees to it that nobody waits for messages of the rounds below `bound`. True
  /// when nothing is under way.
  virtual bool drain(Index bound) = 0;
};

/// By transfers of Comm, out of and into memory that they can take. Receives are posted as soon as their slot is free,
/// sends when their round is packed. Draining posts what is missing, whatever the slots hold, no more rounds at once
/// than there are slots.
class MessageExchange : public Exchange {
 public:
  MessageExchange(const plan::Schedule& schedule, const Slots& slots, Pipeline& pipeline, comm::Comm& comm)
      : schedule_(schedule), slots_(slots), pipeline_(pipeline), comm_(comm) {}

  bool step() override;
  bool test() override;
  bool pending() const override { return !in_flight_.empty(); }
  bool sending() const override;
  Index posted() const override { return std::max(next_receive_, next_send_); }
  void stop() override {}
  bool drain(Index bound) override;

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
  std::span<std::byte> room(plan::Slot slot, Index number, const plan::Message& message);
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
  std::deque<std::vector<std::byte>> spare_;  // for messages that are drained and fit no slot
};

/// By groups of transfers between devices, one per round, empty ones too: a round's group is started when all of it is
/// packed and its received slot is free. Stopping aborts the groups, which needs no peer. An error of a group may only
/// be the echo of another rank's failure: that one has a second to be told.
class GroupExchange : public Exchange {
 public:
  GroupExchange(const Slots& device_slots, Pipeline& pipeline, device::Groups& groups)
      : slots_(device_slots), pipeline_(pipeline), groups_(groups) {}

  bool step() override;
  bool test() override;
  bool pending() const override { return !in_flight_.empty(); }
  bool sending() const override { return pending(); }
  Index posted() const override { return next_; }
  void stop() override;
  bool drain(Index bound) override;

 private:
  using Clock = std::chrono::steady_clock;
  struct InFlight {
    Index number;
    Index bytes_sent, bytes_received;
    std::unique_ptr<device::Pending> group;
    Clock::time_point started;
  };

  Status start(Index number, const plan::Round& round);
  void set_error(Error error);

  const Slots& slots_;
  Pipeline& pipeline_;
  device::Groups& groups_;
  std::deque<InFlight> in_flight_;
  Index next_ = 0;
  std::optional<Error> error_;  // of a group
  Clock::time_point failed_{};
  bool stopped_ = false;
};

}  // namespace reshard::exec
