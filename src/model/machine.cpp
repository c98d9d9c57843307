// SPDX-License-Identifier: Apache-2.0
#include "reshard/model/machine.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "configs.h"
#include "reshard/base/text.h"
#include "reshard/io/file.h"

namespace reshard::model {
namespace {

constexpr std::string_view kFolder = "machines/";
constexpr std::string_view kEnding = ".json";

}  // namespace

std::vector<std::string> machine_names() {
  std::vector<std::string> names;
  for (const auto& [path, unused] : embedded_configs()) {
    if (!path.starts_with(kFolder)) continue;
    names.push_back(path.substr(kFolder.size(), path.size() - kFolder.size() - kEnding.size()));
  }
  return names;
}

Expected<Json> machine_description(const std::string& name_or_file) {
  const std::string built_in = fmt::format("{}{}{}", kFolder, name_or_file, kEnding);
  std::string path = name_or_file, text;
  if (embedded_configs().contains(built_in)) {
    path = "configs/" + built_in;
    text = embedded_configs().at(built_in);
  } else {
    std::error_code ignored;
    if (!std::filesystem::exists(name_or_file, ignored)) {
      const auto meant = did_you_mean(name_or_file, machine_names());
      return usage_error(
          fmt::format("there is no machine \"{}\" and no file of that name; {}", name_or_file,
                      meant ? "did you mean " + *meant + "?" : "known are " + join(machine_names(), ", ")));
    }
    auto read = io::read_text(name_or_file);
    if (!read) return usage_error(read.error().message);
    text = *std::move(read);
  }
  auto parsed = parse_object(text, path);
  if (!parsed) return usage_error(parsed.error().message);
  if (Status status = check_schema(*parsed, "machine"); !status) return std::move(status).error().at(path);
  return parsed;
}

}  // namespace reshard::model
