// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/jobs.h"

#include <fmt/format.h>
#include <glob.h>
#include <string.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "conversion.h"
#include "reshard/format/format.h"

namespace reshard::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Paths below `folder` that match, relative to it, 9 before 10.
std::vector<std::string> matching(const std::string& folder, const std::string& pattern) {
  // Only the pattern is one: the folder may have any name.
  std::string escaped;
  for (const char c : folder) {
    if (std::string_view("*?[]\\").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  std::vector<std::string> paths;
  glob_t found{};
  if (::glob((escaped + "/" + pattern).c_str(), 0, nullptr, &found) == 0) {
    for (std::size_t i = 0; i < found.gl_pathc; ++i) {
      std::string path = std::string(found.gl_pathv[i]).substr(folder.size() + 1);
      while (path.size() > 1 && path.ends_with('/')) path.pop_back();
      paths.push_back(std::move(path));
    }
  }
  ::globfree(&found);
  std::sort(paths.begin(), paths.end(),
            [](const std::string& a, const std::string& b) { return ::strverscmp(a.c_str(), b.c_str()) < 0; });
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  return paths;
}

/// Was this output made from a source of this name with these options?
bool is_done(const std::string& dst, const std::string& src, const nlohmann::json& wanted) {
  const auto record = read_record(dst);
  if (!record || !record->contains("options") || !record->contains("source")) return false;
  const nlohmann::json& source = record->at("source");
  return record->at("options") == wanted && source.is_object() &&
         source.value("name", "") == fs::path(src).filename().string();
}

}  // namespace

Expected<JobList> list_jobs(const Context& context, const Options& options, const Json& given) {
  RESHARD_TRY(const format::Format* format, find_target_format(context, options.to));
  if (options.out.empty()) return usage_error("jobs: --out DIR is missing: where the outputs shall stand");
  RESHARD_TRY(const std::string dtype, parse_target_dtype(options.dtype));
  const nlohmann::json wanted = chosen_options(options, dtype);
  std::string folder = options.src;
  while (folder.size() > 1 && folder.ends_with('/')) folder.pop_back();
  const std::vector<std::string> paths = matching(folder, options.dst);
  if (paths.empty()) return usage_error(fmt::format("{}/{}: nothing matches", folder, options.dst));
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) return usage_error(fmt::format("{}: cannot be created: {}", options.out, error.message()));

  JobList list;
  Index done = 0;
  std::map<std::string, std::string> source_of;
  for (const std::string& path : paths) {
    const std::string src = folder + "/" + path;
    if (options.from.empty() && !format::detect_format(src, "--from")) {
      context.tell(context.note, fmt::format("{}: no checkpoint of a format that is known; left out", src));
      continue;
    }
    std::string name = path;
    std::replace(name.begin(), name.end(), '/', '_');
    if (format->one_file()) name += fs::path(format->file_name()).extension().string();
    const std::string dst = options.out + "/" + name;
    const auto [other, fresh] = source_of.emplace(dst, src);
    if (!fresh) return usage_error(fmt::format("{} and {}: both would become {}", other->second, src, dst));
    if (is_done(dst, src, wanted)) {
      ++done;
      continue;
    }
    Json job = {{"command", "convert"}, {"src", src}, {"dst", dst}};
    job.update(given);
    list.jobs.push_back(std::move(job));
  }
  if (done > 0) context.tell(context.note, fmt::format("{} of {} are done already and left out", done, paths.size()));
  return list;
}

}  // namespace reshard::app
