// SPDX-License-Identifier: Apache-2.0
// Streams that repack on a device and exchange between devices, with an emulated device and a recorded NCCL.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "reshard/exec/executor.h"
#include "tests/support/fake_nccl.h"
#include "tests/support/host_device.h"
#include "tests/support/says.h"
#include "tests/support/seed.h"
#include "tests/support/streams.h"

namespace reshard {
namespace {

using test::Bytes;
using test::Job;

enum class Carrier { host, loopback, nccl };
constexpr double kPatience_s = 20;

struct Ran {
  std::vector<Bytes> targets;
  std::vector<Expected<exec::Outcome>> outcomes;
};

/// What a test does to a rank before the stream, and after it.
struct Hooks {
  std::function<void(int rank, test::HostDevice&)> device;
  std::function<Status(int rank, std::uint32_t file)> before_read;
  std::function<std::string()> interruption;
  double nccl_timeout_s = kPatience_s;
};

Ran run(const Job& job, Carrier carrier, test::NcclWorld& world, std::uint64_t random, const Hooks& hooks = {}) {
  Ran ran;
  for (const Index size : job.target_sizes) ran.targets.emplace_back(static_cast<std::size_t>(size), std::byte{0xEE});
  ran.outcomes.assign(job.ranks.size(), Error{});
  comm::run_virtual_ranks(static_cast<int>(job.ranks.size()), [&](comm::Comm& comm) {
    const int rank = comm.rank();
    test::HostDevice device(random + static_cast<std::uint64_t>(rank));
    if (hooks.device) hooks.device(rank, device);
    test::FakeNccl nccl(world, rank);
    test::MemorySources sources(job.sources);
    if (hooks.before_read) sources.before = [&](std::uint32_t file) { return hooks.before_read(rank, file); };
    test::MemorySink sink(ran.targets);
    exec::Options options;
    options.io_threads = 1 + static_cast<int>(random % 4);
    options.io_block_bytes = random % 2 ? 4096 : 8 * kMiB;
    options.interruption = hooks.interruption;
    options.engine.device = &device;
    options.engine.messages_on_device = carrier == Carrier::loopback;
    const auto r = static_cast<std::size_t>(rank);
    {
      std::unique_ptr<device::Groups> groups;
      if (carrier == Carrier::nccl) {
        auto made = device::make_nccl_groups(nccl, device, comm, hooks.nccl_timeout_s);
        if (!made) {
          ran.outcomes[r] = made.error();
          EXPECT_TRUE(nccl.is_gone());
          return;
        }
        groups = *std::move(made);
        options.engine.groups = groups.get();
      }
      ran.outcomes[r] = exec::execute(job.ranks[r], sources, sink, comm, options);
    }
    EXPECT_EQ(device.misuses, 0) << "rank " << rank;
    EXPECT_EQ(device.pending, 0) << "rank " << rank;
    EXPECT_EQ(nccl.is_gone(), carrier == Carrier::nccl) << "rank " << rank;
  });
  return ran;
}

void expect_all_fail(const Ran& ran, const std::string& message) {
  for (const Expected<exec::Outcome>& outcome : ran.outcomes) {
    ASSERT_FALSE(outcome);
    EXPECT_SAYS(outcome.error().message, message);
    EXPECT_EQ(outcome.error().message, ran.outcomes[0].error().message);
  }
}

Job exchanging_job(std::mt19937_64& random, int ranks, Index rounds = 30) {
  test::JobShape shape;
  shape.ranks = ranks;
  shape.exchange = true;
  shape.rounds = rounds;
  return test::random_job(random, shape);
}

TEST(DeviceStream, RandomJobsEqualTheNaiveExecution) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  for (int trial = 0; trial < 90; ++trial) {
    test::JobShape shape;
    shape.ranks = 1 + trial % 5;
    shape.exchange = trial % 4 != 0;
    shape.depth = 1 + static_cast<int>(random() % 4);
    shape.rounds = static_cast<Index>(random() % 40);
    const auto carrier = static_cast<Carrier>(trial % 3);
    SCOPED_TRACE("trial " + std::to_string(trial));
    const Job job = test::random_job(random, shape);
    const test::JobResult expected = test::naive_execute(job);
    test::NcclWorld world(shape.ranks);
    const Ran got = run(job, carrier, world, random());
    std::vector<std::uint64_t> digests(expected.digests.size(), 0);
    for (std::size_t rank = 0; rank < got.outcomes.size(); ++rank) {
      ASSERT_TRUE(got.outcomes[rank]) << got.outcomes[rank].error().message;
      EXPECT_EQ(got.outcomes[rank]->totals, job.ranks[rank].totals()) << "rank " << rank;
      for (std::size_t i = 0; i < digests.size(); ++i) digests[i] += got.outcomes[rank]->digests[i];
    }
    EXPECT_EQ(digests, expected.digests);
    ASSERT_TRUE(got.targets == expected.targets);
    EXPECT_EQ(world.violations(), std::vector<std::string>());
  }
}

// Each send has its receive of as many bytes in the group of the same number, and no rank waits for one that never
// comes.
TEST(DeviceStream, GroupsOfRandomJobsMatch) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  for (int trial = 0; trial < 200; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    const int ranks = 2 + trial % 7;
    const Job job = exchanging_job(random, ranks, static_cast<Index>(random() % 12));
    test::NcclWorld world(ranks);
    world.polls = static_cast<int>(random() % 5);
    const Ran got = run(job, Carrier::nccl, world, random());
    for (int rank = 0; rank < ranks; ++rank) {
      ASSERT_TRUE(got.outcomes[static_cast<std::size_t>(rank)]);
      EXPECT_EQ(world.num_groups(rank), job.ranks[static_cast<std::size_t>(rank)].rounds.size());
    }
    EXPECT_EQ(world.violations(), std::vector<std::string>());
  }
}

