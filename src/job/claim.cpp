// SPDX-License-Identifier: Apache-2.0
#include "reshard/job/claim.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "reshard/io/file.h"
#include "reshard/io/settings.h"

namespace reshard::job {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kOwner = "owner";
constexpr const char* kCommit = "commit";  // in the claim: the partial output is complete and may become DST
constexpr std::string_view kPlain = "rename\n", kReplaces = "replace\n";  // what it says

constexpr std::chrono::seconds kLockPatience{60};

std::string old_path(const std::string& target) { return target + ".old"; }

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

double now_s() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// Whose claim it is, and for what.
struct Owner {
  Runner runner;
  std::string plan, sources;
};

std::string to_text(const Owner& owner) {
  return Json{{"host", owner.runner.host}, {"pid", owner.runner.pid}, {"start", owner.runner.start},
              {"job", owner.runner.job},   {"plan", owner.plan},      {"sources", owner.sources}}
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
  return Owner{{field("host"), json["pid"].get<long>(), field("start"), field("job")}, field("plan"), field("sources")};
}

enum class Life { ended, lives, unknown };

Life life_of(const PartRecord& record) {
  if (record.state != kRunning) return Life::ended;
  if (!record.runner.is_here()) return Life::unknown;
  return record.runner.is_gone() ? Life::ended : Life::lives;
}

// The first of some records whose runner lives. Those of other hosts are watched for a while: the living replace
// theirs.
std::optional<PartRecord> find_living(const std::string& journal, const std::vector<PartRecord>& records,
                                      const std::function<bool()>& interrupted) {
  std::vector<const PartRecord*> unknown;
  for (const PartRecord& record : records) {
    const Life life = life_of(record);
    if (life == Life::lives) return record;
    if (life == Life::unknown) unknown.push_back(&record);
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(kSilence_s);
  while (!unknown.empty() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    // A sign of life is as good a reason not to go on.
    if (interrupted && interrupted()) return *unknown.front();
    for (const PartRecord* then : unknown) {
      const auto now = PartRecord::read(journal + "/" + PartRecord::file_name(then->part, then->parts));
      if (now && now->state == kRunning && now->time != then->time) return now;
    }
  }
  return std::nullopt;
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

// A name beside `path` that no other process uses.
std::string private_path(const std::string& path) { return fmt::format("{}.{}.{}", path, host_name(), ::getpid()); }

// Removes the private folders of processes of this host that are gone.
void remove_litter(const std::string& target) {
  const std::string prefix = fs::path(private_path(Claim::journal_path(target))).stem().string() + ".";
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(parent_of(target), error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with(prefix)) found.push_back(it->path());
  }
  for (const fs::path& path : found) {
    const std::string number = path.filename().string().substr(prefix.size());
    const bool is_pid = !number.empty() && number.find_first_not_of("0123456789") == std::string::npos;
    if (is_pid && ::kill(std::atoi(number.c_str()), 0) != 0 && errno == ESRCH) fs::remove_all(path, error);
  }
}

// The claim goes in one step; what is left after a crash has no meaning.
Status drop_journal(const std::string& target) {
  const std::string journal = Claim::journal_path(target), going = private_path(journal);
  RESHARD_CHECK(remove_path(going));
  RESHARD_CHECK(rename_path(journal, going));
  io::pass("drop");
  // A part that came late may be putting its record there.
  Status removed = remove_path(going);
  return removed ? std::move(removed) : remove_path(going);
}

/// An exclusive lock on a file. Where the file system has none, it counts as held: the claim's rename still decides.
class Lock {
 public:
  explicit Lock(const std::string& path, std::chrono::seconds patience = {},
                const std::function<bool()>& interrupted = {})
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (fd_ >= 0) {
      held_ = ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
      if (held_ || std::chrono::steady_clock::now() >= deadline || (interrupted && interrupted())) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() {
    if (fd_ >= 0) ::close(fd_);
  }
  bool held() const { return held_; }
  /// Is the locked file still the one at `path`?
  bool is_at(const std::string& path) const {
    struct stat locked, there;
    return fd_ >= 0 && ::fstat(fd_, &locked) == 0 && ::stat(path.c_str(), &there) == 0 &&
           locked.st_dev == there.st_dev && locked.st_ino == there.st_ino;
  }

 private:
  int fd_;
  bool held_ = false;
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

Error cannot_create(const std::string& path, int error) {
  return usage_error(fmt::format("{}: cannot be created: {}; choose a target in a folder that you may write to", path,
                                 std::strerror(error)));
}

// May DST be made or replaced?
Status check_target(const Claim::Request& request) {
  const std::string& target = request.target;
  const std::string parent = parent_of(target);
  std::error_code error;
  if (!fs::is_directory(parent, error)) {
    std::string there = parent;  // or what is there of the folders above it
    while (!exists(there) && there != parent_of(there)) there = parent_of(there);
    if (!fs::is_directory(there, error)) {
      return usage_error(fmt::format("{}: {} is not a folder; choose another path", target, there));
    }
    return usage_error(fmt::format("{}: the folder {} does not exist; make it first", target, parent));
  }
  if (::access(parent.c_str(), W_OK | X_OK) != 0) return cannot_create(target, errno);
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

// From the mark on, the partial output is DST: whoever finds the mark goes on where the last one stopped. One process
// at a time.
Status finish_commit(const std::string& target) {
  const std::string partial = Claim::partial_path(target), old = old_path(target);
  RESHARD_TRY(const std::string mark, io::read_text(Claim::journal_path(target) + "/" + kCommit, 64 * kKiB));
  const bool replaces = mark == kReplaces;
  if (exists(partial)) {
    if (replaces && exists(target)) RESHARD_CHECK(rename_path(target, old));
    io::pass("replace");
    RESHARD_CHECK(rename_path(partial, target));
  }
  io::pass("rename");
  RESHARD_CHECK(io::sync_folder(parent_of(target)));
  if (replaces) RESHARD_CHECK(remove_path(old));
  return drop_journal(target);
}

Error held_by(const std::string& target, const PartRecord& record) {
  const std::string part = record.parts > 1 ? fmt::format("part {}/{} ", record.part + 1, record.parts) : "";
  const std::string advice = life_of(record) == Life::lives ? "wait for it, or stop it"
                             : record.parts > 1
                                 ? fmt::format("if that is no longer running, run again in {:.0f} seconds", kSilence_s)
                                 : fmt::format("if that is no longer running, say --resume, or remove {} and {}",
                                               Claim::journal_path(target), Claim::partial_path(target));
  return usage_error(fmt::format("{}: {}is being written by {}; {}", target, part, record.runner.describe(), advice));
}

Expected<Owner> claimed_by(const std::string& target) {
  const std::string journal = Claim::journal_path(target);
  if (auto owner = read_owner(journal)) return *std::move(owner);
  return usage_error(fmt::format("{}: is in the way, and not the claim of a job; remove or rename it", journal));
}

// Errors (usage): this is no claim, its runner lives or was on another host, or others have done parts of the work.
Status check_abandoned(const std::string& target) {
  RESHARD_CHECK(claimed_by(target));
  for (const PartRecord& record : PartRecord::read_all(Claim::journal_path(target))) {
    if (life_of(record) == Life::lives || !record.runner.is_here()) return held_by(target, record);
    if (record.parts == 1 || exists(Claim::journal_path(target) + "/" + kCommit)) continue;
    return usage_error(fmt::format("{}: parts of it are done; go on with --part I/{} or --resume, or remove {} and {}",
                                   target, record.parts, Claim::journal_path(target), Claim::partial_path(target)));
  }
  return {};
}

// Ends what dead runners left: a commit that was begun, else the claim and the partial output.
Status clear_claim(const std::string& target) {
  const std::string journal = Claim::journal_path(target);
  RESHARD_CHECK(check_abandoned(target));
  // Two jobs may find it at once.
  const Lock lock(journal + "/" + kOwner);
  if (!lock.held())
    return usage_error(fmt::format("{}: another job is clearing up what is left there; run again", target));
  RESHARD_CHECK(check_abandoned(target));
  if (exists(journal + "/" + kCommit)) return finish_commit(target);
  RESHARD_CHECK(remove_path(Claim::partial_path(target)));
  return drop_journal(target);
}

// Makes the names of all files below a folder durable.
Status sync_folders(const std::string& root) {
  std::vector<std::string> folders = {root};
  std::error_code error;
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    if (it->is_directory()) folders.push_back(it->path().string());
  }
  if (error) return run_error(fmt::format("{}: cannot be listed: {}", root, error.message()));

  return io::sync_together(folders.size(), [&](std::size_t i) { return io::sync_folder(folders[i]); });
}

std::string tickets_path(const std::string& journal, int parts) {
  return fmt::format("{}/tickets-{:05}", journal, parts);
}
std::string ticket_path(const std::string& tickets, int number) { return fmt::format("{}/{:05}", tickets, number); }
std::string taken_path(const std::string& tickets, int number, int part) {
  return fmt::format("{}/taken.{:05}.{:05}", tickets, number, part + 1);
}

// A folder with a ticket for each part; whole, or not there.
Status make_tickets(const std::string& journal, int parts) {
  const std::string tickets = tickets_path(journal, parts);
  if (exists(tickets)) return {};
  const std::string built = private_path(tickets);
  RESHARD_CHECK(remove_path(built));
  std::error_code error;
  fs::create_directory(built, error);
  if (error) return run_error(fmt::format("{}: cannot be created: {}", built, error.message()));
  for (int i = 0; i < parts; ++i) {
    if (!std::ofstream(ticket_path(built, i)))
      return run_error(fmt::format("{}: cannot be created", ticket_path(built, i)));
  }
  if (::rename(built.c_str(), tickets.c_str()) == 0) return io::sync_folder(journal);
  // Another part was faster.
  static_cast<void>(remove_path(built));
  return exists(tickets) ? Status() : Status(run_error(fmt::format("{}: cannot be created", tickets)));
}

// The ticket that a part holds.
std::optional<int> held_ticket(const std::string& tickets, int parts, int part) {
  for (int i = parts - 1; i >= 0; --i) {
    if (exists(taken_path(tickets, i, part))) return i;
  }
  return std::nullopt;
}

// May DST be claimed, where no claim is?
Status check_unclaimed(const Claim::Request& request) {
  RESHARD_CHECK(check_target(request));
  const std::string partial = Claim::partial_path(request.target);
  if (!exists(partial)) return {};
  return usage_error(fmt::format("{}: is in the way, and no job's; remove or rename it", partial));
}

// May this request join the claim that is there?
Status check_joinable(const Claim::Request& request) {
  const std::string journal = Claim::journal_path(request.target);
  RESHARD_TRY(const Owner owner, claimed_by(request.target));
  const std::string advice =
      fmt::format("; give the same source and options as then, or remove {} and {} to start afresh", journal,
                  Claim::partial_path(request.target));
  if (owner.plan != request.plan_hash) {
    return usage_error(fmt::format("{}: is work on another conversion: its plan is {}, this one's {}{}", journal,
                                   owner.plan, request.plan_hash, advice));
  }
  if (owner.sources != request.sources) {
    return usage_error(
        fmt::format("{}: was begun from other source files: a size or a time differs{}", journal, advice));
  }
  return {};
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

}  // namespace

std::string Claim::partial_path(const std::string& target) { return target + ".partial"; }
std::string Claim::journal_path(const std::string& target) { return target + ".journal"; }

Claim::Claim(const Request& request)
    : request_(request),
      partial_(partial_path(request.target)),
      journal_(journal_path(request.target)),
      me_(Runner::self(request.job_id)) {}

Status Claim::check(const Request& asked) {
  RESHARD_TRY(const Request request, with_plain_target(asked));
  const std::string& target = request.target;
  if (!exists(journal_path(target))) {
    if (request.finds_it_done()) return {};
    Status unclaimed = check_unclaimed(request);
    if (unclaimed) return {};
    // Unless it came since, or came and went.
    if (!exists(journal_path(target))) return request.finds_it_done() ? Status() : std::move(unclaimed);
  }
  if (request.joins()) return check_joinable(request);
  RESHARD_CHECK(check_abandoned(target));
  // Its commit would be finished first, and DST be there.
  if (exists(journal_path(target) + "/" + kCommit) && !request.overwrite) return exists_error(target);
  return check_target(request);
}

Expected<std::optional<Claim>> Claim::make(const Request& asked) {
  RESHARD_TRY(const Request request, with_plain_target(asked));
  Claim claim(request);
  // The journal may come, by a part that is as early as this one, or go, by the last one.
  constexpr int kAttempts = 20;
  remove_litter(request.target);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (exists(claim.journal_)) {
      if (!request.joins()) {
        RESHARD_CHECK(clear_claim(request.target));
        continue;
      }
      const Expected<Joined> joined = claim.join();
      if (!joined && (!claim.is_over() || attempt == kAttempts - 1)) return joined.error();
      if (joined && *joined == Joined::yes) return std::optional(std::move(claim));
      if (joined && *joined == Joined::complete) return std::optional<Claim>();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    if (request.finds_it_done()) return std::optional<Claim>();
    if (Status unclaimed = check_unclaimed(request); !unclaimed) {
      // What is in the way may be the work of others who came, or who were done, since this one looked.
      if (exists(claim.journal_) || request.finds_it_done()) continue;
      return std::move(unclaimed).error();
    }
    RESHARD_TRY(const bool made, claim.build());
    if (made) return std::optional(std::move(claim));
    if (!request.joins()) {
      const auto records = PartRecord::read_all(claim.journal_);
      if (!records.empty()) return held_by(request.target, records.front());
      return cannot_create(claim.journal_, EEXIST);
    }
  }
  return run_error(fmt::format("{}: other jobs make and remove it all the time; run again", claim.journal_));
}

PartRecord Claim::record(const std::string& state, const Json& details) const {
  return {request_.part, request_.parts, me_, state, now_s(), details};
}

Expected<bool> Claim::build() {
  const std::string built = private_path(journal_);
  RESHARD_CHECK(remove_path(built));
  if (::mkdir(built.c_str(), 0777) != 0) return cannot_create(built, errno);
  const Status written = [&]() -> Status {
    RESHARD_CHECK(io::write_text(built + "/" + kOwner, to_text({me_, request_.plan_hash, request_.sources})));
    RESHARD_CHECK(make_tickets(built, request_.parts));
    return record(kRunning, Json::object()).write(built);
  }();
  const bool claimed = written && ::rename(built.c_str(), journal_.c_str()) == 0;
  const int error = errno;
  if (!claimed) {
    static_cast<void>(remove_path(built));
    RESHARD_CHECK(Status(written));
    if (error == EEXIST || error == ENOTEMPTY) return false;
    return cannot_create(journal_, error);
  }
  RESHARD_CHECK(io::sync_folder(parent_of(request_.target)));
  io::pass("claim");
  if (!request_.one_file && ::mkdir(partial_.c_str(), 0777) != 0 && !(request_.joins() && errno == EEXIST)) {
    const int failure = errno;
    static_cast<void>(drop_journal(request_.target));
    return cannot_create(partial_, failure);
  }
  return true;
}

bool Claim::is_over() const { return !exists(journal_) || exists(journal_ + "/" + kCommit); }

Expected<Claim::Joined> Claim::join() {
  const std::string& target = request_.target;
  RESHARD_CHECK(check_joinable(request_));
  const bool committing = exists(journal_ + "/" + kCommit);
  if (!committing) RESHARD_CHECK(check_target(request_));
  // Whoever writes the same spans as this part, or finishes the output.
  const auto rivals = [&] {
    std::vector<PartRecord> records = PartRecord::read_all(journal_);
    std::erase_if(records, [&](const PartRecord& other) {
      return !committing && other.parts == request_.parts && other.part != request_.part;
    });
    return records;
  };
  const std::vector<PartRecord> before = rivals();
  if (const auto rival = find_living(journal_, before, request_.interrupted)) {
    return committing ? Expected(Joined::complete) : held_by(target, *rival);
  }
  // Of several that come to that conclusion one goes on. What it has done meanwhile is looked at anew.
  const Lock lock(journal_ + "/" + kOwner, kLockPatience, request_.interrupted);
  if (!lock.is_at(journal_ + "/" + kOwner)) return Joined::gone;
  if (!lock.held()) return usage_error(fmt::format("{}: other parts are starting; run again", target));
  if (exists(journal_ + "/" + kCommit) != committing) return Joined::gone;
  for (const PartRecord& other : rivals()) {
    if (std::find(before.begin(), before.end(), other) == before.end()) return held_by(target, other);
  }
  // The output is complete: whoever was at it is gone.
  if (committing) {
    RESHARD_CHECK(finish_commit(target));
    return Joined::complete;
  }
  RESHARD_CHECK(make_tickets(journal_, request_.parts));
  RESHARD_CHECK(record(kRunning, Json::object()).write(journal_));
  if (!request_.one_file) {
    const bool made = ::mkdir(partial_.c_str(), 0777) == 0;
    if (!made && errno != EEXIST) return cannot_create(partial_, errno);
    // Not where the last part has just renamed it.
    if (made && is_over()) {
      ::rmdir(partial_.c_str());
      return Joined::gone;
    }
  }
  resumed_ = true;
  return Joined::yes;
}

std::string Claim::journal_name() const {
  return fmt::format("part-{:05}-of-{:05}.{}.{}.{}", request_.part + 1, request_.parts, me_.host, me_.pid, me_.start);
}

Status Claim::check_mine() const {
  const std::string path = journal_ + "/" + PartRecord::file_name(request_.part, request_.parts);
  const auto record = PartRecord::read(path);
  // One that cannot be read now tells nothing.
  if (record ? record->runner == me_ : exists(path)) return {};
  return run_error(fmt::format("{}: {} while this run slept", request_.target,
                               record ? "was taken over by " + record->runner.describe() : "was finished or given up"));
}

Status Claim::tell(const std::string& state, const Json& details) { return record(state, details).write(journal_); }

Expected<bool> Claim::take_ticket() {
  const std::string tickets = tickets_path(journal_, request_.parts);
  const int last = request_.parts - 1;
  if (const auto held = held_ticket(tickets, request_.parts, request_.part)) return *held == last;
  for (int i = 0; i < request_.parts; ++i) {
    if (::rename(ticket_path(tickets, i).c_str(), taken_path(tickets, i, request_.part).c_str()) == 0) {
      RESHARD_CHECK(io::sync_folder(tickets));
      io::pass("ticket");
      return i == last;
    }
    const int error = errno;
    // A server may do a rename and be asked again.
    if (error == ENOENT && exists(taken_path(tickets, i, request_.part))) return i == last;
    if (error != ENOENT) {
      return run_error(fmt::format("{}: cannot be renamed: {}", ticket_path(tickets, i), std::strerror(errno)));
    }
  }
  return run_error(
      fmt::format("{}: holds no ticket for part {}/{}; was it changed?", tickets, request_.part + 1, request_.parts));
}

Status Claim::commit(const std::function<Status()>& before) {
  const std::string& target = request_.target;
  std::error_code ignored;
  const bool folder = fs::is_directory(partial_, ignored);
  // An empty folder gives way to a folder, a file to a file: one rename does it all.
  const bool gives_way = !exists(target) ||
                         (folder && fs::is_directory(target, ignored) && fs::is_empty(target, ignored)) ||
                         (!folder && fs::is_regular_file(target, ignored));
  if (exists(target) && !(folder && gives_way) && !request_.overwrite) {
    return run_error(fmt::format("{}: appeared while this job ran; the output is complete in {}", target, partial_));
  }
  if (!gives_way && exists(old_path(target))) {
    return run_error(fmt::format("{}: appeared while this job ran, in the way of {}; the output is complete in {}",
                                 old_path(target), target, partial_));
  }
  if (before) RESHARD_CHECK(before());
  if (folder) RESHARD_CHECK(sync_folders(partial_));
  RESHARD_CHECK(check_mine());
  RESHARD_CHECK(io::write_text(journal_ + "/" + kCommit, gives_way ? kPlain : kReplaces));
  RESHARD_CHECK(io::sync_folder(journal_));
  io::pass("mark");
  return finish_commit(target);
}

void Claim::discard() {
  // What cannot be removed is no output, and the next run says what is in its way.
  static_cast<void>(remove_path(partial_));
  static_cast<void>(drop_journal(request_.target));
}

}  // namespace reshard::job
