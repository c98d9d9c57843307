// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <mutex>

#include "reshard/io/file.h"
#include "reshard/io/settings.h"
#include "transfer.h"

namespace reshard::io {
namespace {

constexpr Index kMaxDirty = 64 * kMiB;  // of one file in one process, before a writer waits for the oldest of it
constexpr std::size_t kMinBehind = 256 * 1024;  // smaller writes are left to the kernel

Error write_failure(const std::string& path, Index size, Index at, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return run_error(fmt::format("{}: cannot write at byte {} of {}: {}{}", path, at, size, describe_errno(error),
                               full ? "; make room or choose another target, then run again" : ""));
}

/// Keeps the dirty pages of one file few: starts their way to the store at once and waits for old ones.
class WriteBehind {
 public:
  /// 0 or errno. Errors of the store show here and are then gone from fdatasync, so they must not be ignored.
  int wrote(int fd, Index offset, std::size_t length) {
    if (length < kMinBehind || !works_) return 0;
    if (const int error = sync_range(fd, offset, static_cast<Index>(length), SYNC_FILE_RANGE_WRITE)) return error;
    std::unique_lock lock(mutex_);
    ranges_.push_back({offset, static_cast<Index>(length)});
    dirty_ += static_cast<Index>(length);
    while (dirty_ > kMaxDirty) {
      const Range oldest = ranges_.front();
      ranges_.pop_front();
      dirty_ -= oldest.length;
      lock.unlock();
      constexpr unsigned kWait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
      if (const int error = sync_range(fd, oldest.offset, oldest.length, kWait)) return error;
      ::posix_fadvise(fd, oldest.offset, oldest.length, POSIX_FADV_DONTNEED);
      lock.lock();
    }
    return 0;
  }

 private:
  struct Range {
    Index offset, length;
  };

  int sync_range(int fd, Index offset, Index length, unsigned flags) {
    if (::sync_file_range(fd, offset, length, flags) == 0) return 0;
    const int error = errno;
    if (error != EINVAL && error != ENOSYS && error != ESPIPE && error != EOPNOTSUPP && error != EPERM) return error;
    works_ = false;
    return 0;
  }

  std::mutex mutex_;
  std::deque<Range> ranges_;
  Index dirty_ = 0;
  std::atomic<bool> works_{true};
};

class FileTarget : public Target {
 public:
  FileTarget(std::string path, Index size, Fd buffered, Fd direct)
      : path_(std::move(path)),
        size_(size),
        buffered_(std::move(buffered)),
        direct_(std::move(direct)),
        is_direct_(direct_.is_open()) {}

  Status write_at(std::span<const std::byte> bytes, Index offset) override {
    const auto length = static_cast<Index>(bytes.size());
    if (offset < 0 || offset > size_ || length > size_ - offset) {
      return run_error(fmt::format("{}: write of {} bytes at byte {} beyond the end of the file at byte {}", path_,
                                   length, offset, size_));
    }
    const Split split = is_direct_ ? split_for_direct(bytes.data(), bytes.size(), offset) : Split{bytes.size(), 0, 0};
    Status status = write_buffered(bytes.first(split.head), offset);
    if (status) status = write_body(bytes.subspan(split.head, split.body), offset + static_cast<Index>(split.head));
    if (status) status = write_buffered(bytes.last(split.tail), offset + length - static_cast<Index>(split.tail));
    unsynced_ = true;
    return status;
  }

