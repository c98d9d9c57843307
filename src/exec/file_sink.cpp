// SPDX-License-Identifier: Apache-2.0
#include "reshard/exec/file_sink.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "open_files.h"
#include "reshard/base/crc32.h"
#include "reshard/io/settings.h"

namespace reshard::exec {

struct FileSink::State {
  State(std::vector<File> files_, Options options_)
      : files(std::move(files_)),
        options(std::move(options_)),
        open(static_cast<std::size_t>(std::max(1, options.max_open_files)),
             [this](std::uint32_t file) { return open_file(files[file]); }) {
    for (const File& file : files) spans_left += file.spans.size();
  }

  Expected<std::unique_ptr<io::Target>> open_file(const File& file) const {
    if (!options.root.empty()) RESHARD_CHECK(io::make_folders(options.root, file.path));
    return io::open_target(file.path, file.size, options.mode);
  }

  // A run of bytes of a checked extent, inside one span.
  struct Part {
    Index position, length, extent;
    std::uint32_t crc;
  };

  // A span of which some bytes are written.
  struct Partial {
    Index missing;
    std::map<std::int64_t, std::uint64_t> lines;
    std::map<Index, Part> parts;  // of checked extents, by position
  };

  Status account(const plan::Round& round, std::size_t write, std::span<const std::byte> bytes,
                 std::span<const std::uint64_t> digests);
  std::vector<Part> checked_parts(const plan::Write& write, std::span<const std::byte> bytes) const;
  Status make_durable(std::unique_lock<std::mutex>& lock);

  const std::vector<File> files;
  const Options options;
  OpenFiles open;

