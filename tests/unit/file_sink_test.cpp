// SPDX-License-Identifier: Apache-2.0
#include "reshard/exec/file_sink.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "tests/support/files.h"
#include "tests/support/says.h"
#include "tests/support/streams.h"

namespace reshard {
namespace {

using exec::FileSink;
using job::SpanRecord;
using test::Bytes;

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// A round that writes `bytes` from the start of the slot to one place, with one digest per copy at the given slot
// bytes.
plan::Round one_write(std::uint32_t file, Index offset, Index length,
                      const std::vector<std::pair<Index, std::int64_t>>& copies) {
  plan::Round round;
  round.writes = {{file, offset, length, 0}};
  for (const auto& [at, line] : copies) {
    round.place.push_back({.src_slot = plan::Slot::source,
                           .dst_slot = plan::Slot::output,
                           .src_dtype = DType::u8,
                           .dst_dtype = DType::u8,
                           .src_byte = 0,
                           .dst_byte = at,
                           .line = line,
                           .write = 0,
                           .strided = {}});
  }
  return round;
}

TEST(FileSink, WritesAWholeJobFromManyThreadsWithTwoFilesOpen) {
  std::mt19937_64 random(3);
  for (int ranks : {1, 3}) {
    test::JobShape shape;
    shape.ranks = ranks;
    shape.exchange = true;
    shape.rounds = 40;
    const test::Job job = test::random_job(random, shape);
    const test::JobResult expected = test::naive_execute(job);
    const test::TemporaryFolder folder;
    comm::run_virtual_ranks(ranks, [&](comm::Comm& comm) {
      std::vector<FileSink::File> files;
      for (std::size_t f = 0; f < job.target_sizes.size(); ++f) {
        files.push_back({folder.path("out/file-" + std::to_string(f)), job.target_sizes[f], {}});
      }
      FileSink sink(files, {.mode = {}, .root = folder.path(""), .max_open_files = 2, .durable = {}});
      test::MemorySources sources(job.sources);
      const auto outcome = exec::execute(job.ranks[static_cast<std::size_t>(comm.rank())], sources, sink, comm, {});
      ASSERT_TRUE(outcome) << outcome.error().message;
    });
    for (std::size_t f = 0; f < expected.targets.size(); ++f) {
      EXPECT_TRUE(read_file(folder.path("out/file-" + std::to_string(f))) == expected.targets[f]) << f;
    }
  }
}

TEST(FileSink, ReportsSpansOnceTheirBytesAreThereWithTheirDigests) {
  const test::TemporaryFolder folder;
  std::vector<SpanRecord> reported;
  FileSink::Options options;
  options.span_bytes = 100;
  options.most_undurable_bytes = 300;
  options.durable = [&](const std::vector<SpanRecord>& spans) -> Status {
    reported.insert(reported.end(), spans.begin(), spans.end());
    return {};
  };
  // Another rank writes span 1 of file 0.
  FileSink sink({{folder.path("a"), 250, {0, 2}}, {folder.path("b"), 120, {0, 1}}}, options);
  const Bytes slot(300, std::byte{7});
  const auto consume = [&](const plan::Round& round, const std::vector<std::uint64_t>& digests) {
    ASSERT_TRUE(sink.consume(round, 0, slot, digests));
  };
  consume(one_write(0, 0, 60, {{0, 5}, {30, 6}}), {10, 20});
  EXPECT_TRUE(reported.empty());
  consume(one_write(0, 60, 40, {{0, 5}, {10, plan::kNoLine}}), {1, 99});
  EXPECT_TRUE(reported.empty());  // finished, but the batch is not full
  consume(one_write(1, 0, 120, {{0, 8}, {100, 8}, {110, 9}}), {3, 4, 5});
  ASSERT_EQ(reported.size(), 3u);
  EXPECT_EQ(reported[0].file, 0u);
  EXPECT_EQ(reported[0].span, 0);
  ASSERT_EQ(reported[0].lines.size(), 2u);
  EXPECT_EQ(reported[0].lines[0].line, 5);
  EXPECT_EQ(reported[0].lines[0].digest, 11u);
  EXPECT_EQ(reported[0].lines[1].digest, 20u);
  // One write over two spans: each copy counts in its own.
  EXPECT_EQ(reported[1].span, 0);
  ASSERT_EQ(reported[1].lines.size(), 1u);
  EXPECT_EQ(reported[1].lines[0].digest, 3u);
  EXPECT_EQ(reported[2].span, 1);
  ASSERT_EQ(reported[2].lines.size(), 2u);
  EXPECT_EQ(reported[2].lines[0].digest, 4u);
  consume(one_write(0, 200, 50, {}), {});
  ASSERT_TRUE(sink.finish());
  ASSERT_EQ(reported.size(), 4u);
  EXPECT_EQ(reported[3].span, 2);
}

TEST(FileSink, SaysWhenASpanDidNotGetAllItsBytes) {
  const test::TemporaryFolder folder;
  FileSink::Options options;
  options.span_bytes = 100;
  options.durable = [](const std::vector<SpanRecord>&) { return Status(); };
  FileSink sink({{folder.path("a"), 150, {0, 1}}}, options);
  const Bytes slot(300);
  ASSERT_TRUE(sink.consume(one_write(0, 0, 120, {}), 0, slot, {}));
  const Status status = sink.finish();
  ASSERT_FALSE(status);
  EXPECT_SAYS(status.error().message, "1 spans of the output did not get all their bytes");
}

TEST(FileSink, KeepsFewBytesUndurableUnderManyWriters) {
  const test::TemporaryFolder folder;
  constexpr Index kSpan = 1000;
  constexpr Index kSpans = 64;
  std::atomic<Index> reported = 0, begun = 0;
  std::atomic<bool> inside = false;
  FileSink::Options options;
  options.span_bytes = kSpan;
  options.most_undurable_bytes = 8 * kSpan;
  options.durable = [&](const std::vector<SpanRecord>& spans) -> Status {
    EXPECT_FALSE(inside.exchange(true));  // one call at a time
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    reported += std::ssize(spans);
    inside = false;
    return {};
  };
  std::vector<FileSink::File> files;
  for (Index f = 0; f < kSpans; ++f) files.push_back({folder.path(std::to_string(f)), kSpan, {0}});
  options.max_open_files = 3;
  FileSink sink(files, options);
  const Bytes slot(kSpan);
  constexpr int kWriters = 4;
  {
    std::vector<std::jthread> writers;
    for (int w = 0; w < kWriters; ++w) {
      writers.emplace_back([&] {
        for (Index f; (f = begun++) < kSpans;) {
          EXPECT_TRUE(sink.consume(one_write(static_cast<std::uint32_t>(f), 0, kSpan, {}), 0, slot, {}));
          // Those under way come on top of what may be undurable.
          EXPECT_LE(std::min(begun.load(), kSpans) - reported, 8 + 2 * kWriters);
        }
      });
    }
  }
  ASSERT_TRUE(sink.finish());
  EXPECT_EQ(reported, kSpans);
}

TEST(FileSink, MakesFoldersBelowItsRootAlone) {
  const test::TemporaryFolder folder;
  const Bytes slot(100);
  std::filesystem::create_directory(folder.path("root"));
  const FileSink::File file{folder.path("root/a/b/file"), 100, {}};
  FileSink sink({file}, {.mode = {}, .root = folder.path("root"), .durable = {}});
  ASSERT_TRUE(sink.consume(one_write(0, 0, 100, {}), 0, slot, {}));
  ASSERT_TRUE(sink.finish());
  // What others have renamed meanwhile does not come back.
  std::filesystem::rename(folder.path("root"), folder.path("done"));
  FileSink late({file}, {.mode = {}, .root = folder.path("root"), .durable = {}});
  EXPECT_FALSE(late.consume(one_write(0, 0, 100, {}), 0, slot, {}));
  EXPECT_FALSE(std::filesystem::exists(folder.path("root")));
}

TEST(FileSink, PassesErrorsOn) {
  const test::TemporaryFolder folder;
  test::put_file(folder.path("file"), "");
  const Bytes slot(100);
  {
    FileSink sink({{folder.path("file/a"), 100, {}}}, {.mode = {}, .durable = {}});
    EXPECT_FALSE(sink.consume(one_write(0, 0, 100, {}), 0, slot, {}));
  }
  FileSink::Options options;
  options.span_bytes = 100;
  options.durable = [](const std::vector<SpanRecord>&) { return Status(run_error("journal full")); };
  FileSink sink({{folder.path("a"), 100, {0}}}, options);
  ASSERT_TRUE(sink.consume(one_write(0, 0, 100, {}), 0, slot, {}));
  const Status status = sink.finish();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "journal full");
}

}  // namespace
}  // namespace reshard