TEST(DeviceStream, TheRecordFindsMessagesThatDoNotFit) {
  std::mt19937_64 random(5);
  Job job = exchanging_job(random, 2);
  // A receive that is a byte short: the peers' groups no longer fit, and none of the rounds after can end.
  for (plan::Round& round : job.ranks[1].rounds) {
    const auto from_peer = [](const plan::Message& message) { return message.peer == 0; };
    const auto message = std::find_if(round.receives.begin(), round.receives.end(), from_peer);
    if (message == round.receives.end()) continue;
    --message->length;
    break;
  }
  test::NcclWorld world(2);
  Hooks hooks;
  hooks.interruption = [&] { return world.violations().empty() ? std::string() : std::string("found out"); };
  expect_all_fail(run(job, Carrier::nccl, world, random(), hooks), "found out");
  EXPECT_SAYS(world.violations().at(0), "sends from 0 to 1 are not those that are received");
}

TEST(DeviceStream, AFailingReadEndsAllRanksWhileGroupsAreUnderWay) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  for (int trial = 0; trial < 45; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    const int ranks = 2 + trial % 3;
    const auto carrier = static_cast<Carrier>(trial % 3);
    const Job job = exchanging_job(random, ranks, 60);
    test::NcclWorld world(ranks);
    world.echoes = true;  // the first failure is told, not what it does to the others
    const int failing = static_cast<int>(random() % static_cast<std::uint64_t>(ranks));
    std::atomic<int> left = static_cast<int>(random() % 20);
    Hooks hooks;
    hooks.before_read = [&](int rank, std::uint32_t) {
      return rank == failing && --left < 0 ? Status(input_error("file gone")) : Status();
    };
    const Ran got = run(job, carrier, world, random(), hooks);
    if (left >= 0) continue;
    expect_all_fail(got, "rank " + std::to_string(failing) + ": file gone");
  }
}

TEST(DeviceStream, AnErrorOfNcclEndsAllRanksWithOneMessage) {
  std::mt19937_64 random(7);
  for (const std::size_t group : {0u, 1u, 9u}) {
    const Job job = exchanging_job(random, 3);
    test::NcclWorld world(3);
    world.failing_rank = 1;
    world.failing_group = group;
    expect_all_fail(run(job, Carrier::nccl, world, random()),
                    "rank 1: cannot exchange by NCCL: remote process exited or there was a network error; "
                    "NCCL_DEBUG=INFO tells more");
  }
}

TEST(DeviceStream, ACommunicatorThatDoesNotComeToBeEndsAllRanks) {
  std::mt19937_64 random(9);
  const Job job = exchanging_job(random, 3);
  test::NcclWorld world(3);
  world.silent_rank = 2;
  Hooks hooks;
  hooks.nccl_timeout_s = 0.1;
  expect_all_fail(run(job, Carrier::nccl, world, random(), hooks), "rank 2: NCCL did not start within 0 s");
}

TEST(DeviceStream, NobodyWaitsLongForNcclToAbort) {
  std::mt19937_64 random(10);
  const Job job = exchanging_job(random, 3);
  test::NcclWorld world(3);
  world.silent_rank = 2;
  world.hold_aborts = std::make_shared<std::latch>(1);
  Hooks hooks;
  hooks.nccl_timeout_s = 0.4;
  const auto start = std::chrono::steady_clock::now();
  expect_all_fail(run(job, Carrier::nccl, world, random(), hooks), "rank 2: NCCL did not start within 0 s");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  world.hold_aborts->count_down();
}

