// SPDX-License-Identifier: Apache-2.0
#include "reshard/job/claim.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string_view>

#include "reshard/io/file.h"

namespace reshard::job {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kOwner = "owner";
constexpr const char* kCommit = "commit";  // in the claim: the partial output is complete and may become DST
constexpr std::string_view kPlain = "rename\n", kReplaces = "replace\n";  // what it says

std::string old_path(const std::string& target) { return target + ".old"; }

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof(name) - 1);
  return name;
}

// What the system says about a process.
struct Process {
  bool ended = false;  // only its parent has not noticed yet
  std::string start;   // ticks since boot: tells it apart from a later process of the same number
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

struct Owner {
  std::string host, start, job, plan;
  long pid = 0;
  bool operator==(const Owner&) const = default;

  std::string describe() const {
    return fmt::format("process {} on {}{}", pid, host, job.empty() ? "" : ", job " + job);
  }
  // On another host nobody can tell.
  bool is_dead() const {
    if (host != host_name()) return false;
    if (::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) return true;
    const std::optional<Process> now = look_at_process(pid);
    return now && (now->ended || now->start != start);
  }
};

std::string to_text(const Owner& owner) {
  return Json{
             {"host", owner.host}, {"pid", owner.pid}, {"start", owner.start}, {"job", owner.job}, {"plan", owner.plan}}
             .dump(1) +
         "\n";
}

std::optional<Owner> read_owner(const std::string& journal) {
  const Expected<std::string> text = io::read_text(journal + "/" + kOwner, 64 * kKiB);
  if (!text) return std::nullopt;
  const Json json = Json::parse(*text, nullptr, false);
  const auto field = [&](const char* name) {
    return json.is_object() && json.contains(name) && json[name].is_string() ? json[name].get<std::string>() : "";
  };
  if (!json.is_object() || !json.contains("pid") || !json["pid"].is_number_integer()) return std::nullopt;
  return Owner{field("host"), field("start"), field("job"), field("plan"), json["pid"].get<long>()};
}

Status rename_path(const std::string& src, const std::string& dst) {
  if (::rename(src.c_str(), dst.c_str()) == 0) return {};
  return run_error(fmt::format("{}: cannot be renamed to {}: {}", src, dst, std::strerror(errno)));
}

Status remove_path(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? Status(run_error(fmt::format("{}: cannot be removed: {}", path, error.message()))) : Status();
}

// The claim goes in one step; what is left after a crash has no meaning.
Status drop_journal(const std::string& target) {
  const std::string journal = Claim::journal_path(target);
  const std::string going = fmt::format("{}.{}.{}", journal, host_name(), ::getpid());
  RESHARD_CHECK(remove_path(going));
  RESHARD_CHECK(rename_path(journal, going));
  return remove_path(going);
}

/// An exclusive lock on a file. Where the file system has none, it counts as held: the claim's rename still decides.
class Lock {
 public:
  explicit Lock(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    held_ = fd_ >= 0 && (::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK);
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() {
    if (fd_ >= 0) ::close(fd_);
  }
  bool held() const { return held_; }

 private:
  int fd_;
  bool held_;
};

bool is_mount_point(const std::string& path) {
  struct statx info {};
  if (::statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &info) != 0) return false;
#ifdef STATX_ATTR_MOUNT_ROOT
  if (info.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) return (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
#endif
  struct statx parent {};
  if (::statx(AT_FDCWD, parent_of(path).c_str(), 0, STATX_BASIC_STATS, &parent) != 0) return false;
  return info.stx_dev_major != parent.stx_dev_major || info.stx_dev_minor != parent.stx_dev_minor;
}

Error exists_error(const std::string& target) {
  return usage_error(fmt::format("{}: exists; say --overwrite to replace it, or choose another path", target));
}

// May DST be made or replaced?
Status check_target(const Claim::Request& request) {
  const std::string& target = request.target;
  const std::string parent = parent_of(target);
  std::error_code error;
  if (!fs::is_directory(parent, error)) {
    return usage_error(fmt::format("{}: the folder {} does not exist; make it first", target, parent));
  }
  const fs::file_status status = fs::symlink_status(target, error);
  if (!fs::exists(status)) return {};
  if (fs::is_symlink(status)) {
    return usage_error(fmt::format("{}: is a symbolic link; give the path that it points to", target));
  }
  if (fs::is_directory(status) && is_mount_point(target)) {
    return usage_error(
        fmt::format("{}: is a mount point, which cannot be replaced; choose a folder inside it", target));
  }
  if (request.one_file && fs::is_directory(status)) {
    return usage_error(fmt::format("{}: is a folder, but this target is one file", target));
  }
  if (fs::is_directory(status) && fs::is_empty(target, error) && !error) return {};
  if (!request.overwrite) return exists_error(target);
  if (!fs::is_directory(status) && !fs::is_regular_file(status)) {
    return usage_error(fmt::format("{}: is neither a folder nor a regular file", target));
  }
  if (exists(old_path(target))) {
    return usage_error(
        fmt::format("{}: in the way of {} while that is replaced; remove or rename it", old_path(target), target));
  }
  return {};
}

// From the mark on, the partial output is DST: whoever finds the mark goes on where the last one stopped.
Status finish_commit(const std::string& target) {
  const std::string partial = Claim::partial_path(target), old = old_path(target);
  RESHARD_TRY(const std::string mark, io::read_text(Claim::journal_path(target) + "/" + kCommit, 64 * kKiB));
  const bool replaces = mark == kReplaces;
  if (exists(partial)) {
    if (replaces && exists(target)) RESHARD_CHECK(rename_path(target, old));
    RESHARD_CHECK(rename_path(partial, target));
  }
  RESHARD_CHECK(io::sync_folder(parent_of(target)));
  if (replaces) RESHARD_CHECK(remove_path(old));
  return drop_journal(target);
}

Error held_by(const std::string& target, const Owner& owner) {
  const std::string journal = Claim::journal_path(target);
  return usage_error(fmt::format("{}: is being written by {}; if that is no longer running, remove {} and {}", target,
                                 owner.describe(), journal, Claim::partial_path(target)));
}

// The owner of a claim, if it is dead. Errors (usage): it lives, or this is no claim.
Expected<Owner> dead_owner(const std::string& target) {
  const std::string journal = Claim::journal_path(target);
  std::optional<Owner> owner = read_owner(journal);
  if (!owner) {
    return usage_error(fmt::format("{}: is in the way, and not the claim of a job; remove or rename it", journal));
  }
  if (!owner->is_dead()) return held_by(target, *owner);
  return *std::move(owner);
}

// Ends what a dead owner left: a commit that it began, else its claim and its partial output.
Status clear_claim(const std::string& target) {
  const std::string journal = Claim::journal_path(target);
  RESHARD_TRY(const Owner owner, dead_owner(target));
  // Two jobs may find it at once.
  const Lock lock(journal + "/" + kOwner);
  if (!lock.held() || read_owner(journal) != owner) {
    return usage_error(fmt::format("{}: another job is clearing up what {} left; run again", target, owner.describe()));
  }
  if (exists(journal + "/" + kCommit)) return finish_commit(target);
  RESHARD_CHECK(remove_path(Claim::partial_path(target)));
  return drop_journal(target);
}

// May DST be claimed, where no claim is?
Status check_unclaimed(const Claim::Request& request) {
  RESHARD_CHECK(check_target(request));
  const std::string partial = Claim::partial_path(request.target);
  if (!exists(partial)) return {};
  return usage_error(fmt::format("{}: is in the way, and no job's; remove or rename it", partial));
}

Expected<Claim::Request> with_plain_target(Claim::Request request) {
  std::string target = request.target;
  while (target.size() > 1 && target.ends_with('/')) target.pop_back();
  const std::string name = fs::path(target).filename().string();
  if (name.empty() || name == "." || name == "..") {
    return usage_error(fmt::format("'{}': is not a path that can be made; name a new folder or file", request.target));
  }
  request.target = std::move(target);
  return request;
}

Error cannot_create(const std::string& path, int error) {
  return usage_error(fmt::format("{}: cannot be created: {}; choose a target in a folder that you may write to", path,
                                 std::strerror(error)));
}

}  // namespace

std::string Claim::partial_path(const std::string& target) { return target + ".partial"; }
std::string Claim::journal_path(const std::string& target) { return target + ".journal"; }

Claim::Claim(const std::string& target, bool overwrite)
    : target_(target), partial_(partial_path(target)), journal_(journal_path(target)), overwrite_(overwrite) {}

Status Claim::check(const Request& asked) {
  RESHARD_TRY(const Request request, with_plain_target(asked));
  const std::string& target = request.target;
  if (!exists(journal_path(target))) return check_unclaimed(request);
  RESHARD_CHECK(dead_owner(target));
  // Its commit would be finished first, and DST be there.
  if (exists(journal_path(target) + "/" + kCommit) && !request.overwrite) return exists_error(target);
  return check_target(request);
}

Expected<Claim> Claim::make(const Request& asked) {
  RESHARD_TRY(const Request request, with_plain_target(asked));
  const std::string& target = request.target;
  Claim claim(target, request.overwrite);
  if (exists(claim.journal_)) RESHARD_CHECK(clear_claim(target));
  RESHARD_CHECK(check_unclaimed(request));

  const std::string start = look_at_process(::getpid()).value_or(Process{}).start;
  const Owner me{host_name(), start, request.job_id, request.plan_hash, ::getpid()};
  const std::string built = fmt::format("{}.{}.{}", claim.journal_, me.host, me.pid);
  RESHARD_CHECK(remove_path(built));
  if (::mkdir(built.c_str(), 0777) != 0) return cannot_create(built, errno);
  Status written = io::write_text(built + "/" + kOwner, to_text(me));
  const bool claimed = written && ::rename(built.c_str(), claim.journal_.c_str()) == 0;
  const int error = errno;
  if (!claimed) {
    static_cast<void>(remove_path(built));
    RESHARD_CHECK(std::move(written));
    if (const auto owner = read_owner(claim.journal_)) return held_by(target, *owner);
    return cannot_create(claim.journal_, error);
  }
  if (!request.one_file && ::mkdir(claim.partial_.c_str(), 0777) != 0) {
    const int failure = errno;
    static_cast<void>(drop_journal(target));
    return cannot_create(claim.partial_, failure);
  }
  return claim;
}

Status Claim::commit() {
  std::error_code ignored;
  const bool folder = fs::is_directory(partial_, ignored);
  // An empty folder gives way to a folder, a file to a file: one rename does it all.
  const bool gives_way = !exists(target_) ||
                         (folder && fs::is_directory(target_, ignored) && fs::is_empty(target_, ignored)) ||
                         (!folder && fs::is_regular_file(target_, ignored));
  if (exists(target_) && !(folder && gives_way) && !overwrite_) {
    return run_error(fmt::format("{}: appeared while this job ran; the output is complete in {}", target_, partial_));
  }
  if (!gives_way && exists(old_path(target_))) {
    return run_error(fmt::format("{}: appeared while this job ran, in the way of {}; the output is complete in {}",
                                 old_path(target_), target_, partial_));
  }
  RESHARD_CHECK(io::write_text(journal_ + "/" + kCommit, gives_way ? kPlain : kReplaces));
  RESHARD_CHECK(io::sync_folder(journal_));
  return finish_commit(target_);
}

void Claim::discard() {
  // What cannot be removed is no output, and the next run says what is in its way.
  static_cast<void>(remove_path(partial_));
  static_cast<void>(drop_journal(target_));
}

}  // namespace reshard::job
