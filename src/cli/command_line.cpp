// SPDX-License-Identifier: Apache-2.0
#include "command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <map>

#include "job_file.h"
#include "reshard/base/text.h"

namespace reshard::cli {
namespace {

namespace po = boost::program_options;

/// `_` stands for `-` in the names of options.
std::string with_dashes(std::string argument) {
  if (!argument.starts_with("--")) return argument;
  std::replace(argument.begin(),
               argument.begin() + static_cast<std::ptrdiff_t>(std::min(argument.find('='), argument.size())), '_', '-');
  return argument;
}

std::string guess_text(const std::optional<std::string>& guess, std::string_view prefix = "") {
  return guess ? fmt::format("; did you mean {}{}?", prefix, *guess) : "";
}

Expected<Command> parse_command(const std::string& name) {
  std::vector<std::string> names;
  for (const CommandInfo& one : commands()) {
    if (one.name == name) return one.command;
    names.emplace_back(one.name);
  }
  return usage_error(fmt::format("unknown command {}{} (commands: {})", name, guess_text(did_you_mean(name, names)),
                                 join(names, ", ")));
}

/// What stands on a command line, not yet understood.
struct Given {
  std::vector<std::string> operands;
  std::map<std::string, std::vector<std::string>> options;
};

Expected<Given> split_arguments(const std::vector<std::string>& arguments, std::optional<Command> command) {
  po::options_description description;
  for (const OptionInfo& option : options()) {
    if (command && !option.belongs_to(*command)) continue;
    const std::string name(option.name);
    if (option.value.empty()) {
      description.add_options()(name.c_str(), "");
    } else {
      description.add_options()(name.c_str(), po::value<std::string>(), "");
    }
  }
  using Style = po::command_line_style::style_t;
  const int style = Style::allow_long | Style::long_allow_adjacent | Style::long_allow_next;  // no guessing
  Given given;
  try {
    const po::parsed_options parsed =
        po::basic_command_line_parser<char>(arguments).options(description).style(style).allow_unregistered().run();
    for (const po::option& option : parsed.options) {
      const bool operand = option.position_key >= 0;
      const std::string& token = operand ? option.value.front() : option.original_tokens.front();
      if (option.unregistered || (operand && token.size() > 1 && token.front() == '-')) {
        return unknown_option(token.substr(0, token.find('=')), command);
      }
      if (operand) {
        given.operands.push_back(token);
      } else {
        std::vector<std::string>& values = given.options[option.string_key];
        values.insert(values.end(), option.value.begin(), option.value.end());
        if (option.value.empty()) values.emplace_back();
      }
    }
  } catch (const po::error& error) {
    return usage_error(error.what());
  }
  return given;
}

Status apply_options(const std::map<std::string, std::vector<std::string>>& values, Invocation& invocation) {
  for (const OptionInfo& option : options()) {
    const auto found = values.find(std::string(option.name));
    if (found == values.end() || !option.apply) continue;
    if (found->second.size() > 1 && !option.repeats) {
      return usage_error(fmt::format("--{} is given {} times", option.name, found->second.size()));
    }
    for (const std::string& value : found->second) RESHARD_CHECK(option.apply(invocation, value));
  }
  return {};
}

/// The value of --line.
Expected<std::optional<Index>> line_of(const Given& given) {
  const auto found = given.options.find("line");
  if (found == given.options.end()) return std::optional<Index>();
  Index line = 0;
  const std::string& text = found->second.front();
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), line);
  if (error != std::errc() || end != text.data() + text.size() || line < 1) {
    return usage_error(fmt::format("--line {}: expected the number of a line, from 1", text));
  }
  return std::optional(line);
}

