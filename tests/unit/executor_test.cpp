// SPDX-License-Identifier: Apache-2.0
#include "reshard/exec/executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "tests/support/says.h"
#include "tests/support/seed.h"
#include "tests/support/streams.h"

namespace reshard {
namespace {

using test::Bytes;
using test::Job;

std::vector<Bytes> make_targets(const Job& job) {
  std::vector<Bytes> targets;
  for (const Index size : job.target_sizes) targets.emplace_back(static_cast<std::size_t>(size), std::byte{0xEE});
  return targets;
}

// Executes a job on virtual ranks; gives every rank its own sources and sink over shared bytes.
struct Ran {
  std::vector<Bytes> targets;
  std::vector<Expected<exec::Outcome>> outcomes;
  int finished_sinks = 0;
};
struct Hooks {
  std::function<Status(int rank, std::uint32_t file)> before_read;
  std::function<Status(int rank, const plan::Write&)> before_write;
  std::function<Status(int rank)> finish;
};

Ran run(const Job& job, const exec::Options& options, const Hooks& hooks = {}) {
  Ran result;
  result.targets = make_targets(job);
  const int ranks = static_cast<int>(job.ranks.size());
  result.outcomes.assign(job.ranks.size(), Error{});
  std::atomic<int> finished = 0;
  comm::run_virtual_ranks(ranks, [&](comm::Comm& comm) {
    const int rank = comm.rank();
    test::MemorySources sources(job.sources);
    test::MemorySink sink(result.targets);
    if (hooks.before_read) sources.before = [&](std::uint32_t file) { return hooks.before_read(rank, file); };
    if (hooks.before_write) sink.before = [&](const plan::Write& write) { return hooks.before_write(rank, write); };
    if (hooks.finish) sink.finish_status = hooks.finish(rank);
    const auto r = static_cast<std::size_t>(rank);
    result.outcomes[r] = exec::execute(job.ranks[r], sources, sink, comm, options);
    finished += sink.finished;
  });
  result.finished_sinks = finished;
  return result;
}

exec::Options random_options(std::mt19937_64& random) {
  exec::Options options;
  options.io_threads = 1 + static_cast<int>(random() % 4);
  options.repack_threads = 1 + static_cast<int>(random() % 3);
  options.io_block_bytes = random() % 2 ? 4096 : 8 * kMiB;
  return options;
}

TEST(Executor, RandomJobsEqualTheNaiveExecution) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  for (int trial = 0; trial < 60; ++trial) {
    test::JobShape shape;
    shape.ranks = 1 + trial % 5;
    shape.exchange = trial % 2 == 0 || trial % 3 == 0;
    shape.depth = 1 + static_cast<int>(random() % 4);
    shape.rounds = static_cast<Index>(random() % 40);
    SCOPED_TRACE("trial " + std::to_string(trial));
    const Job job = test::random_job(random, shape);
    const test::JobResult expected = test::naive_execute(job);
    const Ran got = run(job, random_options(random));
    EXPECT_EQ(got.finished_sinks, shape.ranks);
    std::vector<std::uint64_t> digests(expected.digests.size(), 0);
    for (std::size_t rank = 0; rank < got.outcomes.size(); ++rank) {
      ASSERT_TRUE(got.outcomes[rank]) << got.outcomes[rank].error().message;
      EXPECT_EQ(got.outcomes[rank]->totals, job.ranks[rank].totals()) << "rank " << rank;
      for (std::size_t i = 0; i < digests.size(); ++i) digests[i] += got.outcomes[rank]->digests[i];
    }
    EXPECT_EQ(digests, expected.digests);
    ASSERT_TRUE(got.targets == expected.targets);
  }
}

TEST(Executor, CutsLargeCopiesForSeveralThreads) {
  // One copy of 12 MiB and its cast, repacked by three threads.
  const Index n = 6 * kMiB;
  Job job;
  job.sources.emplace_back(static_cast<std::size_t>(2 * n));
  std::mt19937_64 random(1);
  for (std::byte& b : job.sources[0]) b = static_cast<std::byte>(random());
  job.target_sizes = {2 * n, 4 * n};
  job.ranks.resize(1);
  test::FakeSchedule& schedule = job.ranks[0];
  schedule.lines = 2;
  schedule.slots[0] = 2 * n;
  schedule.slots[3] = 6 * n;
  plan::Round round;
  round.reads = {{0, 0, 2 * n, 0}};
  plan::Copy copy{.src_slot = plan::Slot::source,
                  .dst_slot = plan::Slot::output,
                  .src_dtype = DType::bf16,
                  .dst_dtype = DType::bf16,
                  .src_byte = 0,
                  .dst_byte = 0,
                  .line = 0,
                  .write = 0,
                  .strided = {}};
  copy.strided.rank = 2;
  copy.strided.loops[0] = {n / 1024, 1024, 1024, 1024};
  copy.strided.loops[1] = {1024, 1, 1, 1};
  plan::Copy cast = copy;
  cast.dst_dtype = DType::f32;
  cast.dst_byte = 2 * n;
  cast.line = cast.write = 1;
  round.place = {copy, cast};
  round.writes = {{0, 0, 2 * n, 0}, {1, 0, 4 * n, 2 * n}};
  schedule.rounds = {round};
  exec::Options options;
  options.repack_threads = 3;
  const Ran got = run(job, options);
  const test::JobResult expected = test::naive_execute(job);
  ASSERT_TRUE(got.outcomes[0]);
  EXPECT_EQ(got.outcomes[0]->digests, expected.digests);
  EXPECT_TRUE(got.targets == expected.targets);
}

// --- failures -------------------------------------------------------------------------------------------------------

void expect_all_fail(const Ran& got, const std::string& message, Code code) {
  for (const auto& outcome : got.outcomes) {
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().message, message);
    EXPECT_EQ(outcome.error().code, code);
  }
}

