// SPDX-License-Identifier: Apache-2.0
#include "reshard/job/runner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

#include "reshard/io/file.h"

namespace reshard::job {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kRecordBytes = 4096;  // a block of its own, that can be written on a full disk
constexpr std::string_view kPrefix = "part-", kSuffix = ".json";

// What the system says about a process.
struct Process {
  bool ended = false;  // only its parent has not noticed yet
  std::string start;
};

// Nothing if there is no such process, or none that this user may look at.
std::optional<Process> look_at_process(long pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::stringstream text;
  text << file.rdbuf();
  // The second field is a name in parentheses that may hold anything; the third is the state, the 22nd the start.
  const std::string stat = text.str();
  const std::size_t close = stat.rfind(')');
  if (close == std::string::npos) return std::nullopt;
  std::istringstream fields(stat.substr(close + 1));
  std::string state, field;
  fields >> state;
  for (int i = 4; i <= 22; ++i) fields >> field;
  return Process{state == "Z" || state == "X", field};
}

/// Writes a text over a file that is there, of that size or longer.
bool overwrite(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  struct stat status;
  const bool fits = ::fstat(fd, &status) == 0 && status.st_size >= static_cast<off_t>(text.size());
  const bool written = fits && ::pwrite(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return written;
}

}  // namespace

std::string host_name() {
  char name[256] = "";
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

Runner Runner::self(const std::string& job) {
  return {host_name(), ::getpid(), look_at_process(::getpid()).value_or(Process{}).start, job};
}

std::string Runner::describe() const {
  return fmt::format("process {} on {}{}", pid, host, job.empty() ? "" : ", job " + job);
}

bool Runner::is_here() const { return host == host_name(); }

bool Runner::is_gone() const {
  if (::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) return true;
  const std::optional<Process> now = look_at_process(pid);
  return now && (now->ended || now->start != start);
}

std::string PartRecord::file_name(int part, int parts) {
  return fmt::format("{}{:05}-of-{:05}{}", kPrefix, part + 1, parts, kSuffix);
}

Status PartRecord::write(const std::string& folder) const {
  Json json{{"part", part + 1},    {"parts", parts},    {"state", state},        {"time", time},
            {"host", runner.host}, {"pid", runner.pid}, {"start", runner.start}, {"job", runner.job}};
  json.update(details);
  std::string text = json.dump(1);
  text.resize(std::max(text.size() + 1, kRecordBytes), ' ');
  text.back() = '\n';
  const std::string path = folder + "/" + file_name(part, parts);
  Status replaced = io::replace_text(path, text);
  return !replaced && overwrite(path, text) ? Status() : std::move(replaced);
}

std::optional<PartRecord> PartRecord::read(const std::string& path) {
  const Expected<std::string> text = io::read_text(path, kMiB);
  if (!text) return std::nullopt;
  Json json = Json::parse(*text, nullptr, false);
  const auto number = [&](const char* name) { return json.contains(name) && json[name].is_number(); };
  const auto whole = [&](const char* name) { return json.contains(name) && json[name].is_number_integer(); };
  const auto word = [&](const char* name) { return json.contains(name) && json[name].is_string(); };
  if (!json.is_object() || !whole("part") || !whole("parts") || !whole("pid") || !number("time")) return std::nullopt;
  if (!word("state") || !word("host") || !word("start") || !word("job")) return std::nullopt;
  PartRecord record;
  record.part = json["part"].get<int>() - 1;
  record.parts = json["parts"].get<int>();
  if (record.parts < 1 || record.parts > kMostParts || record.part < 0 || record.part >= record.parts)
    return std::nullopt;
  record.state = json["state"].get<std::string>();
  record.time = json["time"].get<double>();
  record.runner = {json["host"].get<std::string>(), json["pid"].get<long>(), json["start"].get<std::string>(),
                   json["job"].get<std::string>()};
  for (const char* key : {"part", "parts", "state", "time", "host", "pid", "start", "job"}) json.erase(key);
  record.details = std::move(json);
  return record;
}

std::vector<PartRecord> PartRecord::read_all(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(kPrefix) && name.ends_with(kSuffix)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  std::vector<PartRecord> records;
  for (const std::string& name : names) {
    if (auto record = read(folder + "/" + name)) records.push_back(*std::move(record));
  }
  return records;
}

}  // namespace reshard::job
