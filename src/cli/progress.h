// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "command_line.h"
#include "reshard/app/context.h"

namespace reshard::cli {

/// Tells how a command is getting on: one line that is rewritten on a terminal, or a line every so often.
class ProgressPrinter {
 public:
  /// `verb` names what is done ("convert").
  ProgressPrinter(std::string verb, const ProgressSetting& setting, bool terminal);
  ~ProgressPrinter() { end(); }
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  /// A stage begins that has no share to tell: "convert: planning, 12 s", once it has lasted that long and then every
  /// so often, by a thread of its own, until the next one or the stream goes on.
  void stage(const std::string& name);
  /// A stream goes on.
  void update(const app::Moment& moment);
  /// Prints a line that stays.
  void say(const std::string& line);
  /// Takes the live line off the terminal for good: no stage is told any more.
  void end();

 private:
  using Clock = std::chrono::steady_clock;

  void tell_stages(const std::stop_token& stop);
  void show(const std::string& line);
  void clear();

  std::string verb_;
  bool live_;
  double interval_s_;
  std::mutex mutex_;  // of all below but the thread, and of stderr
  std::condition_variable_any changed_;
  std::string stage_;  // empty: none
  Clock::time_point stage_begin_;
  bool shown_ = false;
  app::Moment last_;
  std::jthread stages_;  // from the first stage on
};

/// "convert  41 %  12.3 GiB of 29.9 GiB  1.21 GB/s  12 s left  limit: read", for the time between two moments. Pure.
std::string progress_line(const std::string& verb, const app::Moment& last, const app::Moment& now);

}  // namespace reshard::cli
