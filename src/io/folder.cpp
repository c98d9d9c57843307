// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "reshard/io/file.h"
#include "reshard/io/settings.h"
#include "transfer.h"

namespace reshard::io {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFiles = 1'000'000;

struct Walk {
  std::vector<std::string> files;
  std::vector<std::pair<dev_t, ino_t>> above;  // folders that we are in
  int max_depth;

  Status enter(const std::string& folder, const std::string& prefix) {
    struct stat status;
    if (::stat(folder.c_str(), &status) != 0) return input_error(fmt::format("{}: {}", folder, describe_errno(errno)));
    const std::pair self(status.st_dev, status.st_ino);
    if (std::find(above.begin(), above.end(), self) != above.end()) {
      return input_error(fmt::format("{}: a symlink leads back to a folder above it", folder));
    }
    if (above.size() > static_cast<std::size_t>(max_depth)) {
      return input_error(fmt::format("{}: folders nested deeper than {}", folder, max_depth));
    }
    above.push_back(self);
    std::error_code failed;
    for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed)) {
      const std::string relative = prefix + at->path().filename().string();
      std::error_code dangling;  // such a link is neither
      // The entry knows its own type as a rule: only links are looked up.
      if (at->is_directory(dangling)) {
        RESHARD_CHECK(enter(at->path().string(), relative + "/"));
      } else if (at->is_regular_file(dangling)) {
        if (files.size() == kMaxFiles) return input_error(fmt::format("{}: more than {} files", folder, kMaxFiles));
        files.push_back(relative);
      }
    }
    if (failed) return input_error(fmt::format("{}: {}", folder, failed.message()));
    above.pop_back();
    return {};
  }
};

}  // namespace

Expected<std::vector<std::string>> list_files(const std::string& folder, int max_depth) {
  Walk walk{{}, {}, max_depth};
  RESHARD_CHECK(walk.enter(folder, ""));
  std::sort(walk.files.begin(), walk.files.end());
  return std::move(walk.files);
}

Expected<std::string> read_text(const std::string& path, Index limit) {
  RESHARD_TRY(const auto source, open_source(path, "", Follow::all, Mode{}));
  if (source->size() > limit) {
    return input_error(fmt::format("{}: {} bytes long, at most {} were expected", path, source->size(), limit));
  }
  std::string text(static_cast<std::size_t>(source->size()), '\0');
  RESHARD_CHECK(source->read_at(std::as_writable_bytes(std::span(text)), 0));
  return text;
}

}  // namespace reshard::io