TEST(DeviceStream, RanksWithOtherVersionsOfNcclAreRefused) {
  test::NcclWorld world(3);
  world.versions[2] = 22304;
  comm::run_virtual_ranks(3, [&](comm::Comm& comm) {
    test::HostDevice device;
    test::FakeNccl nccl(world, comm.rank());
    const auto groups = device::make_nccl_groups(nccl, device, comm, kPatience_s);
    ASSERT_FALSE(groups);
    EXPECT_EQ(groups.error().message,
              "rank 2 has NCCL 2.23.4, rank 0 has 2.28.9: all must have the same (LD_LIBRARY_PATH?)");
    EXPECT_EQ(groups.error().code, Code::failed);
  });
}

TEST(DeviceStream, TooLittleMemoryOnOneDeviceEndsAllRanks) {
  std::mt19937_64 random(11);
  const Job job = exchanging_job(random, 3);
  test::NcclWorld world(3);
  Hooks hooks;
  hooks.device = [](int rank, test::HostDevice& device) { device.memory_left = rank == 1 ? 1000 : 1 << 30; };
  expect_all_fail(run(job, Carrier::loopback, world, random(), hooks),
                  "rank 1: emulated device: out of memory; give a smaller --device-memory-budget");
}

TEST(DeviceStream, AFailingKernelEndsAllRanks) {
  std::mt19937_64 random(13);
  for (const auto carrier : {Carrier::host, Carrier::nccl}) {
    const Job job = exchanging_job(random, 3);
    test::NcclWorld world(3);
    Hooks hooks;
    hooks.device = [](int rank, test::HostDevice& device) { device.repacks_left = rank == 2 ? 5 : 1 << 30; };
    expect_all_fail(run(job, carrier, world, random(), hooks), "rank 2: emulated device: a kernel failed");
  }
}

TEST(DeviceStream, WorkThatFailsWhileItIsUnderWayEndsAllRanks) {
  std::mt19937_64 random(17);
  for (const int after : {0, 1, 7, 20, 40}) {
    for (const auto carrier : {Carrier::host, Carrier::loopback, Carrier::nccl}) {
      const Job job = exchanging_job(random, 3, 60);
      test::NcclWorld world(3);
      world.echoes = true;
      Hooks hooks;
      hooks.device = [&](int rank, test::HostDevice& device) { device.waits_left = rank == 1 ? after : 1 << 30; };
      expect_all_fail(run(job, carrier, world, random(), hooks), "rank 1: emulated device: an illegal address");
    }
  }
}

// The end of a group is marked before the next one is in the queue, so that it does not wait for that one.
TEST(DeviceStream, AGroupEndsBeforeTheOneAfterIt) {
  test::NcclWorld world(2);
  comm::run_virtual_ranks(2, [&](comm::Comm& comm) {
    test::HostDevice device;
    test::FakeNccl nccl(world, comm.rank());
    const auto groups = device::make_nccl_groups(nccl, device, comm, kPatience_s);
    ASSERT_TRUE(groups);
    const auto memory = device.allocate(2);
    ASSERT_TRUE(memory);
    const int peer = 1 - comm.rank();
    const auto start = [&](int number) {
      while (!(*groups)->ready()) continue;
      auto group = (*groups)->start({{peer, memory->get() + number, 1}}, {});
      EXPECT_TRUE(group);
      return *std::move(group);
    };
    // Rank 1 receives the first message and not the second.
    const auto receive = [&]() {
      while (!(*groups)->ready()) continue;
      auto group = (*groups)->start({}, {{peer, memory->get(), 1}});
      EXPECT_TRUE(group);
      return *std::move(group);
    };
    const auto finish = [](device::Pending& group) {
      for (Expected<bool> done = false; !*done;) {
        done = group.test();
        ASSERT_TRUE(done);
      }
    };
    const auto first = comm.rank() == 0 ? start(0) : receive();
    if (comm.rank() == 0) {
      const auto second = start(1);
      finish(*first);
      for (int i = 0; i < 20; ++i) EXPECT_FALSE(*second->test());
      comm.barrier();
      finish(*second);
    } else {
      finish(*first);
      comm.barrier();
      const auto second = receive();
      finish(*second);
    }
  });
  EXPECT_EQ(world.violations(), std::vector<std::string>());
}

TEST(DeviceStream, TellsWhatTheDeviceWasBusyWith) {
  std::mt19937_64 random(15);
  const Job job = exchanging_job(random, 2, 60);
  test::NcclWorld world(2);
  const Ran got = run(job, Carrier::nccl, world, random());
  ASSERT_TRUE(got.outcomes[0]);
  for (const exec::Stage stage : {exec::Stage::upload, exec::Stage::repack, exec::Stage::download}) {
    EXPECT_GT(got.outcomes[0]->busy.busy(stage), 0) << to_string(stage);
  }
}

}  // namespace
}  // namespace reshard
