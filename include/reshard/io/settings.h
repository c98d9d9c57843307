// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::io {

/// Environment variables of the I/O layer, read at first use. None changes a byte of any output.
///
///   RESHARD_IO           auto | direct | buffered. Default auto: what probe_source and probe_target find.
///   RESHARD_IO_THROTTLE  READ,WRITE: bytes per second for the whole job on this machine, as "200MB,200MB"; 0: no
///   limit. Each
///                        process takes an equal share of it (its number of local ranks is OMPI_COMM_WORLD_LOCAL_SIZE,
///                        or 1). Default: no limit. For measuring how well the stages overlap.
///   RESHARD_IO_FAULT     read:WHAT@BYTES, write:WHAT@BYTES or sync:WHAT@BYTES: once this process has moved BYTES bytes
///                        that way (sync: has written them), each further system call fails with WHAT: EIO ENOSPC
///                        EDQUOT; with EINTR every second call is interrupted; with SHORT each call moves at most 4096
///                        bytes. Default: none. For tests.
///   RESHARD_IO_KILL      POINT@N: the process kills itself when it passes the point of that name for the Nth time.
///                        Default: none. For tests; the points are the calls of pass().
struct Settings {
  enum class Io { automatic, direct, buffered };
  Io io = Io::automatic;

  /// Share of this process; 0: no limit.
  Index read_bytes_per_s = 0;
  Index write_bytes_per_s = 0;

  struct Fault {
    enum class Kind { none, fail, interrupt, shorten };
    Kind kind = Kind::none;
    bool on_write = false;
    int error = 0;  ///< errno, for `fail`
    Index after_bytes = 0;
    bool on_sync = false;  ///< of bytes written before
  };
  Fault fault;

  struct Kill {
    std::string point;  ///< empty: never
    Index pass = 1;     ///< at which time
  };
  Kill kill;
};

/// Settings from the values of the variables ("": not set) and the number of local ranks. Errors (usage): naming the
/// variable. Pure.
Expected<Settings> parse_settings(const std::string& io, const std::string& throttle, const std::string& fault,
                                  const std::string& kill, Index num_local_ranks);

/// What the environment says, read once. Every io function that opens a file returns its error. Local, thread-safe.
const Expected<Settings>& settings();

/// A point at which a test may have this process killed. Local, thread-safe.
void pass(std::string_view point);

/// Replaces the settings and resets throttle and byte counts. For tests; no transfer may be under way.
void set_settings(const Settings& settings);

}  // namespace reshard::io
