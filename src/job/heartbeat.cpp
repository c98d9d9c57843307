// SPDX-License-Identifier: Apache-2.0
#include "reshard/job/heartbeat.h"

#include <chrono>
#include <utility>

namespace reshard::job {
namespace {

constexpr std::chrono::seconds kEvery{2};

}  // namespace

Heartbeat::Heartbeat(Claim claim)
    : claim_(std::move(claim)), thread_([this](const std::stop_token& stop) { run(stop); }) {}

Heartbeat::~Heartbeat() {
  thread_.request_stop();
  wake_.notify_all();
}

void Heartbeat::update(const nlohmann::ordered_json& details) {
  const std::lock_guard lock(mutex_);
  details_.update(details);
}

Status Heartbeat::beat_locked() {
  if (Status mine = claim_.check_mine(); !mine) {
    replaced_ = mine.error().message;
    return mine;
  }
  return claim_.tell(kRunning, details_);
}

Status Heartbeat::beat() {
  const std::lock_guard lock(mutex_);
  return beat_locked();
}

std::string Heartbeat::replaced() {
  const std::lock_guard lock(mutex_);
  return replaced_;
}

Status Heartbeat::end(const std::string& state) {
  thread_.request_stop();
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  RESHARD_CHECK(claim_.check_mine());
  return claim_.tell(state, details_);
}

void Heartbeat::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    wake_.wait_for(lock, stop, kEvery, [] { return false; });
    if (stop.stop_requested()) return;
    // What cannot be told now is told the next time.
    static_cast<void>(beat_locked());
    if (!replaced_.empty()) return;
  }
}

}  // namespace reshard::job