TEST(Executor, AFailureAnywhereStopsAllRanksWithOneError) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  for (int trial = 0; trial < 60; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    test::JobShape shape;
    shape.ranks = 1 + trial % 5;
    shape.exchange = trial % 2 == 0;
    shape.depth = 2 + trial % 3;
    shape.rounds = 60;
    const Job job = test::random_job(random, shape);
    const int failing = static_cast<int>(random() % static_cast<std::uint64_t>(shape.ranks));
    std::atomic<int> left = static_cast<int>(random() % 60);
    Hooks hooks;
    const bool by_read = trial % 3 != 0;
    const auto count_down = [&](int rank) { return rank == failing && --left < 0; };
    if (by_read) {
      hooks.before_read = [&](int rank, std::uint32_t) {
        return count_down(rank) ? Status(input_error("file gone")) : Status();
      };
    } else {
      hooks.before_write = [&](int rank, const plan::Write&) {
        return count_down(rank) ? Status(run_error("disk full")) : Status();
      };
    }
    const Ran got = run(job, random_options(random), hooks);
    if (left >= 0) continue;  // too few reads or writes on that rank
    const std::string where = shape.ranks == 1 ? "" : "rank " + std::to_string(failing) + ": ";
    expect_all_fail(got, where + (by_read ? "file gone" : "disk full"), by_read ? Code::input : Code::failed);
    // Ranks whose part was done before may have finished, the failing one has not.
    EXPECT_LT(got.finished_sinks, shape.ranks);
  }
}

TEST(Executor, SeveralFailuresGiveTheLowestRanksError) {
  std::mt19937_64 random(17);
  test::JobShape shape;
  shape.ranks = 4;
  shape.exchange = true;
  const Job job = test::random_job(random, shape);
  Hooks hooks;
  // Nobody gets past its first read, so ranks 1 and 3 both fail.
  std::atomic<int> waiting = 0;
  hooks.before_read = [&](int rank, std::uint32_t) -> Status {
    if (rank % 2 == 0) return {};
    ++waiting;
    while (waiting < 2) std::this_thread::yield();
    return input_error("no file " + std::to_string(rank));
  };
  exec::Options options;
  options.io_threads = 1;
  expect_all_fail(run(job, options, hooks), "rank 1: no file 1", Code::input);
}

TEST(Executor, ARoundThatGoesPastItsSlotIsRefused) {
  std::mt19937_64 random(4);
  for (const std::size_t slot : {0u, 1u, 2u, 3u}) {
    test::JobShape shape;
    shape.ranks = 3;
    shape.exchange = true;
    Job job = test::random_job(random, shape);
    Index most = 0;
    const auto note = [&](const auto& pieces) {
      for (const auto& piece : pieces) most = std::max(most, piece.slot_offset + piece.length);
    };
    for (const plan::Round& round : job.ranks[1].rounds) {
      if (slot == 0) note(round.reads);
      if (slot == 1) note(round.receives);
      if (slot == 2) note(round.sends);
      if (slot == 3) note(round.writes);
    }
    ASSERT_GT(most, 0);
    job.ranks[1].slots[slot] = most - 1;
    const Ran got = run(job, random_options(random));
    for (const auto& outcome : got.outcomes) {
      ASSERT_FALSE(outcome);
      EXPECT_SAYS(outcome.error().message, "rank 1: the plan is wrong: round ");
    }
  }
}

