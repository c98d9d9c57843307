// SPDX-License-Identifier: Apache-2.0
#include "job_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "reshard/base/text.h"
#include "reshard/io/file.h"
#include "reshard/io/json.h"

namespace reshard::cli {
namespace {

using nlohmann::json;

Expected<std::string> scalar_text(const json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return value.dump();
  return usage_error(fmt::format("{}: expected a text or a number, found {}", where, value.type_name()));
}

Expected<std::vector<std::string>> option_values(const OptionInfo& option, const json& value,
                                                 const std::string& where) {
  std::vector<std::string> values;
  if (option.value.empty()) {
    if (!value.is_boolean())
      return usage_error(fmt::format("{}: expected true or false, found {}", where, value.type_name()));
    if (value.get<bool>()) values.emplace_back();
    return values;
  }
  if (value.is_array() && option.repeats) {
    for (const json& one : value) {
      RESHARD_TRY(values.emplace_back(), scalar_text(one, where));
    }
    return values;
  }
  RESHARD_TRY(values.emplace_back(), scalar_text(value, where));
  return values;
}

/// Keys that stand for the operands of a command.
std::vector<std::string> operand_keys(Command command) {
  if (command == Command::list) return {"what"};
  return info(command).operands.size() == 1 ? std::vector<std::string>{"src"} : std::vector<std::string>{"src", "dst"};
}

}  // namespace

Expected<JobFile> read_job_file(const std::string& file, std::optional<Index> line, std::optional<Command> command) {
  const auto as_usage = [](Error error) { return usage_error("--config: " + error.message); };
  const std::string path = line ? fmt::format("{}: line {}", file, *line) : file;
  Expected<std::string> text = io::read_text(file);
  if (!text) return as_usage(std::move(text).error());
  if (line) {
    const auto lines = split(*text, '\n');
    if (*line > std::ssize(lines) || lines[static_cast<std::size_t>(*line - 1)].empty()) {
      return usage_error(fmt::format("--config: {}: there is no such line, or it is empty", path));
    }
    text = std::string(lines[static_cast<std::size_t>(*line - 1)]);
  }
  Expected<json> parsed = io::parse_strict_json(*text, path);
  if (!parsed) return as_usage(std::move(parsed).error());
  if (!parsed->is_object()) return usage_error(path + ": a job file is a JSON object with an option per key");

  JobFile job;
  job.command = command;
  if (const auto named = parsed->find("command"); named != parsed->end() && !command) {
    for (const CommandInfo& one : commands()) {
      if (named->is_string() && one.name == named->get<std::string>()) job.command = one.command;
    }
    if (!job.command) return usage_error(path + ": command: not one of the program's; `reshard --help` lists them");
  }
  if (!job.command) return usage_error(path + ": has no key \"command\", and none is on the command line");

  const std::vector<std::string> operands = operand_keys(*job.command);
  job.operands.resize(operands.size());
  std::vector<std::string> known = operands;
  known.emplace_back("command");
  for (const OptionInfo& option : options()) {
    if (option.belongs_to(*job.command)) known.emplace_back(option.name);
  }
  for (const auto& [key, value] : parsed->items()) {
    if (key == "command") continue;
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', '-');
    const std::string where = path + ": " + key;
    if (const auto operand = std::find(operands.begin(), operands.end(), name); operand != operands.end()) {
      RESHARD_TRY(job.operands[static_cast<std::size_t>(operand - operands.begin())], scalar_text(value, where));
      continue;
    }
    const auto option = std::find_if(options().begin(), options().end(), [&](const OptionInfo& one) {
      return one.name == name && one.belongs_to(*job.command) && one.apply;
    });
    if (option == options().end()) {
      const auto guess = did_you_mean(name, known);
      return usage_error(fmt::format("{}: unknown key for {}{}", where, info(*job.command).name,
                                     guess ? "; did you mean " + *guess + "?" : ""));
    }
    RESHARD_TRY(std::vector<std::string> values, option_values(*option, value, where));
    if (!values.empty()) job.options[name] = std::move(values);
  }
  return job;
}

nlohmann::ordered_json to_job(const std::map<std::string, std::vector<std::string>>& given, Command command) {
  nlohmann::ordered_json job = nlohmann::ordered_json::object();
  for (const OptionInfo& option : options()) {
    const auto found = given.find(std::string(option.name));
    if (found == given.end() || !option.belongs_to(command) || option.group == "general") continue;
    if (option.value.empty()) {
      job[option.name] = true;
    } else if (option.repeats) {
      job[option.name] = found->second;
    } else {
      const std::string& text = found->second.front();
      const bool is_number = !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == text.npos;
      job[option.name] = is_number ? nlohmann::ordered_json(std::stol(text)) : nlohmann::ordered_json(text);
    }
  }
  return job;
}

}  // namespace reshard::cli
