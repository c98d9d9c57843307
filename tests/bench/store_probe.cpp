// SPDX-License-Identifier: Apache-2.0
// How fast this machine's store can read one set of files and write another: what a conversion would take if only the
// store counted.
//   store_probe SRC LIKE DST [--setting MODE,SYNC,BLOCK_MIB,THREADS]
// Reads every file below SRC and writes, below DST, files of the names and sizes of those below LIKE (a file in place
// of a folder is that file). Without --setting it tries all settings, caches dropped before each, and removes what it
// wrote in between; a try that takes 1.5 times as long as the best so far before its sync is broken off. With it, it
// does one run and leaves caches alone. Prints JSON: the best run, and all runs.
//   MODE     direct: O_DIRECT, files given their blocks first; buffered: through the page cache
//   SYNC     each: fdatasync of every file when it is complete; all: one syncfs in the end. Folders are synced in both.
//   THREADS  each reads a block, then writes what makes writing keep up with reading
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace reshard::bench {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kMiB = 1024 * 1024;

struct Setting {
  bool direct;
  bool sync_each;
  std::int64_t block_bytes;
  int threads;
};

std::string to_string(const Setting& setting) {
  return fmt::format("{},{},{},{}", setting.direct ? "direct" : "buffered", setting.sync_each ? "each" : "all",
                     setting.block_bytes / kMiB, setting.threads);
}

std::optional<Setting> parse_setting(const std::string& text) {
  char mode[16], sync[16];
  int block_mib = 0, threads = 0, end = 0;
  if (std::sscanf(text.c_str(), "%15[a-z],%15[a-z],%d,%d%n", mode, sync, &block_mib, &threads, &end) != 4 ||
      end != static_cast<int>(text.size()) || block_mib < 1 || threads < 1) {
    return std::nullopt;
  }
  const Setting setting{std::string(mode) == "direct", std::string(sync) == "each", block_mib * kMiB, threads};
  return to_string(setting) == text ? std::optional(setting) : std::nullopt;
}

/// Every block size and depth, in both modes.
std::vector<Setting> all_settings() {
  std::vector<Setting> all;
  for (const bool direct : {true, false}) {
    for (const std::int64_t block_mib : {1, 4, 8, 16}) {
      for (const int threads : {1, 2, 4, 8}) all.push_back({direct, false, block_mib * kMiB, threads});
    }
  }
  return all;
}

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

class Fd {
 public:
  Fd(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail(path);
  }
  ~Fd() { ::close(fd_); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

struct File {
  std::string path;  ///< relative; empty: the root itself
  std::int64_t size;
};

std::vector<File> list_files(const fs::path& root) {
  if (fs::is_regular_file(root)) return {{"", static_cast<std::int64_t>(fs::file_size(root))}};
  std::vector<File> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    if (!entry.is_regular_file()) continue;
    files.push_back({fs::relative(entry.path(), root).string(), static_cast<std::int64_t>(entry.file_size())});
  }
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.path < b.path; });
  return files;
}

std::string path_of(const std::string& root, const File& file) {
  return file.path.empty() ? root : root + "/" + file.path;
}

std::int64_t total_bytes(const std::vector<File>& files) {
  std::int64_t bytes = 0;
  for (const File& file : files) bytes += file.size;
  return bytes;
}

/// A block of one file.
struct Piece {
  std::size_t file;
  std::int64_t offset, length;
};

std::vector<Piece> cut(const std::vector<File>& files, std::int64_t block_bytes) {
  std::vector<Piece> pieces;
  for (std::size_t f = 0; f < files.size(); ++f) {
    for (std::int64_t at = 0; at < files[f].size; at += block_bytes) {
      pieces.push_back({f, at, std::min(block_bytes, files[f].size - at)});
    }
  }
  return pieces;
}

/// The files of one side, opened by whoever comes first and closed by whoever does the last piece.
class Files {
 public:
  Files(const std::string& root, const std::vector<File>& files, const std::vector<Piece>& pieces)
      : root_(root), files_(files), open_(files.size()) {
    for (const Piece& piece : pieces) ++open_[piece.file].pieces_left;
  }

