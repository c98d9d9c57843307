// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/status.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <set>

#include "conversion.h"
#include "reshard/base/text.h"
#include "reshard/io/file.h"
#include "reshard/io/json.h"
#include "reshard/job/claim.h"
#include "reshard/job/runner.h"

namespace reshard::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using State = StatusResult::State;

constexpr double kLongSilence_s = 3 * job::kSilence_s;  // clocks of hosts differ

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

double real(const Json& json, const char* key) {
  return json.contains(key) && json[key].is_number() ? json[key].get<double>() : 0;
}

std::string word(const Json& json, const char* key) {
  return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
}

Index whole(const Json& json, const char* key) {
  return json.contains(key) && json[key].is_number_integer() ? json[key].get<Index>() : 0;
}

/// What a part last said, and what has become of it since.
StatusResult::Part part_of(const job::PartRecord& record) {
  StatusResult::Part part;
  part.part = record.part;
  part.parts = record.parts;
  part.host = record.runner.host;
  part.job = record.runner.job;
  const Index before = whole(record.details, "bytes_before"), written = whole(record.details, "bytes_written");
  part.bytes = whole(record.details, "bytes");
  part.bytes_done = before + written;
  const double seconds = real(record.details, "seconds");
  part.error = word(record.details, "error");
  if (record.state == job::kFinished) {
    part.state = State::done;
  } else if (record.state == job::kFailed || record.state == job::kStopped) {
    part.state = record.state == job::kFailed ? State::failed : State::stopped;
  } else {
    const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    const bool gone = record.runner.is_here() ? record.runner.is_gone() : now - record.time > kLongSilence_s;
    part.state = gone ? State::stopped : State::running;
    if (gone) {
      part.error = record.runner.is_here()
                       ? fmt::format("{} is gone without a word", record.runner.describe())
                       : fmt::format("{} has been silent for {:.0f} s", record.runner.describe(), now - record.time);
    }
  }
  if (part.state == State::running && seconds > 0 && written > 0) {
    part.bytes_per_second = static_cast<double>(written) / seconds;
    part.seconds_left = static_cast<double>(std::max<Index>(0, part.bytes - part.bytes_done)) / part.bytes_per_second;
  }
  return part;
}

/// The parts of a journal: those of the newest way to cut the work, in their order.
std::vector<StatusResult::Part> parts_of(const std::string& journal) {
  const std::vector<job::PartRecord> records = job::PartRecord::read_all(journal);
  const auto newest =
      std::max_element(records.begin(), records.end(), [](const auto& a, const auto& b) { return a.time < b.time; });
  if (newest == records.end() || newest->parts < 1) return {};
  std::vector<StatusResult::Part> parts(static_cast<std::size_t>(newest->parts));
  for (std::size_t i = 0; i < parts.size(); ++i) {
    parts[i].part = static_cast<int>(i);
    parts[i].parts = newest->parts;
  }
  for (const job::PartRecord& record : records) {
    const auto i = static_cast<std::size_t>(record.part);
    if (record.parts == newest->parts && i < parts.size()) parts[i] = part_of(record);
  }
  return parts;
}

StatusResult::Job job_of(const std::string& dst) {
  StatusResult::Job job;
  job.dst = dst;
  const std::string journal = job::Claim::journal_path(dst);
  if (!exists(journal)) {
    std::error_code ignored;
    if (!exists(dst) || (fs::is_directory(dst, ignored) && fs::is_empty(dst, ignored))) return job;
    const auto text = io::read_text(report_path(dst));
    const Json report = text ? Json::parse(*text, nullptr, false) : Json();
    if (!report.is_object() && !read_record(dst)) {
      job.state = State::failed;
      job.error = "something else stands there";
      return job;
    }
    job.state = State::done;
    if (report.is_object() && report.contains("target") && report["target"].is_object()) {
      job.bytes = job.bytes_done = whole(report["target"], "bytes");
    }
    return job;
  }
  job.parts = parts_of(journal);
  if (job.parts.empty()) {
    // Committed just now, or never a claim.
    if (!exists(journal)) return job_of(dst);
    job.state = State::failed;
    job.error = journal + ": is not the claim of a job; remove or rename it";
    return job;
  }
  std::set<State> states;
  for (const StatusResult::Part& part : job.parts) {
    states.insert(part.state);
    job.bytes += part.bytes;
    job.bytes_done += part.bytes_done;
    job.bytes_per_second += part.bytes_per_second;
    job.seconds_left = std::max(job.seconds_left, part.seconds_left);
    if (job.error.empty() && !part.error.empty()) {
      job.error = part.parts > 1 ? fmt::format("part {}: {}", part.part + 1, part.error) : part.error;
    }
  }
  // A part that ended badly wants somebody to look, whatever the others do.
  if (states.contains(State::failed)) {
    job.state = State::failed;
  } else if (states.contains(State::stopped)) {
    job.state = State::stopped;
  } else if (states.contains(State::running)) {
    job.state = State::running;
  } else if (states.contains(State::waiting)) {
    job.state = State::waiting;
  } else {
    // All have finished, and whoever had to commit is gone.
    job.state = State::stopped;
    job.error = "all parts are done, and the last one has not committed; run it again";
  }
  return job;
}