TEST(Executor, AFailingFinishIsAFailure) {
  std::mt19937_64 random(19);
  for (int ranks : {1, 3}) {
    test::JobShape shape;
    shape.ranks = ranks;
    Hooks hooks;
    hooks.finish = [](int rank) { return rank == 0 ? Status(run_error("cannot sync")) : Status(); };
    expect_all_fail(run(test::random_job(random, shape), {}, hooks), ranks == 1 ? "cannot sync" : "rank 0: cannot sync",
                    Code::failed);
  }
}

TEST(Executor, AnExceptionInAThreadIsAFailure) {
  std::mt19937_64 random(23);
  test::JobShape shape;
  shape.ranks = 2;
  shape.exchange = true;
  Hooks hooks;
  hooks.before_read = [](int rank, std::uint32_t) -> Status {
    if (rank == 1) throw std::bad_alloc();
    return {};
  };
  const Ran got = run(test::random_job(random, shape), {}, hooks);
  ASSERT_FALSE(got.outcomes[0]);
  EXPECT_EQ(got.outcomes[0].error().message, "rank 1: streaming broke off: std::bad_alloc");
}

TEST(ExecutorDeathTest, AReadThatDoesNotReturnEndsTheJobAfterAFailure) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto job = [] {
    std::mt19937_64 random(29);
    test::JobShape shape;
    shape.ranks = 2;
    exec::Options options;
    options.agreement_timeout_s = 0.3;
    Hooks hooks;
    std::atomic<bool> reads = false;
    hooks.before_read = [&](int rank, std::uint32_t) -> Status {
      if (rank == 0) {
        reads = true;
        std::this_thread::sleep_for(std::chrono::hours(1));
      }
      while (!reads) std::this_thread::yield();  // it must hang before the other's failure stops it
      return input_error("file gone");
    };
    run(test::random_job(random, shape), options, hooks);
  };
  EXPECT_EXIT(job(), ::testing::ExitedWithCode(4), "reshard: rank 0: a read or write does not return for 0.3 s");
}

TEST(ExecutorDeathTest, ARankThatHangsEndsTheJob) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto job = [] {
    std::mt19937_64 random(31);
    test::JobShape shape;
    shape.ranks = 2;
    shape.rounds = 200;
    exec::Options options;
    options.agreement_timeout_s = 0.3;
    options.progress = [](const exec::Progress&, double) { std::this_thread::sleep_for(std::chrono::hours(1)); };
    Hooks hooks;
    hooks.before_read = [](int, std::uint32_t) -> Status {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      return {};
    };
    run(test::random_job(random, shape), options, hooks);
  };
  EXPECT_EXIT(job(), ::testing::ExitedWithCode(4), "reshard: rank 1: other ranks have not answered for 0.3 s");
}

TEST(Executor, ShowsTheProgressOfAllRanks) {
  std::mt19937_64 random(37);
  for (int ranks : {1, 3}) {
    test::JobShape shape;
    shape.ranks = ranks;
    shape.rounds = 30;
    const Job job = test::random_job(random, shape);
    exec::Progress last;
    int calls = 0;
    exec::Options options;
    options.progress = [&](const exec::Progress& all, double elapsed_s) {
      EXPECT_GE(all.bytes_read, last.bytes_read);
      EXPECT_GE(elapsed_s, 0);
      last = all;
      ++calls;
    };
    Hooks hooks;
    hooks.before_read = [](int, std::uint32_t) -> Status {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      return {};
    };
    ASSERT_TRUE(run(job, options, hooks).outcomes[0]);
    plan::Totals sum;
    for (const auto& schedule : job.ranks) {
      sum.bytes_read += schedule.totals().bytes_read;
      sum.bytes_written += schedule.totals().bytes_written;
      sum.rounds += schedule.totals().rounds;
    }
    EXPECT_GE(calls, 2);
    EXPECT_EQ(last.bytes_read, sum.bytes_read);
    EXPECT_EQ(last.bytes_written, sum.bytes_written);
    EXPECT_EQ(last.rounds, sum.rounds);
    EXPECT_GT(last.busy(exec::Stage::read), last.busy(exec::Stage::repack));
  }
}

}  // namespace
}  // namespace reshard
