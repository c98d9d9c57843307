// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "reshard/job/claim.h"

namespace reshard::job {

/// A part at work: its claim, and a thread that replaces its record every two seconds, whatever the part is doing, so
/// that others see that it lives. A part that slept too long (a stopped process, a store that hung) may find that
/// another run has taken its place; it must not touch the output any more. Thread-safe.
class Heartbeat {
 public:
  explicit Heartbeat(Claim claim);
  ~Heartbeat();

  Claim& claim() { return claim_; }
  /// What the record shall tell from now on beside the state.
  void update(const nlohmann::ordered_json& details);
  /// Looks at the record, and replaces it. To be asked before every step that touches what others may touch. Errors
  /// (failed): another run has taken this part's place; the record cannot be written. Local.
  Status beat();
  /// What beat() or the thread found: how another run took this part's place, or an empty text.
  std::string replaced();
  /// The last word: state and details. Errors (failed): it cannot be written. Local.
  Status end(const std::string& state);

 private:
  void run(const std::stop_token& stop);
  Status beat_locked();

  Claim claim_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  nlohmann::ordered_json details_ = nlohmann::ordered_json::object();
  std::string replaced_;
  std::jthread thread_;  // last: joined first
};

}  // namespace reshard::job
