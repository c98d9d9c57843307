// SPDX-License-Identifier: Apache-2.0
// DISABLED_ tests are not skipped: they are what the tests beside them run on each rank, under mpirun.
#include "reshard/comm/comm.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/support/comm_checks.h"
#include "tests/support/mpirun.h"

namespace reshard {
namespace {

TEST(MpiComm, DISABLED_OnEachRank) {
  auto comm = comm::make_comm();
  ASSERT_TRUE(comm) << comm.error().message;
  test::check_comm(**comm);
}

TEST(MpiComm, DoesAllThatCommPromises) {
  for (int ranks : {1, 2, 4}) {
    const test::Ran ran = test::run_test_on_ranks(ranks, "MpiComm.DISABLED_OnEachRank");
    EXPECT_EQ(ran.status, 0) << ran.output;
  }
}

TEST(MpiComm, DISABLED_OneRankAborts) {
  auto comm = comm::make_comm();
  ASSERT_TRUE(comm) << comm.error().message;
  if ((*comm)->rank() == 1) (*comm)->abort(Code::failed, "rank 1 gives up");
  (*comm)->barrier();
  FAIL() << "the barrier of a dead job was passed";
}

TEST(MpiComm, AbortEndsAllRanksWithItsStatus) {
  const auto start = std::chrono::steady_clock::now();
  const test::Ran ran = test::run_test_on_ranks(3, "MpiComm.DISABLED_OneRankAborts");
  EXPECT_EQ(ran.status, 4) << ran.output;
  EXPECT_NE(ran.output.find("reshard: rank 1 gives up"), std::string::npos) << ran.output;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(MpiComm, DISABLED_AllRanksAbort) {
  auto comm = comm::make_comm();
  ASSERT_TRUE(comm) << comm.error().message;
  (*comm)->barrier();
  (*comm)->abort(Code::failed, "rank " + std::to_string((*comm)->rank()) + " gives up");
}

TEST(MpiComm, RanksThatAbortTogetherSpeakOnce) {
  const test::Ran ran = test::run_test_on_ranks(4, "MpiComm.DISABLED_AllRanksAbort");
  EXPECT_EQ(ran.status, 4) << ran.output;
  const std::size_t first = ran.output.find(" gives up");
  EXPECT_NE(first, std::string::npos) << ran.output;
  EXPECT_EQ(ran.output.find(" gives up", first + 1), std::string::npos) << ran.output;
}

TEST(MpiComm, DISABLED_BelievesToBeAlone) {
  const auto comm = comm::make_mpi_comm();
  ASSERT_FALSE(comm);
  EXPECT_EQ(comm.error().code, Code::usage);
  EXPECT_NE(comm.error().message.find("started 3 tasks"), std::string::npos) << comm.error().message;
}

TEST(MpiComm, RefusesTheWrongLauncher) {
  const test::Ran ran = test::run_command(
      "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PMI_SIZE=3 '" + test::this_program() +
      "' --gtest_also_run_disabled_tests --gtest_filter=MpiComm.DISABLED_BelievesToBeAlone");
  EXPECT_EQ(ran.status, 0) << ran.output;
}

}  // namespace
}  // namespace reshard
