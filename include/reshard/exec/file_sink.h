// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "reshard/exec/executor.h"

namespace reshard::exec {

/// Takes everything and keeps nothing.
class NullSink : public Sink {
 public:
  Status consume(const plan::Round&, std::size_t, std::span<const std::byte>, std::span<const std::uint64_t>) override {
    return {};
  }
  Status finish() override { return {}; }
};

/// A span of a target file whose bytes are durable, and what its values added to the digests of their lines.
struct DurableSpan {
  struct LineDigest {
    std::int64_t line;
    std::uint64_t digest;
  };
  /// What the span holds of an extent whose CRC-32 is wanted.
  struct ExtentCrc {
    Index extent;  ///< of File::checked
    Index length;  ///< bytes
    std::uint32_t crc;
  };
  std::uint32_t file = 0;
  Index span = 0;
  std::vector<LineDigest> lines;  ///< by line
  std::vector<ExtentCrc> crcs;    ///< rising
};

/// Writes what rounds produce into the files of the target, from any number of threads; keeps a bounded number of them
/// open.
class FileSink : public Sink {
 public:
  /// A file of the plan's targets.
  struct File {
    std::string path;  ///< where to write it; folders are made
    Index size = 0;
    std::vector<Index> spans;  ///< those that this rank writes, rising; only if `durable` is set
    struct Extent {
      Index begin, end;  ///< bytes
    };
    std::vector<Extent> checked = {};  ///< whose CRCs are wanted: rising, disjoint
  };
  struct Options {
    io::Mode mode;
    int max_open_files = 64;
    Index span_bytes = 16 * kMiB;
    /// Bytes of finished spans that a crash may cost. Writers wait for the store where they come near it.
    Index most_undurable_bytes = 256 * kMiB;
    /// Told of spans in batches, once their bytes are synced; one call at a time. May be empty: then nothing is synced
    /// before a file is closed.
    std::function<Status(const std::vector<DurableSpan>&)> durable;
  };

  FileSink(std::vector<File> files, Options options);
  ~FileSink() override;

  /// Errors (failed): opening, writing or syncing a file; whatever `durable` returns. Local, thread-safe.
  Status consume(const plan::Round& round, std::size_t write, std::span<const std::byte> output,
                 std::span<const std::uint64_t> digests) override;
  /// Syncs every file. Errors (failed): as consume; a span that never got all its bytes. Local.
  Status finish() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reshard::exec
