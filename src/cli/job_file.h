// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "command_line.h"

namespace reshard::cli {

/// What a job file says: as text, as if it had been given on a command line.
struct JobFile {
  std::optional<Command> command;
  std::vector<std::string> operands;  ///< one for each of the command; empty: not said
  std::map<std::string, std::vector<std::string>> options;
};

/// Reads a JSON object with a key for every option (with - or _), "src" and "dst", and "command", which `command`
/// overrides. With a `line` (from 1), the object is that line of a file of many. Errors (usage): unreadable, no such
/// line, a key that the command does not know, a value of another type. Local.
Expected<JobFile> read_job_file(const std::string& path, std::optional<Index> line, std::optional<Command> command);

/// Options as keys of a job file: those of `options` that `command` has and that say what to do, not how this run
/// shows it. Pure.
nlohmann::ordered_json to_job(const std::map<std::string, std::vector<std::string>>& options, Command command);

/// The error for an option that the command (or the program) does not have.
Error unknown_option(const std::string& token, std::optional<Command> command);

}  // namespace reshard::cli
