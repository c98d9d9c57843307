// SPDX-License-Identifier: Apache-2.0
#include "open_files.h"

#include <iterator>
#include <vector>

namespace reshard::exec {

// The entry of an open file, or the end; a file that is being closed is waited for.
OpenFiles::Position OpenFiles::find(std::unique_lock<std::mutex>& lock, std::uint32_t file) {
  while (true) {
    const auto it = by_file_.find(file);
    if (it == by_file_.end()) return recent_.end();
    if (!it->second->closing) return it->second;
    closed_.wait(lock);
  }
}

Status OpenFiles::make_room(std::unique_lock<std::mutex>& lock) {
  if (recent_.size() < most_) return {};
  for (auto it = std::prev(recent_.end());; --it) {
    // Nobody can get hold of it without the mutex.
    if (!it->closing && it->target.use_count() == 1) {
      it->closing = true;
      lock.unlock();
      Status status = it->target->sync();
      lock.lock();
      if (!status) lost_ = true;
      by_file_.erase(it->file);
      recent_.erase(it);
      closed_.notify_all();
      return status;
    }
    if (it == recent_.begin()) return {};  // all in use: one more than wanted
  }
}

Expected<std::shared_ptr<io::Target>> OpenFiles::get(std::uint32_t file) {
  std::unique_lock lock(mutex_);
  Position at = find(lock, file);
  if (at == recent_.end()) {
    RESHARD_CHECK(make_room(lock));
    at = find(lock, file);  // another thread may have opened it meanwhile
  }
  if (at == recent_.end()) {
    RESHARD_TRY(std::shared_ptr<io::Target> target, open_(file));
    recent_.push_front({file, std::move(target)});
    by_file_[file] = recent_.begin();
    return recent_.front().target;
  }
  recent_.splice(recent_.begin(), recent_, at);
  return at->target;
}

Status OpenFiles::sync(const std::set<std::uint32_t>& files) {
  std::vector<std::shared_ptr<io::Target>> targets;
  for (const std::uint32_t file : files) {
    std::unique_lock lock(mutex_);
    if (lost_) return run_error("bytes of files that were closed before are lost");
    const Position at = find(lock, file);
    if (at != recent_.end()) targets.push_back(at->target);  // else it is closed, so synced
  }
  for (const auto& target : targets) target->start_sync();
  return io::sync_together(targets.size(), [&](std::size_t i) { return targets[i]->sync(); });
}

Status OpenFiles::close_all() {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<io::Target>> targets;
  for (const Entry& entry : recent_) targets.push_back(entry.target);
  for (const auto& target : targets) target->start_sync();
  Status synced = io::sync_together(targets.size(), [&](std::size_t i) { return targets[i]->sync(); });
  if (!synced) lost_ = true;
  by_file_.clear();
  recent_.clear();
  return synced;
}

}  // namespace reshard::exec
