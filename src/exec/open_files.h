// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>

#include "reshard/base/expected.h"
#include "reshard/io/file.h"

namespace reshard::exec {

/// Target files, opened on first use; when there are too many, the one used least recently is synced and closed, unless
/// a thread is using it. Thread-safe.
class OpenFiles {
 public:
  using Open = std::function<Expected<std::unique_ptr<io::Target>>(std::uint32_t file)>;

  OpenFiles(std::size_t most, Open open) : most_(most), open_(std::move(open)) {}

  /// The file, open as long as the result lives. Errors: of opening, or of syncing the file that makes room. Local.
  Expected<std::shared_ptr<io::Target>> get(std::uint32_t file);
  /// Makes all bytes of some files durable that were written before the call. Local.
  Status sync(const std::set<std::uint32_t>& files);
  /// Syncs and closes all; nobody uses any. Local.
  Status close_all();

 private:
  struct Entry {
    std::uint32_t file;
    std::shared_ptr<io::Target> target;
    bool closing = false;
  };
  using Position = std::list<Entry>::iterator;

  Position find(std::unique_lock<std::mutex>& lock, std::uint32_t file);
  Status make_room(std::unique_lock<std::mutex>& lock);

  const std::size_t most_;
  const Open open_;
  std::mutex mutex_;
  std::condition_variable closed_;
  bool lost_ = false;        // a file that was closed could not be synced
  std::list<Entry> recent_;  // most recent first
  std::unordered_map<std::uint32_t, Position> by_file_;
};

}  // namespace reshard::exec
