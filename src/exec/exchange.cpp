// SPDX-License-Identifier: Apache-2.0
#include "exchange.h"

#include <fmt/format.h>

namespace reshard::exec {
namespace {

// Tags tell rounds apart; order per peer does the rest.
int tag_of(Index round) { return static_cast<int>(round % (1 << 15)); }

// A group ends when the slowest peer has packed its part: reads of hours would be needed to get near this.
constexpr std::chrono::minutes kLongestGroup{15};
constexpr std::chrono::seconds kEcho{1};

}  // namespace

bool MessageExchange::step() {
  bool moved = false;
  while (const auto work = pipeline_.ready_to_receive(next_receive_)) {
    post_receives(next_receive_++, work->round);
    moved = true;
  }
  while (const auto work = pipeline_.ready_to_send(next_send_)) {
    post_sends(next_send_++, work->round);
    moved = true;
  }
  return test() || moved;
}

bool MessageExchange::test() {
  bool moved = false;
  const auto finish = [&](std::vector<Transfer>& transfers, Index& bytes) {
    const auto done = std::remove_if(transfers.begin(), transfers.end(), [&](Transfer& transfer) {
      if (!transfer.request->test()) return false;
      bytes += transfer.length;
      return true;
    });
    moved |= done != transfers.end();
    transfers.erase(done, transfers.end());
    return transfers.empty();
  };
  for (InFlight& round : in_flight_) {
    if (round.receives_posted && !round.received && finish(round.receives, round.bytes_received)) {
      round.received = moved = true;
      if (!draining_) pipeline_.finish_receives(round.number, round.bytes_received);
    }
    if (round.sends_posted && !round.sent && finish(round.sends, round.bytes_sent)) {
      round.sent = moved = true;
      if (!draining_) pipeline_.finish_sends(round.number, round.bytes_sent);
    }
  }
  while (!in_flight_.empty() && in_flight_.front().received && in_flight_.front().sent) {
    in_flight_.pop_front();
    ++first_;
  }
  return moved;
}

bool MessageExchange::sending() const {
  return std::any_of(in_flight_.begin(), in_flight_.end(), [](const InFlight& round) { return !round.sends.empty(); });
}

bool MessageExchange::drain(Index bound) {
  draining_ = true;
  for (Index number = first_; number < std::min(bound, first_ + schedule_.depth()); ++number) {
    if (number < next_receive_ && number < next_send_) continue;
    const plan::Round round = schedule_.round(number);
    if (number >= next_receive_) post_receives(next_receive_++, round);
    if (number >= next_send_) post_sends(next_send_++, round);
  }
  test();
  return first_ >= bound;
}

MessageExchange::InFlight& MessageExchange::at(Index number) {
  while (first_ + static_cast<Index>(in_flight_.size()) <= number) {
    const Index next = first_ + static_cast<Index>(in_flight_.size());
    in_flight_.emplace_back().number = next;
  }
  return in_flight_[static_cast<std::size_t>(number - first_)];
}

/// Where a message lies. While draining only its length counts: that of a round that goes past its slots, which no
/// pipeline opens, lies elsewhere.
std::span<std::byte> MessageExchange::room(plan::Slot slot, Index number, const plan::Message& message) {
  const std::span<std::byte> all = slots_.at(slot, number);
  const auto offset = static_cast<std::size_t>(message.slot_offset), length = static_cast<std::size_t>(message.length);
  if (draining_ && (offset > all.size() || length > all.size() - offset)) return spare_.emplace_back(length);
  return all.subspan(offset, length);
}

void MessageExchange::post_receives(Index number, const plan::Round& round) {
  InFlight& in_flight = at(number);
  in_flight.receives_posted = true;
  for (const plan::Message& message : round.receives) {
    const std::span<std::byte> bytes = room(plan::Slot::received, number, message);
    in_flight.receives.push_back({comm_.receive(bytes, message.peer, tag_of(number)), message.length});
  }
}

void MessageExchange::post_sends(Index number, const plan::Round& round) {
  InFlight& in_flight = at(number);
  in_flight.sends_posted = true;
  for (const plan::Message& message : round.sends) {
    const std::span<const std::byte> bytes = room(plan::Slot::outgoing, number, message);
    in_flight.sends.push_back({comm_.send(bytes, message.peer, tag_of(number)), message.length});
  }
}

bool GroupExchange::step() {
  bool moved = test();
  while (!error_ && groups_.ready()) {
    const auto work = pipeline_.ready_to_receive(next_);
    if (!work || !pipeline_.ready_to_send(next_)) break;
    if (Status started = start(next_, work->round); !started) {
      set_error(std::move(started).error());
      break;
    }
    ++next_;
    moved = true;
  }
  return moved;
}

Status GroupExchange::start(Index number, const plan::Round& round) {
  Index sent = 0, received = 0;
  const auto parts = [&](const std::vector<plan::Message>& messages, plan::Slot slot, Index& bytes) {
    std::vector<device::Groups::Part> all;
    for (const plan::Message& message : messages) {
      all.push_back({message.peer, slots_.at(slot, number).data() + message.slot_offset, message.length});
      bytes += message.length;
    }
    return all;
  };
  const auto sends = parts(round.sends, plan::Slot::outgoing, sent);
  const auto receives = parts(round.receives, plan::Slot::received, received);
  RESHARD_TRY(auto group, groups_.start(sends, receives));
  in_flight_.push_back({number, sent, received, std::move(group), Clock::now()});
  return {};
}

bool GroupExchange::test() {
  bool moved = false;
  while (!in_flight_.empty() && !error_) {
    InFlight& front = in_flight_.front();
    Expected<bool> done = front.group->test();
    if (done && !*done && !stopped_ && Clock::now() - front.started > kLongestGroup) {
      done = run_error(
          fmt::format("the exchange of round {} has not ended for {} minutes", front.number, kLongestGroup.count()));
    }
    if (done && !*done) break;
    if (!done && !stopped_) {
      set_error(std::move(done).error());
      break;
    }
    if (!stopped_) {
      pipeline_.finish_receives(front.number, front.bytes_received);
      pipeline_.finish_sends(front.number, front.bytes_sent);
    }
    in_flight_.pop_front();
    moved = true;
  }
  if (error_ && !stopped_ && Clock::now() - failed_ > kEcho) pipeline_.fail(*error_);
  return moved;
}

void GroupExchange::set_error(Error error) {
  error_ = std::move(error);
  failed_ = Clock::now();
}

void GroupExchange::stop() {
  stopped_ = true;
  error_.reset();
  groups_.abort();
}

bool GroupExchange::drain(Index) {
  test();
  return in_flight_.empty();
}

}  // namespace reshard::exec
