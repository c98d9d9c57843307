// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
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

enum class Follow {
  cache,  ///< symlinks only into the `blobs` folder of a Hugging Face cache
  all,    ///< --follow-symlinks
};

/// How the store likes to be used; probed or from the environment (see io/settings.h).
struct Mode {
  bool direct = false;  ///< O_DIRECT where offset, length and address allow; falls back to buffered by itself
};

/// Opens a regular file for positional reads. `root` is the checkpoint's folder: a path that leads out of it is refused
/// unless `follow` allows it. Git-LFS pointers and HTML pages are recognised by their callers (container/detect.h).
/// Errors (input): missing, not a regular file, symlink out of the folder. Local.
Expected<std::unique_ptr<Source>> open_source(const std::string& root, const std::string& relative, Follow follow, Mode mode);
Expected<Fingerprint> fingerprint(const std::string& path);

/// A file that many processes write at disjoint positions.
class Target {
 public:
  virtual ~Target() = default;
  /// Local, thread-safe. Direct where position and length are 4 KiB multiples and the address is aligned, else buffered.
  virtual Status write_at(std::span<const std::byte> bytes, Index offset) = 0;
  /// fdatasync. Local.
  virtual Status sync() = 0;
};

/// Creates missing parent folders and the file at its full size (idempotent: any number of processes may do it).
Expected<std::unique_ptr<Target>> open_target(const std::string& path, Index size, Mode mode);

/// Reads a small file whole. Errors (input): missing, larger than `limit` bytes. Local.
Expected<std::string> read_text(const std::string& path, Index limit = 64 * kMiB);
/// Writes, fsyncs and renames into place. Local.
Status write_text(const std::string& path, std::string_view text);
Status sync_folder(const std::string& path);

/// Regular files below `folder`, as sorted relative paths; symlinks are listed as what they point to. Local.
Expected<std::vector<std::string>> list_files(const std::string& folder, int max_depth = 16);

}  // namespace reshard::io
