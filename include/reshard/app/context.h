// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/app/engines.h"
#include "reshard/comm/comm.h"
#include "reshard/exec/executor.h"
#include "reshard/model/library.h"

namespace reshard::app {

/// Where a streaming command stands.
struct Moment {
  exec::Progress all_ranks;
  Index target_bytes = 0;  ///< to be written in the end
  double elapsed_s = 0;
};

/// What a command runs in, and whom it tells things while it runs. The functions are called on rank 0 only; they may be
/// empty. `stage` is told what a command turns to ("reading headers"), `progress` about ten times a second how a stream
/// stands.
struct Context {
  comm::Comm& comm;
  Engines& engines;
  const model::Library& library;
  std::string version;  ///< of the program, for records
  std::string command;  ///< the command line, for reports
  std::function<void(const std::string&)> note;
  std::function<void(const std::string&)> warning;
  std::function<void(const std::string&)> stage;
  std::function<void(const Moment&)> progress;
  /// Asked on every rank while streaming: why to stop ("interrupted by SIGTERM"), or an empty text.
  std::function<std::string()> interruption;

  void tell(const std::function<void(const std::string&)>& listener, const std::string& text) const {
    if (comm.rank() == 0 && listener) listener(text);
  }
  /// What formats noted; a note that begins with "warning: " is one.
  void tell_notes(const std::vector<std::string>& notes) const {
    constexpr std::string_view kWarning = "warning: ";
    for (const std::string& text : notes) {
      const bool is_warning = text.starts_with(kWarning);
      tell(is_warning ? warning : note, is_warning ? text.substr(kWarning.size()) : text);
    }
  }
};

}  // namespace reshard::app
