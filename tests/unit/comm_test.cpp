// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <numeric>
#include <thread>

#include "tests/support/comm_checks.h"

namespace reshard {
namespace {

void wait(comm::Request& request) {
  while (!request.test()) std::this_thread::yield();
}

TEST(VirtualRanks, DoAllThatCommPromises) {
  for (int size : {1, 2, 3, 5}) {
    comm::run_virtual_ranks(size, [](comm::Comm& comm) { test::check_comm(comm); });
  }
}

TEST(SelfComm, SendsToItself) {
  const auto comm = comm::make_self_comm();
  test::check_comm(*comm);
  std::string sent = "bytes", received(5, ' ');
  auto send = comm->send(std::as_bytes(std::span(sent)), 0, 7);
  EXPECT_FALSE(send->test());
  auto receive = comm->receive(std::as_writable_bytes(std::span(received)), 0, 7);
  EXPECT_TRUE(send->test());
  EXPECT_TRUE(receive->test());
  EXPECT_EQ(received, "bytes");
}

TEST(VirtualRanks, KeepOrderPerPeerAndTag) {
  comm::run_virtual_ranks(2, [](comm::Comm& comm) {
    constexpr int kMessages = 100;
    std::vector<int> values(2 * kMessages);
    std::vector<std::unique_ptr<comm::Request>> requests;
    if (comm.rank() == 0) {
      std::iota(values.begin(), values.end(), 0);
      for (int i = 0; i < 2 * kMessages; ++i) {
        requests.push_back(comm.send(std::as_bytes(std::span(&values[static_cast<std::size_t>(i)], 1)), 1, i % 2));
      }
    } else {
      for (int tag : {1, 0}) {
        for (int i = tag; i < 2 * kMessages; i += 2) {
          requests.push_back(
              comm.receive(std::as_writable_bytes(std::span(&values[static_cast<std::size_t>(i)], 1)), 0, tag));
        }
      }
    }
    for (auto& request : requests) wait(*request);
    for (int i = 0; i < 2 * kMessages; ++i) EXPECT_EQ(values[static_cast<std::size_t>(i)], i);
  });
}

TEST(Agree, ReturnsTheLowestFailingRanksError) {
  comm::run_virtual_ranks(4, [](comm::Comm& comm) {
    EXPECT_TRUE(comm::agree(comm, {}));
    const Status mine = comm.rank() >= 2 ? Status(input_error("file " + std::to_string(comm.rank()))) : Status();
    const Status all = comm::agree(comm, mine);
    ASSERT_FALSE(all);
    EXPECT_EQ(all.error().code, Code::input);
    EXPECT_EQ(all.error().message, "rank 2: file 2");
    EXPECT_EQ(comm::agree(comm, usage_error("all")).error().message, "all");
  });
  const auto self = comm::make_self_comm();
  const Status alone = comm::agree(*self, usage_error("no"));
  ASSERT_FALSE(alone);
  EXPECT_EQ(alone.error().message, "no");
}

TEST(Launch, IsToldFromTheEnvironment) {
  const auto launch = [](std::map<std::string, std::string> environment) {
    return comm::detect_launch([&](const char* name) -> const char* {
      const auto it = environment.find(name);
      return it == environment.end() ? nullptr : it->second.c_str();
    });
  };
  EXPECT_EQ(*launch({}), comm::Launch::alone);
  EXPECT_EQ(*launch({{"OMPI_COMM_WORLD_SIZE", "1"}}), comm::Launch::by_ranks);
  EXPECT_EQ(*launch({{"PMIX_RANK", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}}),
            comm::Launch::by_ranks);
  EXPECT_EQ(*launch({{"PMI_RANK", "3"}}), comm::Launch::by_ranks);
  // A batch script of a job of eight tasks, and srun -n 1.
  EXPECT_EQ(*launch({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}), comm::Launch::alone);
  EXPECT_EQ(*launch({{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}), comm::Launch::alone);
  const auto wrong = launch({{"SLURM_PROCID", "2"}, {"SLURM_STEP_NUM_TASKS", "4"}});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, Code::usage);
  EXPECT_NE(wrong.error().message.find("srun --mpi=pmix"), std::string::npos);
}

}  // namespace
}  // namespace reshard