Expected<StatusResult> status_of_jobs_file(const std::string& path, const model::Library& library) {
  const Expected<std::string> text = io::read_text(path);
  if (!text) return usage_error(text.error().message);
  StatusResult result;
  Index number = 0;
  for (const auto& line : split(*text, '\n')) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto json = io::parse_strict_json(std::string(line), fmt::format("{}: line {}", path, number));
    StatusResult::Job job;
    if (!json || !json->is_object() || !json->contains("dst") || !(*json)["dst"].is_string()) {
      job.state = State::failed;
      job.error = json ? "the line has no \"dst\"" : json.error().message;
    } else {
      const std::string to = json->contains("to") && (*json)["to"].is_string() ? (*json)["to"].get<std::string>() : "";
      const std::string dst = (*json)["dst"].get<std::string>();
      const format::Format* format = format::find(to, library);
      job = job_of(format != nullptr ? resolve_dst(dst, *format) : dst);
    }
    job.line = number;
    result.jobs.push_back(std::move(job));
  }
  return result;
}

/// DSTs that a folder tells of, by the names beside them.
std::vector<std::string> outputs_in(const std::string& folder) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string path = it->path().string();
    for (const std::string_view suffix : {".journal", ".report.json"}) {
      if (path.ends_with(suffix)) found.push_back(path.substr(0, path.size() - suffix.size()));
    }
  }
  sort_naturally(found);
  return found;
}

}  // namespace

Index StatusResult::count(State state) const {
  return std::count_if(jobs.begin(), jobs.end(), [&](const Job& job) { return job.state == state; });
}

std::string_view to_string(State state) {
  constexpr std::array<std::string_view, 5> kNames = {"waiting", "running", "stopped", "failed", "done"};
  return kNames[static_cast<std::size_t>(state)];
}

Expected<StatusResult> status(const std::string& path, const model::Library& library) {
  std::string plain = path;
  while (plain.size() > 1 && plain.ends_with('/')) plain.pop_back();
  if (plain.ends_with(".jsonl")) return status_of_jobs_file(plain, library);
  StatusResult result;
  if (exists(job::Claim::journal_path(plain)) || exists(report_path(plain)) || read_record(plain)) {
    result.jobs.push_back(job_of(plain));
    return result;
  }
  for (const std::string& dst : outputs_in(plain)) result.jobs.push_back(job_of(dst));
  std::error_code ignored;
  if (result.jobs.empty() && !fs::is_directory(plain, ignored)) {
    return usage_error(fmt::format(
        "{}: no conversion: expected the DST of one, a folder with such, or a jobs file (NAME.jsonl)", path));
  }
  return result;
}

Json to_json(const StatusResult& result) {
  const auto known = [](double number) { return number < 0 ? Json(nullptr) : Json(number); };
  Json jobs = Json::array();
  for (const StatusResult::Job& job : result.jobs) {
    Json parts = Json::array();
    for (const StatusResult::Part& part : job.parts) {
      parts.push_back({{"part", part.part + 1},
                       {"of", part.parts},
                       {"state", to_string(part.state)},
                       {"host", part.host},
                       {"job", part.job},
                       {"bytes", part.bytes},
                       {"bytes_done", part.bytes_done},
                       {"bytes_per_second", part.bytes_per_second},
                       {"seconds_left", known(part.seconds_left)},
                       {"error", part.error}});
    }
    jobs.push_back({{"dst", job.dst},
                    {"line", job.line},
                    {"state", to_string(job.state)},
                    {"bytes", job.bytes},
                    {"bytes_done", job.bytes_done},
                    {"bytes_per_second", job.bytes_per_second},
                    {"seconds_left", known(job.seconds_left)},
                    {"error", job.error},
                    {"parts", std::move(parts)}});
  }
  Json counts;
  for (const State state : {State::waiting, State::running, State::stopped, State::failed, State::done}) {
    counts[to_string(state)] = result.count(state);
  }
  return {{"command", "status"}, {"counts", std::move(counts)}, {"jobs", std::move(jobs)}};
}

}  // namespace reshard::app
