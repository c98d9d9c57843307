// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "reshard/exec/executor.h"
#include "reshard/job/journal.h"

namespace reshard::exec {

/// Takes everything and keeps nothing.
class NullSink : public Sink {
 public:
  Status consume(const plan::Round&, std::size_t, std::span<const std::byte>, std::span<const std::uint64_t>) override {
    return {};
  }
  Status finish() override { return {}; }
};

/// Writes what rounds produce into the files of the target, from any number of threads; keeps a bounded number of them
/// open.
class FileSink : public Sink {
 public:
  /// A file of the plan's targets.
  struct File {
    std::string path;  ///< where to write it
    Index size = 0;
    std::vector<Index> spans;  ///< those that this rank writes, rising; only if `durable` is set
    struct Extent {
      Index begin, end;  ///< bytes
    };
    std::vector<Extent> checked = {};  ///< whose CRCs are wanted: rising, disjoint
  };
  struct Options {
    io::Mode mode;
    std::string root = {};  ///< that all files lie below; their folders are made in it
    int max_open_files = 128;
    Index span_bytes = 16 * kMiB;
    /// Bytes of finished spans that a crash may cost. Writers wait for the store where they come near it.
    Index most_undurable_bytes = 256 * kMiB;
    /// Told of spans (their digests and the CRCs of what they hold of File::checked) in batches, once their bytes are
    /// synced; one call at a time. May be empty: then nothing is synced before a file is closed.
    std::function<Status(const std::vector<job::SpanRecord>&)> durable;
  };

  FileSink(std::vector<File> files, Options options);
  ~FileSink() override;

  /// Errors (failed): opening, writing or syncing a file; whatever `durable` returns. Local, thread-safe.
  Status consume(const plan::Round& round, std::size_t write, std::span<const std::byte> output,
                 std::span<const std::uint64_t> digests) override;
  /// Syncs every file. Errors (failed): as consume; a span that never got all its bytes. Local.
  Status finish() override;
  /// Makes durable what spans are whole, after a stream that was broken off. Errors (failed): as consume. Local.
  Status flush();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reshard::exec