/// Puts operands where the command wants them.
Status apply_operands(const std::vector<std::string>& operands, Invocation& invocation) {
  const CommandInfo& command = info(*invocation.command);
  if (operands.size() != command.operands.size()) {
    const std::string usage =
        fmt::format("usage: reshard {} {} [OPTION ...]", command.name, join(command.operands, " "));
    if (operands.size() > command.operands.size()) {
      return usage_error(
          fmt::format("{}: {} is one operand too many; {}", command.name, operands[command.operands.size()], usage));
    }
    return usage_error(fmt::format("{}: {} is missing; {}", command.name, command.operands[operands.size()], usage));
  }
  if (*invocation.command == Command::list) {
    invocation.list_what = operands[0];
    const std::vector<std::string> known = {"formats", "models", "dtypes", "machines"};
    if (std::find(known.begin(), known.end(), operands[0]) == known.end()) {
      return usage_error(fmt::format("list {}: expected {}{}", operands[0], join(known, ", "),
                                     guess_text(did_you_mean(operands[0], known))));
    }
    return {};
  }
  for (const std::string& operand : operands) {
    if (operand.empty()) return usage_error(fmt::format("{}: an operand is empty", command.name));
  }
  invocation.options.src = operands[0];
  if (operands.size() > 1) invocation.options.dst = operands[1];
  return {};
}

}  // namespace

Error unknown_option(const std::string& token, std::optional<Command> command) {
  std::vector<std::string> names;
  for (const OptionInfo& option : options()) {
    if (command && !option.belongs_to(*command)) {
      if (token == fmt::format("--{}", option.name)) {
        return usage_error(fmt::format("{} is no option of {}; `reshard {} --help` lists them", token,
                                       info(*command).name, info(*command).name));
      }
      continue;
    }
    names.push_back(fmt::format("--{}", option.name));
  }
  return usage_error(fmt::format("unknown option {}{}; `reshard {}--help` lists them", token,
                                 guess_text(did_you_mean(token, names)),
                                 command ? fmt::format("{} ", info(*command).name) : ""));
}

Expected<Invocation> parse_command_line(const std::vector<std::string>& arguments) {
  std::vector<std::string> rest;
  for (const std::string& argument : arguments) rest.push_back(with_dashes(argument == "-h" ? "--help" : argument));
  Invocation invocation;
  if (!rest.empty() && !rest.front().starts_with("-")) {
    if (rest.front() == "help") {
      rest.front() = "--help";
      if (rest.size() > 1) std::swap(rest[0], rest[1]);
    }
    if (!rest.front().starts_with("-")) {
      RESHARD_TRY(invocation.command, parse_command(rest.front()));
      rest.erase(rest.begin());
    }
  }
  RESHARD_TRY(Given given, split_arguments(rest, invocation.command));
  if (given.options.count("help") != 0 || given.options.count("version") != 0) {
    invocation.help = given.options.count("help") != 0;
    invocation.version = !invocation.help;
    return invocation;
  }
  if (const auto config = given.options.find("config"); config != given.options.end()) {
    RESHARD_TRY(const std::optional<Index> line, line_of(given));
    RESHARD_TRY(JobFile job, read_job_file(config->second.front(), line, invocation.command));
    if (!invocation.command) {
      invocation.command = job.command;
      RESHARD_TRY(given, split_arguments(rest, invocation.command));
    }
    for (auto& [name, values] : job.options) given.options.emplace(name, std::move(values));
    // Operands on the command line take the first places.
    for (std::size_t i = given.operands.size(); i < job.operands.size(); ++i) {
      if (job.operands[i].empty()) break;
      given.operands.push_back(job.operands[i]);
    }
  }
  if (given.options.contains("line") && !given.options.contains("config")) {
    return usage_error("--line: is of the file that --config names, which is missing");
  }
  if (!invocation.command) {
    if (!given.operands.empty()) return parse_command(given.operands.front()).error();
    return usage_error("no command; `reshard --help` lists them");
  }
  const auto apply = [&]() -> Status {
    RESHARD_CHECK(apply_options(given.options, invocation));
    return apply_operands(given.operands, invocation);
  };
  if (Status applied = apply(); !applied) {
    Error error = std::move(applied).error();
    // Of an array of jobs each prints its own error.
    if (const auto line = line_of(given); line && *line) {
      error.message = fmt::format("{}: line {}: {}", given.options["config"].front(), **line, error.message);
    }
    return error;
  }
  invocation.given = to_job(given.options, Command::convert);
  return invocation;
}

}  // namespace reshard::cli
