// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/app/options.h"
#include "reshard/base/expected.h"

namespace reshard::cli {

enum class Command { inspect, plan, convert, verify, diff, digest, list, jobs, status };

/// A command as the help shows it.
struct CommandInfo {
  Command command;
  std::string_view name;
  std::vector<std::string> operands;  ///< as in the help: "SRC", "[DST]"
  std::string_view about;
  std::string_view details;
  std::vector<std::string_view> examples;
};
const std::vector<CommandInfo>& commands();
const CommandInfo& info(Command command);

/// How often to tell the progress.
struct ProgressSetting {
  bool automatic = true;   ///< live on a terminal, else every `interval_s`
  double interval_s = 10;  ///< 0: never
};

/// Everything that a command line says.
struct Invocation {
  std::optional<Command> command;  ///< nothing with --help or --version alone
  bool help = false, version = false;
  app::Options options;
  std::string list_what;
  bool json = false;
  bool watch = false;
  ProgressSetting progress;
  /// Options as keys of a job file, without those that only say how this command runs.
  nlohmann::ordered_json given;
};

/// An option as the help shows it, and what it does with its value.
struct OptionInfo {
  std::string_view name;
  std::string_view value;  ///< "FORMAT"; empty: a flag
  unsigned commands;       ///< bits of Command
  bool repeats;
  std::string_view group;
  std::string_view about;  ///< "{src}", "{other}": the checkpoints of the command, by their names there
  std::function<Status(Invocation&, const std::string& value)> apply;

  bool belongs_to(Command command) const { return (commands >> static_cast<unsigned>(command) & 1u) != 0; }
};
const std::vector<OptionInfo>& options();

/// Parses arguments (without the program's name) and the job file that --config names; the command line wins. Errors
/// (usage): whatever is not understood, with a guess at what was meant. Local.
Expected<Invocation> parse_command_line(const std::vector<std::string>& arguments);

/// Help for one command, or for the program. Pure.
std::string help_text(std::optional<Command> command);

}  // namespace reshard::cli
