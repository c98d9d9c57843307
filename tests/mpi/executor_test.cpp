// SPDX-License-Identifier: Apache-2.0
// DISABLED_ tests are not skipped: they are what the tests beside them run on each rank, under mpirun.
#include "reshard/exec/executor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "tests/support/mpirun.h"
#include "tests/support/streams.h"

namespace reshard {
namespace {

TEST(MpiExecutor, DISABLED_OnEachRank) {
  auto made = comm::make_comm();
  ASSERT_TRUE(made) << made.error().message;
  comm::Comm& comm = **made;
  const auto rank = static_cast<std::size_t>(comm.rank());
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    test::JobShape shape;
    shape.ranks = comm.size();
    shape.exchange = seed % 3 != 0;
    shape.depth = 1 + static_cast<int>(seed % 4);
    // Messages of all sizes: below and above what MPI sends at once.
    shape.slot_bytes = seed % 2 ? 20000 : 400000;
    const test::Job job = test::random_job(random, shape);
    exec::Options options;
    options.io_threads = 1;
    if (seed % 4 != 3) {
      test::expect_naive_result(comm, job, options);
      continue;
    }
    std::vector<test::Bytes> targets;
    for (const Index size : job.target_sizes) targets.emplace_back(static_cast<std::size_t>(size));
    test::MemorySources sources(job.sources);
    test::MemorySink sink(targets);
    int left = 3;
    if (comm.rank() == comm.size() - 1) {
      sink.before = [&](const plan::Write&) { return --left < 0 ? Status(run_error("disk full")) : Status(); };
    }
    const auto outcome = exec::execute(job.ranks[rank], sources, sink, comm, options);
    ASSERT_FALSE(outcome);
    EXPECT_NE(outcome.error().message.find("disk full"), std::string::npos);
  }
}

TEST(MpiExecutor, RandomJobsEqualTheNaiveExecution) {
  for (int ranks : {2, 4}) {
    // With and without the kernel's copies between processes, which containers often forbid.
    for (const char* mechanism : {"cma", "none"}) {
      const test::Ran ran =
          test::run_test_on_ranks(ranks, "MpiExecutor.DISABLED_OnEachRank",
                                  std::string("OMPI_MCA_btl_vader_single_copy_mechanism=") + mechanism);
      EXPECT_EQ(ran.status, 0) << ran.output;
    }
  }
}

// One rank is gone without a word while the others stream: all are gone within seconds.
TEST(MpiExecutor, DISABLED_OneRankDies) {
  auto made = comm::make_comm();
  ASSERT_TRUE(made) << made.error().message;
  comm::Comm& comm = **made;
  std::mt19937_64 random(5);
  test::JobShape shape;
  shape.ranks = comm.size();
  shape.exchange = true;
  const test::Job job = test::random_job(random, shape);
  std::vector<test::Bytes> targets;
  for (const Index size : job.target_sizes) targets.emplace_back(static_cast<std::size_t>(size));
  test::MemorySources sources(job.sources);
  if (comm.rank() == 1) {
    sources.before = [](std::uint32_t) -> Status { ::_exit(7); };
  }
  test::MemorySink sink(targets);
  static_cast<void>(exec::execute(job.ranks[static_cast<std::size_t>(comm.rank())], sources, sink, comm, {}));
  FAIL() << "a dead rank was not noticed";
}

TEST(MpiExecutor, ADeadRankEndsTheJob) {
  const auto start = std::chrono::steady_clock::now();
  const test::Ran ran = test::run_test_on_ranks(3, "MpiExecutor.DISABLED_OneRankDies");
  EXPECT_NE(ran.status, 0);
  EXPECT_EQ(ran.output.find("was not noticed"), std::string::npos) << ran.output;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(25));
}

}  // namespace
}  // namespace reshard
