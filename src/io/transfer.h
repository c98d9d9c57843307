// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "reshard/base/index.h"

namespace reshard::io {

enum class Direction { read, write };

/// What came of a transfer: all of it if `error` is 0 and `done` is the whole length; the end of the file if only
/// `error` is 0.
struct Transfer {
  std::size_t done = 0;
  int error = 0;  ///< errno
};

/// pread or pwrite until all is moved, interrupted and short calls repeated. Every byte that the program moves to or
/// from files passes here: throttle and injected faults are applied in this place only. Local, thread-safe.
Transfer transfer(Direction direction, int fd, std::byte* data, std::size_t length, Index offset);

/// fdatasync, repeated if interrupted: 0 or errno. Local, thread-safe.
int sync_data(int fd);

/// The aligned body of a range, as three lengths: head + body + tail.
struct Split {
  std::size_t head = 0, body = 0, tail = 0;
};

/// Cuts a range for direct transfer; the body is 0 where address and offset do not match or it is not worth it.
Split split_for_direct(const std::byte* data, std::size_t length, Index offset);

/// Reads a range so split by one call: its body in place, the pages of head and tail by way of a buffer. False if that
/// did not bring all of it (the end of the file, a store that does not take it, injected faults): the other ways tell
/// what is wrong. Local, thread-safe.
bool read_pages(int direct_fd, const Split& split, std::byte* data, Index offset);

/// "No space left on device".
std::string describe_errno(int error);

/// A file descriptor that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd& operator=(Fd&& other) noexcept;
  ~Fd();
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// open(2) with O_CLOEXEC, repeated where interrupted; -1 and errno on failure.
Fd open_fd(const std::string& path, int flags, unsigned mode = 0666);

}  // namespace reshard::io
