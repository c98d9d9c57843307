// SPDX-License-Identifier: Apache-2.0
// Streams whose messages travel by NCCL itself. DISABLED_ tests are not skipped: they are what the tests beside them
// run on each rank, under mpirun.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "reshard/device/groups.h"
#include "tests/support/mpirun.h"
#include "tests/support/streams.h"

namespace reshard {
namespace {

constexpr double kPatience_s = 60;
constexpr const char* kHosts = "RESHARD_TEST_HOST_PER_RANK";  // set: ranks tell NCCL so

class NcclStream : public testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << device::describe_cuda();
    if (const auto nccl = device::load_nccl(); !nccl) GTEST_SKIP() << nccl.error().message;
  }
};

int count(const std::string& text, const std::string& what) {
  int times = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++times;
  return times;
}

/// Random jobs on the ranks of `comm`, a device each. Collective.
void check_jobs(comm::Comm& comm) {
  const auto device = device::open_cuda(comm.local_rank());
  ASSERT_TRUE(device) << device.error().message;
  if (std::getenv(kHosts)) ::setenv("NCCL_HOSTID", ("host-" + std::to_string(comm.rank())).c_str(), 1);
  const auto nccl = device::load_nccl();
  ASSERT_TRUE(nccl) << nccl.error().message;
  const auto groups = device::make_nccl_groups(**nccl, **device, comm, kPatience_s);
  ASSERT_TRUE(groups) << groups.error().message;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    test::JobShape shape;
    shape.ranks = comm.size();
    shape.exchange = true;
    shape.slot_bytes = seed % 2 ? 20000 : 4'000'000;
    const test::Job job = test::random_job(random, shape);
    exec::Options options;
    options.engine.device = device->get();
    options.engine.groups = groups->get();
    test::expect_naive_result(comm, job, options);
  }
}

TEST_F(NcclStream, OneRankWithItself) {
  const auto comm = comm::make_self_comm();
  check_jobs(*comm);
}

TEST_F(NcclStream, DISABLED_OnEachRank) {
  const auto comm = comm::make_comm();
  ASSERT_TRUE(comm) << comm.error().message;
  check_jobs(**comm);
}

// A process per device where there are several. On one device NCCL is told that each process is a host of its own,
// which its duplicate check believes; messages then go through sockets.
TEST_F(NcclStream, TwoProcesses) {
  const auto first = device::open_cuda(0), second = device::open_cuda(1);
  ASSERT_TRUE(first && second);
  const bool shared = (*first)->identity() == (*second)->identity();
  const test::Ran ran =
      test::run_test_on_ranks(2, "NcclStream.DISABLED_OnEachRank",
                              shared ? std::string(kHosts) + "=1 NCCL_SOCKET_IFNAME=lo" : "NCCL_DEBUG=WARN");
  const bool refused = ran.output.find("cannot start NCCL") != std::string::npos;
  if (shared && refused) GTEST_SKIP() << "NCCL refuses two processes on one device";
  EXPECT_EQ(ran.status, 0) << ran.output;
  EXPECT_EQ(count(ran.output, "[       OK ]"), 2) << ran.output;
}

// A second rank on the same device is NCCL's to refuse, in one line on all ranks.
TEST_F(NcclStream, DISABLED_IsRefused) {
  const auto comm = comm::make_comm();
  ASSERT_TRUE(comm);
  const auto device = device::open_cuda(0);
  const auto nccl = device::load_nccl();
  ASSERT_TRUE(device && nccl);
  const auto groups = device::make_nccl_groups(**nccl, **device, **comm, kPatience_s);
  ASSERT_FALSE(groups);
  const auto all = (*comm)->all_gather(groups.error().message);
  for (const std::string& message : all) EXPECT_EQ(message, all[0]);
}

TEST_F(NcclStream, TwoRanksOnOneDevice) {
  const test::Ran ran = test::run_test_on_ranks(2, "NcclStream.DISABLED_IsRefused", "NCCL_DEBUG=WARN");
  EXPECT_EQ(ran.status, 0) << ran.output;
  EXPECT_EQ(count(ran.output, "[       OK ]"), 2) << ran.output;
}

}  // namespace
}  // namespace reshard
