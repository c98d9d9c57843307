// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <filesystem>

#include "reshard/base/text.h"
#include "reshard/io/file.h"
#include "reshard/io/settings.h"
#include "transfer.h"

namespace reshard::io {
namespace {

namespace fs = std::filesystem;

class FileSource : public Source {
 public:
  FileSource(std::string path, Index size, Fd buffered, Fd direct)
      : path_(std::move(path)),
        size_(size),
        buffered_(std::move(buffered)),
        direct_(std::move(direct)),
        is_direct_(direct_.is_open()) {}

  Index size() const override { return size_; }

  Status read_at(std::span<std::byte> into, Index offset) override {
    const auto length = static_cast<Index>(into.size());
    if (offset < 0 || offset > size_ || length > size_ - offset) {
      return input_error(
          fmt::format("{}: {} bytes wanted at byte {}, but the file ends at byte {}", path_, length, offset, size_));
    }
    const Split split = is_direct_ ? split_for_direct(into.data(), into.size(), offset) : Split{into.size(), 0, 0};
    const bool has_ends = split.body > 0 && split.head + split.tail > 0;
    if (has_ends && read_pages(direct_.get(), split, into.data(), offset)) return {};
    RESHARD_CHECK(read_buffered(into.first(split.head), offset));
    RESHARD_CHECK(read_body(into.subspan(split.head, split.body), offset + static_cast<Index>(split.head)));
    return read_buffered(into.last(split.tail), offset + length - static_cast<Index>(split.tail));
  }

 private:
  Status read_buffered(std::span<std::byte> into, Index offset) {
    const Transfer moved = transfer(Direction::read, buffered_.get(), into.data(), into.size(), offset);
    return moved.done == into.size() ? Status() : failure(moved, into.size(), offset);
  }

  Status read_body(std::span<std::byte> into, Index offset) {
    if (into.empty()) return {};
    const Transfer moved = transfer(Direction::read, direct_.get(), into.data(), into.size(), offset);
    if (moved.done == into.size()) return {};
    // A store that does not take these blocks, or the unaligned end of a file that shrank: the buffered way tells.
    if (moved.error == EINVAL && moved.done == 0) is_direct_ = false;
    if (moved.error != 0 && moved.error != EINVAL) return failure(moved, into.size(), offset);
    return read_buffered(into.subspan(moved.done), offset + static_cast<Index>(moved.done));
  }

  Error failure(const Transfer& moved, std::size_t length, Index offset) const {
    const Index at = offset + static_cast<Index>(moved.done);
    if (moved.error == 0) {
      return input_error(
          fmt::format("{}: file truncated during read: it ends at byte {}, was {} bytes long when it was opened", path_,
                      at, size_));
    }
    return input_error(fmt::format("{}: cannot read {} bytes at byte {}: {}", path_, length - moved.done, at,
                                   describe_errno(moved.error)));
  }

  std::string path_;
  Index size_;
  Fd buffered_, direct_;
  std::atomic<bool> is_direct_;
};

/// True for a plain relative path: components that are neither empty nor "." nor "..".
bool is_plain(const std::string& relative) {
  for (const auto& part : split(relative, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return relative.find('\0') == std::string::npos;
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  const fs::path rest = path.lexically_relative(folder);
  return !rest.empty() && rest.is_relative() && *rest.begin() != "..";
}

/// The blobs folder of the Hugging Face cache that `root` lies in (.../models--org--name/snapshots/REV, or below), or
/// "".
fs::path cache_blobs(const fs::path& root) {
  for (fs::path folder = root; folder.has_relative_path(); folder = folder.parent_path()) {
    const fs::path snapshots = folder.parent_path();
    if (snapshots.filename() == "snapshots" && snapshots.parent_path().filename().string().starts_with("models--")) {
      return snapshots.parent_path() / "blobs";
    }
  }
  return {};
}

/// The file that `relative` leads to once all links are followed, if `follow` allows it.
Expected<std::string> resolve(const std::string& root, const std::string& relative, Follow follow) {
  if (!is_plain(relative)) {
    return input_error(
        fmt::format("{}: '{}' is no path inside the folder (absolute, or with '.' or '..')", root, relative));
  }
  const fs::path path = fs::path(root) / relative;
  std::error_code failed;
  const fs::path real_root = fs::canonical(root, failed);
  if (failed) return input_error(fmt::format("{}: {}", root, failed.message()));
  const fs::path real = fs::canonical(path, failed);
  if (failed) {
    std::error_code ignored;
    const bool dangling = failed == std::errc::no_such_file_or_directory && fs::is_symlink(path, ignored);
    return input_error(
        fmt::format("{}: {}", path.string(), dangling ? "a symlink to a file that does not exist" : failed.message()));
  }
  if (follow == Follow::all || is_inside(real, real_root)) return real.string();
  const fs::path blobs = cache_blobs(real_root);
  if (!blobs.empty() && real.parent_path() == blobs) return real.string();
  return input_error(fmt::format("{}: a symlink leads out of the folder to {}; allow it with --follow-symlinks",
                                 path.string(), real.string()));
}

}  // namespace

Expected<std::unique_ptr<Source>> open_source(const std::string& root, const std::string& relative, Follow follow,
                                              Mode mode) {
  if (!settings()) return settings().error();
  std::string path = root, real = root;
  if (!relative.empty()) {
    path = root + (root.ends_with('/') ? "" : "/") + relative;
    RESHARD_TRY(real, resolve(root, relative, follow));
  }
  // The links are resolved, so there is none left to follow. O_NONBLOCK: a pipe must not hang us before we know it is
  // one.
  const int flags = O_RDONLY | O_NONBLOCK | (relative.empty() ? 0 : O_NOFOLLOW);
  Fd buffered = open_fd(real, flags);
  if (!buffered.is_open()) return input_error(fmt::format("{}: {}", path, describe_errno(errno)));
  struct stat status;
  if (::fstat(buffered.get(), &status) != 0) return input_error(fmt::format("{}: {}", path, describe_errno(errno)));
  if (!S_ISREG(status.st_mode)) {
    return input_error(
        fmt::format("{}: {}", path, S_ISDIR(status.st_mode) ? "is a folder, not a file" : "is not a regular file"));
  }
  Fd direct;
  if (mode.direct) {
    direct = open_fd("/proc/self/fd/" + std::to_string(buffered.get()), O_RDONLY | O_DIRECT);
    if (direct.is_open())
      ::posix_fadvise(buffered.get(), 0, 0, POSIX_FADV_RANDOM);  // only odd ends are read through it
  }
  return std::unique_ptr<Source>(
      std::make_unique<FileSource>(path, status.st_size, std::move(buffered), std::move(direct)));
}

Expected<Fingerprint> fingerprint(const std::string& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) return input_error(fmt::format("{}: {}", path, describe_errno(errno)));
  return Fingerprint{status.st_size, Index{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec,
                     status.st_ino};
}

Status check_unchanged(const std::string& path, const Fingerprint& before) {
  const Expected<Fingerprint> found = fingerprint(path);
  // Gone is not wrong: what was read was right.
  if (!found) return run_error(found.error().message + " while it was read");
  const Fingerprint& now = *found;
  if (now == before) return {};
  const std::string what = now.inode != before.inode ? "was replaced by another file"
                           : now.size != before.size
                               ? fmt::format("changed its size from {} to {} bytes", before.size, now.size)
                               : "was written to";
  return input_error(fmt::format("{}: {} while it was read; run again when nothing writes to the source", path, what));
}

}  // namespace reshard::io
