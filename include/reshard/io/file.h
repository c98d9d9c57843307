// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::io {

/// Bytes that can be read at any position, by any thread: a file, or a generator that stands for one.
class Source {
 public:
  virtual ~Source() = default;
  virtual Index size() const = 0;
  /// Fills `into` from `offset` on. A short read is an error ("file truncated during read"). Local, thread-safe.
  virtual Status read_at(std::span<std::byte> into, Index offset) = 0;
};

/// What identifies the state of a source file, to notice that it changed under us.
struct Fingerprint {
  Index size = 0;
  Index mtime_ns = 0;
  std::uint64_t inode = 0;
  bool operator==(const Fingerprint&) const = default;
};

/// The state of the file at `path`, links followed. Take it before the headers are read. Errors (input): missing.
/// Local.
Expected<Fingerprint> fingerprint(const std::string& path);
/// Errors: (input) the file at `path` is no longer in the state `before`; (failed) it is gone. Called when all is read.
/// Local.
Status check_unchanged(const std::string& path, const Fingerprint& before);

enum class Follow {
  cache,  ///< symlinks only inside the folder or into the `blobs` folder of the Hugging Face cache that it lies in
  all,    ///< --follow-symlinks
};

/// How the store likes to be used; see probe_source, probe_target.
struct Mode {
  bool direct = false;  ///< O_DIRECT where offset, length and address allow; falls back to buffered by itself
};

/// Direct transfers move whole pages of this size. The aligned body of a range goes direct if address and file offset
/// are equal modulo kPage; the rest is buffered. Cut long ranges at multiples of it.
inline constexpr Index kPage = 4096;

/// Opens a regular file for positional reads. `root` is the checkpoint's folder: a path that leads out of it is refused
/// unless `follow` allows it; an empty `relative` means that `root` is the file itself, named by the user. What a file
/// that is no checkpoint seems to be is said by container::describe_foreign. Errors (input): missing, not a regular
/// file, symlink out of the folder. Local.
Expected<std::unique_ptr<Source>> open_source(const std::string& root, const std::string& relative, Follow follow,
                                              Mode mode);

/// A file that many processes write at disjoint positions.
class Target {
 public:
  virtual ~Target() = default;
  /// Direct where mode, position and address allow (kPage), else buffered, with the dirty pages kept few. Errors
  /// (failed): disk full and the like, with the byte. Local, thread-safe.
  virtual Status write_at(std::span<const std::byte> bytes, Index offset) = 0;
  /// Starts what a sync() would wait for: of many files the waits are then short. Local.
  virtual void start_sync() = 0;
  /// fdatasync. Local.
  virtual Status sync() = 0;
};

/// Makes the folders that `path` lies in, below `root`, which must be there: a root that was renamed meanwhile is not
/// made anew. Errors (failed). Local.
Status make_folders(const std::string& root, const std::string& path);
/// Creates the file at its full size, all blocks reserved where the file system can, so that
/// a full disk shows here. Any number of processes may do it at once; bytes that are there stay. Never follows a
/// symlink in the place of the file. Errors (failed). Local.
Expected<std::unique_ptr<Target>> open_target(const std::string& path, Index size, Mode mode);

/// Reads a small file whole. Errors (input): missing, not a regular file, larger than `limit` bytes. Local.
Expected<std::string> read_text(const std::string& path, Index limit = 64 * kMiB);
/// Writes `path`.tmp, fsyncs and renames it into place, making missing parent folders. Errors (failed). Local.
Status write_text(const std::string& path, std::string_view text);
/// The same without fsync and folders: for a text that is replaced all the time, and whose readers may find the old one
/// or none after a power cut. Errors (failed). Local.
Status replace_text(const std::string& path, std::string_view text);
/// Makes renames and new files in the folder durable. Errors (failed). Local.
Status sync_folder(const std::string& path);
/// Calls sync(0) ... sync(count - 1), many at the same time from threads of its own: a store flushes once for all who
/// ask meanwhile. Errors: one of theirs; the rest is done all the same. Local.
Status sync_together(std::size_t count, const std::function<Status(std::size_t)>& sync);

/// Regular files below `folder`, as sorted relative paths; symlinks are listed as what they point to (open_source says
/// which of them may be read). Errors (input): unreadable, a loop of links, deeper than `max_depth`, over a million
/// files. Local.
Expected<std::vector<std::string>> list_files(const std::string& folder, int max_depth = 16);

/// How to read files like `file`, how to write files into `folder` (or its nearest parent that exists): RESHARD_IO if
/// it is set, else direct where the file system is local, keeps its files on a device and passes a try of one page.
/// Errors (usage): a bad setting. Local; takes milliseconds.
Expected<Mode> probe_source(const std::string& file);
Expected<Mode> probe_target(const std::string& folder);

}  // namespace reshard::io