  struct Open {
    std::mutex mutex;
    std::unique_ptr<Fd> direct, buffered;
    std::int64_t pieces_left = 0;
  };

  void read(const Piece& piece, const Setting& setting, std::byte* buffer) {
    Open& open = open_[piece.file];
    {
      const std::lock_guard lock(open.mutex);
      if (!open.direct) {
        open.direct =
            std::make_unique<Fd>(path_of(root_, files_[piece.file]), O_RDONLY | (setting.direct ? O_DIRECT : 0));
      }
    }
    // Whole pages: the one with the end of the file comes back short.
    const std::int64_t wanted = setting.direct ? (piece.length + kPage - 1) / kPage * kPage : piece.length;
    for (std::int64_t done = 0; done < piece.length;) {
      const ssize_t n =
          ::pread(open.direct->get(), buffer + done, static_cast<std::size_t>(wanted - done), piece.offset + done);
      if (n == 0 || (n < 0 && errno != EINTR)) fail("read of " + files_[piece.file].path);
      done += std::max<ssize_t>(n, 0);
    }
    finish_piece(open, nullptr);
  }

  void write(const Piece& piece, const Setting& setting, const std::byte* buffer) {
    Open& open = open_[piece.file];
    {
      const std::lock_guard lock(open.mutex);
      if (!open.buffered) {
        const std::string path = path_of(root_, files_[piece.file]);
        open.buffered = std::make_unique<Fd>(path, O_WRONLY | O_CREAT | O_EXCL);
        if (setting.direct) {
          open.direct = std::make_unique<Fd>(path, O_WRONLY | O_DIRECT);
          if (::fallocate(open.buffered->get(), 0, 0, files_[piece.file].size) != 0 && errno != EOPNOTSUPP) fail(path);
        }
      }
    }
    const std::int64_t body = setting.direct ? piece.length / kPage * kPage : 0;
    write_all(open.direct.get(), buffer, body, piece.offset);
    write_all(open.buffered.get(), buffer + body, piece.length - body, piece.offset + body);
    finish_piece(open, &setting);
  }

 private:
  static void write_all(const Fd* fd, const std::byte* from, std::int64_t length, std::int64_t offset) {
    for (std::int64_t done = 0; done < length;) {
      const ssize_t n = ::pwrite(fd->get(), from + done, static_cast<std::size_t>(length - done), offset + done);
      if (n == 0 || (n < 0 && errno != EINTR)) fail("write");
      done += std::max<ssize_t>(n, 0);
    }
  }

  static void finish_piece(Open& open, const Setting* written_with) {
    {
      const std::lock_guard lock(open.mutex);
      if (--open.pieces_left > 0) return;
    }
    if (written_with != nullptr && written_with->sync_each && ::fdatasync(open.buffered->get()) != 0) fail("fdatasync");
    open.direct.reset();
    open.buffered.reset();
  }

  const std::string& root_;
  const std::vector<File>& files_;
  std::vector<Open> open_;
};

/// Memory for one thread, touched, in huge pages.
class Buffer {
 public:
  explicit Buffer(std::int64_t bytes) {
    const std::size_t size = (static_cast<std::size_t>(bytes) + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB);
    bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(2 * kMiB, size)));
    ::madvise(bytes_.get(), size, MADV_HUGEPAGE);
    for (std::size_t i = 0; i < size; i += 8) bytes_[i] = static_cast<std::byte>(i * 2654435761u >> 11);
  }
  std::byte* get() const { return bytes_.get(); }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte[], Free> bytes_;
};

struct Run {
  double seconds;
  bool whole;  ///< not broken off
};