  std::mutex mutex;
  std::condition_variable synced;
  std::map<std::pair<std::uint32_t, Index>, Partial> partial;
  std::vector<job::SpanRecord> finished;  // not durable yet
  Index finished_bytes = 0;               // of these
  Index syncing_bytes = 0;                // of those that a thread is making durable
  bool syncing = false;
  std::size_t spans_left = 0;
};

FileSink::FileSink(std::vector<File> files, Options options)
    : state_(std::make_unique<State>(std::move(files), std::move(options))) {}

FileSink::~FileSink() = default;

Status FileSink::consume(const plan::Round& round, std::size_t write, std::span<const std::byte> output,
                         std::span<const std::uint64_t> digests) {
  const plan::Write& w = round.writes[write];
  const auto bytes = output.subspan(static_cast<std::size_t>(w.slot_offset), static_cast<std::size_t>(w.length));
  if (state_->options.durable) {
    // Writers that run ahead of the store wait here.
    std::unique_lock lock(state_->mutex);
    state_->synced.wait(lock, [&] {
      return !state_->syncing || state_->finished_bytes + state_->syncing_bytes < state_->options.most_undurable_bytes;
    });
  }
  {
    RESHARD_TRY(const std::shared_ptr<io::Target> target, state_->open.get(w.file));
    RESHARD_CHECK(target->write_at(bytes, w.offset));
    io::pass("written");
  }
  return state_->options.durable ? state_->account(round, write, bytes, digests) : Status();
}

// CRCs of what a write brought of checked extents, cut at the ends of spans.
std::vector<FileSink::State::Part> FileSink::State::checked_parts(const plan::Write& write,
                                                                  std::span<const std::byte> bytes) const {
  const auto& checked = files[write.file].checked;
  std::vector<Part> parts;
  const Index end = write.offset + write.length;
  auto extent = std::partition_point(checked.begin(), checked.end(),
                                     [&](const File::Extent& e) { return e.end <= write.offset; });
  for (; extent != checked.end() && extent->begin < end; ++extent) {
    Index at = std::max(write.offset, extent->begin);
    while (at < std::min(end, extent->end)) {
      const Index span_end = (at / options.span_bytes + 1) * options.span_bytes;
      const Index length = std::min({end, extent->end, span_end}) - at;
      const auto part = bytes.subspan(static_cast<std::size_t>(at - write.offset), static_cast<std::size_t>(length));
      parts.push_back({at, length, extent - checked.begin(), crc32(0, part)});
      at += length;
    }
  }
  return parts;
}

// Books what a write brought; whoever fills up a batch makes it durable.
Status FileSink::State::account(const plan::Round& round, std::size_t write, std::span<const std::byte> bytes,
                                std::span<const std::uint64_t> digests) {
  const plan::Write& w = round.writes[write];
  const Index span_bytes = options.span_bytes;
  const Index size = files[w.file].size;
  const auto at = [&](Index span) -> Partial& {
    const Index length = std::min(span_bytes, size - span * span_bytes);
    return partial.try_emplace({w.file, span}, Partial{length, {}, {}}).first->second;
  };
  const std::vector<Part> parts = checked_parts(w, bytes);
  std::unique_lock lock(mutex);
  for (const Part& part : parts) at(part.position / span_bytes).parts.emplace(part.position, part);
  // No copy reaches over the end of a span.
  for (std::size_t i = 0; i < round.place.size(); ++i) {
    const plan::Copy& copy = round.place[i];
    if (copy.write != write || copy.line == plan::kNoLine) continue;
    at((w.offset + copy.dst_byte - w.slot_offset) / span_bytes).lines[copy.line] += digests[i];
  }
  const Index end = w.offset + w.length;
  for (Index span = w.offset / span_bytes; span * span_bytes < end; ++span) {
    const Index begin = std::max(w.offset, span * span_bytes);
    Partial& part = at(span);
    part.missing -= std::min(end, (span + 1) * span_bytes) - begin;
    if (part.missing > 0) continue;
    job::SpanRecord done{w.file, static_cast<std::uint32_t>(span), {}, {}};
    for (const auto& [line, digest] : part.lines) done.lines.push_back({line, digest});
    for (const auto& [position, run] : part.parts) {
      if (done.crcs.empty() || done.crcs.back().extent != run.extent) {
        done.crcs.push_back({run.extent, run.length, run.crc});
      } else {
        job::SpanRecord::ExtentCrc& joined = done.crcs.back();
        joined = {run.extent, joined.length + run.length, crc32_join(joined.crc, run.crc, run.length)};
      }
    }
    finished.push_back(std::move(done));
    finished_bytes += std::min(span_bytes, size - span * span_bytes);
    partial.erase({w.file, span});
    --spans_left;
  }
  if (syncing || finished_bytes < options.most_undurable_bytes / 2) return {};
  return make_durable(lock);
}

Status FileSink::State::make_durable(std::unique_lock<std::mutex>& lock) {
  const std::vector<job::SpanRecord> batch = std::exchange(finished, {});
  syncing_bytes = std::exchange(finished_bytes, 0);
  syncing = true;
  lock.unlock();
  std::set<std::uint32_t> touched;
  for (const job::SpanRecord& span : batch) touched.insert(span.file);
  Status status = open.sync(touched);
  io::pass("synced");
  if (status) status = options.durable(batch);
  lock.lock();
  syncing = false;
  syncing_bytes = 0;
  synced.notify_all();
  return status;
}

Status FileSink::flush() {
  std::unique_lock lock(state_->mutex);
  state_->synced.wait(lock, [&] { return !state_->syncing; });
  return state_->finished.empty() ? Status() : state_->make_durable(lock);
}

Status FileSink::finish() {
  RESHARD_CHECK(state_->open.close_all());
  if (!state_->options.durable) return {};
  std::unique_lock lock(state_->mutex);
  if (!state_->finished.empty()) RESHARD_CHECK(state_->make_durable(lock));
  if (state_->spans_left == 0) return {};
  return run_error(fmt::format(
      "{} spans of the output did not get all their bytes: the plan is wrong, please report it", state_->spans_left));
}

}  // namespace reshard::exec