  void start_sync() override {
    // Errors show in the sync itself.
    if (unsynced_) ::sync_file_range(buffered_.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
  }

  Status sync() override {
    // Writes that end later set it again.
    const bool unsynced = unsynced_.exchange(false);
    int error = lost_;
    if (unsynced && error == 0) error = sync_data(buffered_.get());
    if (error == 0) return {};
    // The kernel tells of lost bytes once.
    lost_ = error;
    return run_error(fmt::format("{}: cannot sync: {}", path_, describe_errno(error)));
  }

 private:
  Status write_buffered(std::span<const std::byte> bytes, Index offset) {
    if (bytes.empty()) return {};
    const Transfer moved = write(buffered_, bytes, offset);
    if (moved.error != 0) return failure(moved, offset);
    const int error = behind_.wrote(buffered_.get(), offset, bytes.size());
    if (error == 0) return {};
    lost_ = error;
    return failure({0, error}, offset);
  }

  Status write_body(std::span<const std::byte> bytes, Index offset) {
    if (bytes.empty()) return {};
    const Transfer moved = write(direct_, bytes, offset);
    if (moved.error == 0) return {};
    if (moved.error != EINVAL) return failure(moved, offset);
    if (moved.done == 0) is_direct_ = false;  // a store that does not take these blocks
    return write_buffered(bytes.subspan(moved.done), offset + static_cast<Index>(moved.done));
  }

  static Transfer write(const Fd& fd, std::span<const std::byte> bytes, Index offset) {
    return transfer(Direction::write, fd.get(), const_cast<std::byte*>(bytes.data()), bytes.size(), offset);
  }

  Error failure(const Transfer& moved, Index offset) const {
    return write_failure(path_, size_, offset + static_cast<Index>(moved.done), moved.error);
  }

  std::string path_;
  Index size_;
  Fd buffered_, direct_;
  std::atomic<bool> is_direct_;
  std::atomic<bool> unsynced_{true};  // its size, to begin with
  std::atomic<int> lost_{0};          // errno of the store, for bytes that were taken before
  WriteBehind behind_;
};

/// Gives the file its size and its blocks, unless it has them.
int reserve(int fd, Index size) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return errno;
  if (!S_ISREG(status.st_mode)) return EINVAL;
  if (status.st_size != size && ::ftruncate(fd, size) != 0) return errno;
  constexpr Index kStatBlock = 512;
  if (size == 0 || status.st_blocks * kStatBlock >= size) return 0;
  while (::fallocate(fd, 0, 0, size) != 0) {
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL || errno == EPERM)
      return 0;  // the store cannot promise
    if (errno != EINTR) return errno;
  }
  return 0;
}

Status make_parents(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  std::error_code failed;
  if (!parent.empty()) std::filesystem::create_directories(parent, failed);
  if (failed) return run_error(fmt::format("{}: cannot make the folder: {}", parent.string(), failed.message()));
  return {};
}

Status put_text(const std::string& path, std::string_view text, bool durable) {
  if (!settings()) return settings().error();
  // A fixed name: what a killed run left is overwritten by the next one, never added to.
  const std::string temporary = path + ".tmp";
  const auto size = static_cast<Index>(text.size());
  {
    const Fd fd = open_fd(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW);
    if (!fd.is_open()) return run_error(fmt::format("{}: cannot create: {}", temporary, describe_errno(errno)));
    auto* bytes = reinterpret_cast<std::byte*>(const_cast<char*>(text.data()));
    const Transfer moved = transfer(Direction::write, fd.get(), bytes, text.size(), 0);
    if (moved.error != 0) return write_failure(temporary, size, static_cast<Index>(moved.done), moved.error);
    if (durable && ::fsync(fd.get()) != 0) {
      return run_error(fmt::format("{}: cannot sync: {}", temporary, describe_errno(errno)));
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return run_error(fmt::format("{}: cannot rename into place: {}", temporary, describe_errno(errno)));
  }
  return {};
}

}  // namespace

Status make_folders(const std::string& root, const std::string& path) {
  namespace fs = std::filesystem;
  const fs::path parent = fs::path(path).parent_path();
  if (std::error_code error; fs::is_directory(parent, error)) return {};
  fs::path folder = root;
  for (const fs::path& name : parent.lexically_relative(folder)) {
    if (name.empty() || name == ".") continue;
    folder /= name;
    if (::mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST) {
      return run_error(fmt::format("{}: cannot make the folder: {}", folder.string(), describe_errno(errno)));
    }
  }
  return {};
}

Expected<std::unique_ptr<Target>> open_target(const std::string& path, Index size, Mode mode) {
  if (!settings()) return settings().error();
  Fd buffered = open_fd(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK);
  if (!buffered.is_open()) return run_error(fmt::format("{}: cannot create: {}", path, describe_errno(errno)));
  if (const int error = reserve(buffered.get(), size)) {
    return run_error(fmt::format("{}: cannot make room for {} bytes: {}; make room or choose another target", path,
                                 size, describe_errno(error)));
  }
  Fd direct;
  if (mode.direct) direct = open_fd("/proc/self/fd/" + std::to_string(buffered.get()), O_WRONLY | O_DIRECT);
  return std::unique_ptr<Target>(std::make_unique<FileTarget>(path, size, std::move(buffered), std::move(direct)));
}

Status write_text(const std::string& path, std::string_view text) {
  RESHARD_CHECK(make_parents(path));
  return put_text(path, text, true);
}

Status replace_text(const std::string& path, std::string_view text) { return put_text(path, text, false); }

Status sync_folder(const std::string& path) {
  const Fd fd = open_fd(path, O_RDONLY | O_DIRECTORY);
  if (!fd.is_open()) return run_error(fmt::format("{}: cannot open the folder: {}", path, describe_errno(errno)));
  // Some network file systems cannot sync a folder, and need not.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) {
    return run_error(fmt::format("{}: cannot sync the folder: {}", path, describe_errno(errno)));
  }
  return {};
}

}  // namespace reshard::io