/// Breaks off, without a sync, after `most_s`.
Run run_once(const std::string& src, const std::vector<File>& src_files, const std::string& dst,
             const std::vector<File>& dst_files, const Setting& setting, double most_s) {
  const std::vector<Piece> reads = cut(src_files, setting.block_bytes), writes = cut(dst_files, setting.block_bytes);
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  std::vector<Buffer> buffers;
  for (int t = 0; t < setting.threads; ++t) buffers.emplace_back(setting.block_bytes);
  std::set<std::string> folders{fs::path(dst).parent_path()};
  for (const File& file : dst_files) {
    for (fs::path at = fs::path(path_of(dst, file)).parent_path(); at.string().size() >= dst.size();
         at = at.parent_path()) {
      folders.insert(at.string());
    }
  }
  for (const std::string& folder : folders) fs::create_directories(folder);
  Files src_open(src, src_files, reads), dst_open(dst, dst_files, writes);
  std::atomic<std::size_t> next_read{0}, next_write{0};
  std::atomic<std::int64_t> read_bytes{0}, write_bytes{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&](std::byte* buffer) {
    try {
      const auto write_next = [&] {
        const std::size_t i = next_write++;
        if (i >= writes.size() || seconds() > most_s) return false;
        write_bytes += writes[i].length;
        dst_open.write(writes[i], setting, buffer);
        return true;
      };
      for (std::size_t i; (i = next_read++) < reads.size() && seconds() <= most_s;) {
        src_open.read(reads[i], setting, buffer);
        read_bytes += reads[i].length;
        while (write_bytes < read_bytes && write_next()) {
        }
      }
      while (write_next()) {
      }
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (const Buffer& buffer : buffers) threads.emplace_back(work, buffer.get());
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  if (seconds() > most_s) return {seconds(), false};
  if (!setting.sync_each && ::syncfs(Fd(*folders.begin(), O_RDONLY).get()) != 0) fail("syncfs");
  for (const std::string& folder : folders) {
    if (::fsync(Fd(folder, O_RDONLY).get()) != 0) fail(folder);
  }
  return {seconds(), true};
}

/// Makes the next run a cold one: nothing dirty, nothing of the source in memory.
void drop_caches(const std::string& src, const std::vector<File>& src_files) {
  ::sync();
  std::ofstream all("/proc/sys/vm/drop_caches");
  if (all << "3" << std::flush) return;
  for (const File& file : src_files) ::posix_fadvise(Fd(path_of(src, file), O_RDONLY).get(), 0, 0, POSIX_FADV_DONTNEED);
}

Json run(const std::string& src, const std::string& like, const std::string& dst, const std::string& setting_text) {
  const std::vector<File> src_files = list_files(src), dst_files = list_files(like);
  const Json bytes = {
      {"read_bytes", total_bytes(src_files)}, {"write_bytes", total_bytes(dst_files)}, {"files", dst_files.size()}};
  Json runs = Json::array();
  double best_s = std::numeric_limits<double>::infinity();
  Setting best{};
  const auto try_one = [&](const Setting& setting) {
    const Run run = run_once(src, src_files, dst, dst_files, setting, 1.5 * best_s);
    runs.push_back({{"setting", to_string(setting)}, {"seconds", run.seconds}, {"whole", run.whole}});
    if (run.whole && run.seconds < best_s) {
      best_s = run.seconds;
      best = setting;
    }
  };
  const auto try_cold = [&](const Setting& setting) {
    drop_caches(src, src_files);
    try_one(setting);
    fs::remove_all(dst);
  };
  if (!setting_text.empty()) {
    try_one(*parse_setting(setting_text));
  } else {
    for (const Setting& setting : all_settings()) try_cold(setting);
    try_cold({best.direct, true, best.block_bytes, best.threads});
  }
  Json result = {{"setting", to_string(best)}, {"seconds", best_s}};
  result.update(bytes);
  result["runs"] = runs;
  return result;
}

}  // namespace
}  // namespace reshard::bench

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const bool one = args.size() == 5 && args[3] == "--setting" && reshard::bench::parse_setting(args[4]);
  if (args.size() != 3 && !one) {
    fmt::print(stderr, "usage: {} SRC LIKE DST [--setting direct|buffered,each|all,BLOCK_MIB,THREADS]\n", argv[0]);
    return 2;
  }
  const auto absolute = [](const std::string& path) { return std::filesystem::absolute(path).string(); };
  try {
    fmt::print("{}\n",
               reshard::bench::run(absolute(args[0]), absolute(args[1]), absolute(args[2]), one ? args[4] : "").dump());
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", argv[0], error.what());
    return 4;
  }
}
