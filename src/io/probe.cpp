// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "reshard/io/file.h"
#include "reshard/io/settings.h"
#include "transfer.h"

namespace reshard::io {
namespace {

struct Page {
  alignas(kPage) std::array<std::byte, kPage> bytes{};
};

/// File systems that have no device to go direct to, or that do better through the page cache (statfs(2) f_type).
bool wants_buffers(const std::string& path) {
  constexpr std::array<long, 9> kTypes = {
      0x01021994,  // tmpfs
      0x858458f6,  // ramfs
      0x6969,      // nfs
      0x517b,      // smb
      0xfe534d42,  // smb2
      0xff534d42,  // cifs
      0x65735546,  // fuse
      0x01021997,  // 9p
      0x00c36400,  // ceph
  };
  struct statfs status;
  if (::statfs(path.c_str(), &status) != 0) return true;
  return std::find(kTypes.begin(), kTypes.end(), static_cast<long>(status.f_type)) != kTypes.end();
}

bool reads_direct(const std::string& file) {
  if (wants_buffers(file)) return false;
  const Fd fd = open_fd(file, O_RDONLY | O_DIRECT | O_NONBLOCK);
  const auto page = std::make_unique<Page>();
  return fd.is_open() && ::pread(fd.get(), page->bytes.data(), page->bytes.size(), 0) >= 0;
}

bool writes_direct(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  fs::path existing = fs::absolute(folder, ignored);
  while (!fs::is_directory(existing, ignored) && existing.has_relative_path()) existing = existing.parent_path();
  if (wants_buffers(existing.string())) return false;
  std::string name = (existing / ".reshard-probe-XXXXXX").string();
  const Fd plain(::mkostemp(name.data(), O_CLOEXEC));
  if (!plain.is_open()) return false;
  ::unlink(name.c_str());
  const Fd fd = open_fd("/proc/self/fd/" + std::to_string(plain.get()), O_WRONLY | O_DIRECT);
  const auto page = std::make_unique<Page>();
  return fd.is_open() &&
         ::pwrite(fd.get(), page->bytes.data(), page->bytes.size(), 0) == static_cast<ssize_t>(page->bytes.size());
}

template <class Try>
Expected<Mode> choose(Try&& attempt) {
  if (!settings()) return settings().error();
  if (settings()->io != Settings::Io::automatic) return Mode{settings()->io == Settings::Io::direct};
  return Mode{attempt()};
}

}  // namespace

Expected<Mode> probe_source(const std::string& file) {
  return choose([&] { return reads_direct(file); });
}

Expected<Mode> probe_target(const std::string& folder) {
  return choose([&] { return writes_direct(folder); });
}

}  // namespace reshard::io
