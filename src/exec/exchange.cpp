// SPDX-License-Identifier: Apache-2.0
#include "exchange.h"

namespace reshard::exec {
namespace {

// Tags tell rounds apart; order per peer does the rest.
int tag_of(Index round) { return static_cast<int>(round % (1 << 15)); }

}  // namespace

bool Exchange::step() {
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

bool Exchange::test() {
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

bool Exchange::sending() const {
  return std::any_of(in_flight_.begin(), in_flight_.end(), [](const InFlight& round) { return !round.sends.empty(); });
}

bool Exchange::drain(Index bound) {
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

Exchange::InFlight& Exchange::at(Index number) {
  while (first_ + static_cast<Index>(in_flight_.size()) <= number) {
    const Index next = first_ + static_cast<Index>(in_flight_.size());
    in_flight_.emplace_back().number = next;
  }
  return in_flight_[static_cast<std::size_t>(number - first_)];
}

void Exchange::post_receives(Index number, const plan::Round& round) {
  InFlight& in_flight = at(number);
  in_flight.receives_posted = true;
  const std::span<std::byte> slot = slots_.at(plan::Slot::received, number);
  for (const plan::Message& message : round.receives) {
    const auto bytes =
        slot.subspan(static_cast<std::size_t>(message.slot_offset), static_cast<std::size_t>(message.length));
    in_flight.receives.push_back({comm_.receive(bytes, message.peer, tag_of(number)), message.length});
  }
}

void Exchange::post_sends(Index number, const plan::Round& round) {
  InFlight& in_flight = at(number);
  in_flight.sends_posted = true;
  const std::span<const std::byte> slot = slots_.at(plan::Slot::outgoing, number);
  for (const plan::Message& message : round.sends) {
    const auto bytes =
        slot.subspan(static_cast<std::size_t>(message.slot_offset), static_cast<std::size_t>(message.length));
    in_flight.sends.push_back({comm_.send(bytes, message.peer, tag_of(number)), message.length});
  }
}

}  // namespace reshard::exec
