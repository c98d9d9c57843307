// SPDX-License-Identifier: Apache-2.0
#include "transfer.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>

#include "reshard/io/file.h"
#include "settings_state.h"

namespace reshard::io {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxCall = std::size_t{1} << 30;  // the kernel stops just below 2 GiB; keep pages whole
constexpr std::size_t kMinDirect = 64 * 1024;           // below, one buffered call is cheaper than two kinds
constexpr std::size_t kShortCall = 4096;

/// A token bucket without savings: transfers queue one behind the other at the rate, an idle store earns nothing.
class Throttle {
 public:
  void set_rate(Index bytes_per_s) {
    rate_ = bytes_per_s;
    free_at_ns_ = 0;
  }
  bool is_on() const { return rate_ > 0; }
  /// When a transfer of `bytes` that starts now may end.
  Clock::time_point reserve(std::size_t bytes) {
    const std::int64_t now = Clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
    const auto cost = static_cast<std::int64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(rate_));
    std::int64_t free_at = free_at_ns_.load(), end = 0;
    do {
      end = std::max(now, free_at) + cost;
    } while (!free_at_ns_.compare_exchange_weak(free_at, end));
    return Clock::time_point(std::chrono::nanoseconds(end));
  }

 private:
  Index rate_ = 0;
  std::atomic<std::int64_t> free_at_ns_{0};
};

/// Throttle, fault and count of one direction.
struct Way {
  Throttle throttle;
  Settings::Fault fault;
  std::atomic<Index> moved{0};
  std::atomic<bool> was_interrupted{false};
};

Way& way(Direction direction) {
  static Way ways[2];
  return ways[direction == Direction::write ? 1 : 0];
}

Settings::Fault sync_fault;

/// One system call, as the injected fault lets it be.
ssize_t call(Direction direction, Way& way, int fd, std::byte* data, std::size_t length, Index offset) {
  using Kind = Settings::Fault::Kind;
  length = std::min(length, kMaxCall);
  if (way.fault.kind != Kind::none) {
    const Index left = way.fault.after_bytes - way.moved.load();
    if (left > 0) {
      length = std::min(length, static_cast<std::size_t>(left));
    } else if (way.fault.kind == Kind::fail ||
               (way.fault.kind == Kind::interrupt && !way.was_interrupted.exchange(true))) {
      errno = way.fault.kind == Kind::fail ? way.fault.error : EINTR;
      return -1;
    } else if (way.fault.kind == Kind::shorten) {
      length = std::min(length, kShortCall);
    }
    way.was_interrupted = false;
  }
  const ssize_t n =
      direction == Direction::read ? ::pread(fd, data, length, offset) : ::pwrite(fd, data, length, offset);
  if (n > 0) way.moved += n;
  return n;
}

}  // namespace

int sync_data(int fd) {
  const bool fails = sync_fault.on_sync && way(Direction::write).moved >= sync_fault.after_bytes;
  if (fails) return sync_fault.error;
  while (::fdatasync(fd) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

void apply(const Settings& settings) {
  sync_fault = settings.fault;
  for (Direction direction : {Direction::read, Direction::write}) {
    const bool writes = direction == Direction::write;
    Way& w = way(direction);
    w.throttle.set_rate(writes ? settings.write_bytes_per_s : settings.read_bytes_per_s);
    w.fault = settings.fault.on_write == writes && !settings.fault.on_sync ? settings.fault : Settings::Fault{};
    w.moved = 0;
    w.was_interrupted = false;
  }
}

Transfer transfer(Direction direction, int fd, std::byte* data, std::size_t length, Index offset) {
  Way& w = way(direction);
  const bool throttled = w.throttle.is_on();
  const auto end = throttled ? w.throttle.reserve(length) : Clock::time_point();
  Transfer result;
  while (result.done < length) {
    const ssize_t n =
        call(direction, w, fd, data + result.done, length - result.done, offset + static_cast<Index>(result.done));
    if (n > 0) {
      result.done += static_cast<std::size_t>(n);
    } else if (n == 0) {
      // pwrite of some bytes never moves none, but a driver that does so must not make us spin.
      if (direction == Direction::write) result.error = EIO;
      break;
    } else if (errno != EINTR) {
      result.error = errno;
      break;
    }
  }
  if (throttled) std::this_thread::sleep_until(end);
  return result;
}

Split split_for_direct(const std::byte* data, std::size_t length, Index offset) {
  constexpr auto kMask = static_cast<std::uintptr_t>(kPage - 1);
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const auto position = static_cast<std::uintptr_t>(offset);
  const Split buffered{length, 0, 0};
  if (((address ^ position) & kMask) != 0) return buffered;
  const std::size_t head = (0 - position) & kMask;
  if (head > length) return buffered;
  const std::size_t body = (length - head) & ~kMask;
  if (body < kMinDirect) return buffered;
  return {head, body, length - head - body};
}

bool read_pages(int direct_fd, const Split& split, std::byte* data, Index offset) {
  Way& w = way(Direction::read);
  if (w.fault.kind != Settings::Fault::Kind::none) return false;
  const std::size_t length = split.head + split.body + split.tail;
  const auto page = static_cast<std::size_t>(kPage);
  const auto end = w.throttle.is_on() ? w.throttle.reserve(length) : Clock::time_point();
  alignas(kPage) std::byte head[kPage], tail[kPage];
  iovec parts[3];
  int count = 0;
  if (split.head > 0) parts[count++] = {head, page};
  parts[count++] = {data + split.head, split.body};
  if (split.tail > 0) parts[count++] = {tail, page};
  const std::size_t before = split.head > 0 ? page - split.head : 0;  // bytes of the first page that nobody wants
  const ssize_t n = ::preadv(direct_fd, parts, count, offset - static_cast<Index>(before));
  if (n < static_cast<ssize_t>(before + length)) return false;
  std::memcpy(data, head + before, split.head);
  std::memcpy(data + split.head + split.body, tail, split.tail);
  w.moved += static_cast<Index>(length);
  if (w.throttle.is_on()) std::this_thread::sleep_until(end);
  return true;
}

std::string describe_errno(int error) { return std::generic_category().message(error); }

Fd& Fd::operator=(Fd&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

Fd open_fd(const std::string& path, int flags, unsigned mode) {
  for (;;) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    if (fd >= 0 || errno != EINTR) return Fd(fd);
  }
}

}  // namespace reshard::io
