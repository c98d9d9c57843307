// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "command_line.h"
#include "reshard/app/context.h"

namespace reshard::cli {

/// Tells how a stream is getting on: one line that is rewritten on a terminal, or a line every so often.
class ProgressPrinter {
 public:
  /// `verb` names what is done ("convert").
  ProgressPrinter(std::string verb, const ProgressSetting& setting, bool terminal);
  ~ProgressPrinter() { clear(); }
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  void update(const app::Moment& moment);
  /// Takes the live line off the terminal, so that something else can be printed.
  void clear();

 private:
  std::string verb_;
  bool live_;
  double interval_s_;
  bool shown_ = false;
  app::Moment last_;
};

/// "convert  41 %  12.3 GiB of 29.9 GiB  1.21 GB/s  12 s left  limit: read", for the time between two moments. Pure.
std::string progress_line(const std::string& verb, const app::Moment& last, const app::Moment& now);

}  // namespace reshard::cli
