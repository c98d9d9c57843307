// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/jobs.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "conversion.h"
#include "reshard/base/text.h"
#include "reshard/format/format.h"
#include "reshard/io/file.h"

namespace reshard::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// The same path for any working folder.
std::string absolute(const std::string& path) {
  std::error_code ignored;
  const fs::path plain = fs::absolute(path, ignored).lexically_normal();
  return plain.has_filename() ? plain.string() : plain.parent_path().string();
}

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
  sort_naturally(paths);
  return paths;
}

/// Was any file of a checkpoint written after `then`?
bool is_newer(const std::string& src, fs::file_time_type then) {
  std::error_code error;
  if (fs::is_regular_file(src, error)) return fs::last_write_time(src, error) > then;
  for (fs::recursive_directory_iterator it(src, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error) && it->last_write_time(error) > then) return true;
  }
  return static_cast<bool>(error);
}

/// Was this output made from this source, as it is, with these options?
bool is_done(const std::string& dst, const std::string& src, const nlohmann::json& wanted) {
  const auto record = read_record(dst);
  if (!record || !record->contains("options") || record->at("options") != wanted) return false;
  const auto text = io::read_text(report_path(dst));
  const nlohmann::json report = text ? nlohmann::json::parse(*text, nullptr, false) : nlohmann::json();
  if (!report.is_object() || !report.contains("source") || !report["source"].is_object()) return false;
  std::error_code error;
  const fs::file_time_type made = fs::last_write_time(report_path(dst), error);
  return !error && absolute(report["source"].value("path", "")) == src && !is_newer(src, made);
}

}  // namespace

nlohmann::ordered_json to_json(const JobList& list) { return {{"command", "jobs"}, {"jobs", list.jobs}}; }

Expected<JobList> list_jobs(const Context& context, const Options& options, const Json& given) {
  RESHARD_TRY(const format::Format* format, find_target_format(context, options.to));
  if (options.out.empty()) return usage_error("jobs: --out DIR is missing: where the outputs shall stand");
  RESHARD_TRY(const std::string dtype, parse_target_dtype(options.dtype));
  const nlohmann::json wanted = chosen_options(options, dtype);
  const std::string folder = absolute(options.src), out = absolute(options.out);
  const std::vector<std::string> paths = matching(folder, options.dst);
  if (paths.empty()) return usage_error(fmt::format("{}/{}: nothing matches", folder, options.dst));
  std::error_code error;
  fs::create_directories(out, error);
  if (error) return usage_error(fmt::format("{}: cannot be created: {}", out, error.message()));

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
    const std::string dst = out + "/" + name;
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
