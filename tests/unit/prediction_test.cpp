// SPDX-License-Identifier: Apache-2.0
#include "reshard/plan/prediction.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "reshard/app/machine.h"
#include "reshard/model/machine.h"
#include "tests/support/files.h"

namespace reshard::plan {
namespace {

constexpr double kGB = 1e9;

Round round_of(Index read, Index written, const std::vector<Message>& sends = {}) {
  Round round;
  if (read > 0) round.reads.push_back({0, 0, read, 0});
  if (written > 0) round.writes.push_back({0, 0, written, 0});
  round.sends = sends;
  return round;
}

const Prediction::Part& part(const Prediction& prediction, Stage stage) {
  for (const Prediction::Part& one : prediction.parts) {
    if (one.stage == stage) return one;
  }
  throw std::out_of_range(std::string(to_string(stage)));
}

Job job(int ranks, int ranks_per_node, Device device = Device::cpu) {
  return {.ranks = ranks,
          .ranks_per_node = ranks_per_node,
          .device = device,
          .src_files = 0,
          .dst_files = 0,
          .slot_bytes = 0,
          .arrays = 0};
}

TEST(Prediction, OneRankIsBoundByItsReading) {
  Machine machine;
  machine.read.rank = 1 * kGB;
  machine.write.rank = 2 * kGB;
  machine.repack_thread = 4 * kGB;
  Predictor predictor(machine, job(1, 1));
  for (Index i = 0; i < 4; ++i) predictor.add(0, i, round_of(1'000'000'000, 1'000'000'000));
  const Prediction prediction = predictor.finish();
  EXPECT_DOUBLE_EQ(part(prediction, Stage::read).seconds, 4);
  EXPECT_EQ(part(prediction, Stage::read).limit, "a rank");
  EXPECT_DOUBLE_EQ(part(prediction, Stage::write).seconds, 2);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::repack).seconds, 1);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::exchange).seconds, 0);
  EXPECT_EQ(prediction.binds, "read");
  EXPECT_EQ(prediction.limit, "a rank");
  EXPECT_DOUBLE_EQ(prediction.overlapped_s, 4);
  // The last round is repacked (0.25 s) and written (0.5 s) when all is read.
  EXPECT_DOUBLE_EQ(prediction.fill_s, 0.75);
  EXPECT_DOUBLE_EQ(prediction.seconds(), 4.75);
  // A store 4 times as fast leaves the repacking busiest: it reads 4 GB in 1 s then.
  ASSERT_EQ(prediction.crossings.size(), 1u);
  EXPECT_EQ(prediction.crossings[0].stage, Stage::repack);
  EXPECT_DOUBLE_EQ(prediction.crossings[0].factor, 4);
  EXPECT_DOUBLE_EQ(prediction.crossings[0].read, 4 * kGB);
}

TEST(Prediction, WritingBindsAndTheFirstRoundComesFirst) {
  Machine machine;
  machine.read.rank = 4 * kGB;
  machine.write.rank = 1 * kGB;
  Predictor predictor(machine, job(1, 1));
  for (Index i = 0; i < 2; ++i) predictor.add(0, i, round_of(1'000'000'000, 1'000'000'000));
  const Prediction prediction = predictor.finish();
  EXPECT_EQ(prediction.binds, "write");
  EXPECT_DOUBLE_EQ(prediction.seconds(), 2 + 0.25);
}

TEST(Prediction, SharedDiskAddsReadingAndWriting) {
  Machine machine;
  machine.read.node = 2 * kGB;
  machine.write.node = 2 * kGB;
  machine.together.node = 2.5 * kGB;
  Predictor predictor(machine, job(2, 2));
  for (int rank = 0; rank < 2; ++rank) predictor.add(rank, 0, round_of(1'000'000'000, 1'500'000'000));
  const Prediction prediction = predictor.finish();
  EXPECT_DOUBLE_EQ(part(prediction, Stage::read).seconds, 1);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::write).seconds, 1.5);
  EXPECT_EQ(part(prediction, Stage::write).limit, "a node");
  EXPECT_DOUBLE_EQ(prediction.store_together_s, 2);
  EXPECT_EQ(prediction.binds, "read and write together");
  EXPECT_EQ(prediction.limit, "a node");
  EXPECT_DOUBLE_EQ(prediction.seconds(), 2);
  EXPECT_DOUBLE_EQ(prediction.store_s(), 2);
}

TEST(Prediction, WholeStoreLimitsManyNodes) {
  Machine machine;
  machine.read = {2 * kGB, 3 * kGB, 4 * kGB};
  Predictor predictor(machine, job(4, 2));
  for (int rank = 0; rank < 4; ++rank) predictor.add(rank, 0, round_of((rank + 1) * 1'000'000'000LL, 0));
  const Prediction prediction = predictor.finish();
  // Ranks: 4/2 = 2 s; nodes: 7/3 = 2.33 s; all: 10/4 = 2.5 s.
  EXPECT_DOUBLE_EQ(part(prediction, Stage::read).seconds, 2.5);
  EXPECT_EQ(part(prediction, Stage::read).limit, "the whole store");
  EXPECT_DOUBLE_EQ(part(prediction, Stage::read).rank_min_s, 0.5);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::read).rank_max_s, 2);
}

TEST(Prediction, ExchangeIsBoundByTheBusiestLinkOfEachRound) {
  Machine machine;
  machine.read.rank = 10 * kGB;
  machine.write.rank = 10 * kGB;
  machine.cores_per_node = 16;
  machine.host_copy = {1 * kGB, 1.5 * kGB, 0};
  machine.mpi_round_s = 0.25;
  Predictor predictor(machine, job(2, 2));
  // Round 0: both send 1 GB: a rank takes 1 s, the node 2/1.5 s. Round 1: rank 0 sends 1 GB: 1 s.
  predictor.add(0, 0, round_of(1'000'000'000, 1'000'000'000, {{1, 0, 1'000'000'000}}));
  predictor.add(0, 1, round_of(1'000'000'000, 1'000'000'000, {{1, 0, 1'000'000'000}}));
  predictor.add(1, 0, round_of(1'000'000'000, 1'000'000'000, {{0, 0, 1'000'000'000}}));
  predictor.add(1, 1, round_of(1'000'000'000, 1'000'000'000));
  const Prediction prediction = predictor.finish();
  EXPECT_DOUBLE_EQ(part(prediction, Stage::exchange).seconds, 2.0 / 1.5 + 1 + 2 * 0.25);
  EXPECT_EQ(part(prediction, Stage::exchange).limit, "memory of a node");
  EXPECT_EQ(prediction.binds, "exchange");
  EXPECT_DOUBLE_EQ(part(prediction, Stage::exchange).rank_max_s, 2);
  // The first round is read before, the last one written after.
  EXPECT_DOUBLE_EQ(prediction.fill_s, 0.1 + 0.1);
  ASSERT_EQ(prediction.crossings.size(), 1u);
  EXPECT_LT(prediction.crossings[0].factor, 1);
}

TEST(Prediction, TwoNodesUseTheNetworkBetweenThem) {
  Machine machine;
  machine.gpus_per_node = 2;
  machine.nvlink = 10 * kGB;
  machine.network = 1 * kGB;
  machine.to_device = 4 * kGB;
  machine.to_host = 2 * kGB;
  machine.repack_gpu = 100 * kGB;
  Predictor predictor(machine, job(4, 2, Device::cuda));
  // Each rank sends 1 GB to each other one: 2 GB leave a GPU off the node, so 4 GB a node.
  for (int rank = 0; rank < 4; ++rank) {
    std::vector<Message> sends;
    for (int peer = 0; peer < 4; ++peer) {
      if (peer != rank) sends.push_back({peer, 0, 1'000'000'000});
    }
    predictor.add(rank, 0, round_of(4'000'000'000, 4'000'000'000, sends));
  }
  const Prediction prediction = predictor.finish();
  EXPECT_DOUBLE_EQ(part(prediction, Stage::exchange).seconds, 4);
  EXPECT_EQ(part(prediction, Stage::exchange).limit, "network of a node");
  EXPECT_DOUBLE_EQ(part(prediction, Stage::exchange).rank_max_s, 0.1);  // its NVLink
  EXPECT_DOUBLE_EQ(part(prediction, Stage::upload).seconds, 1);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::download).seconds, 2);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::repack).seconds, 0.07);  // 4 GB written and 3 GB packed
  EXPECT_DOUBLE_EQ(prediction.cores_s, 0);
}

TEST(Prediction, RanksShareGpus) {
  Machine machine;
  machine.gpus_per_node = 1;
  machine.to_device = 1 * kGB;
  machine.to_host = 1 * kGB;
  machine.repack_gpu = 4 * kGB;
  Predictor predictor(machine, job(2, 2, Device::cuda));
  predictor.add(0, 0, round_of(1'000'000'000, 1'000'000'000, {{1, 0, 1'000'000'000}}));
  predictor.add(1, 0, round_of(1'000'000'000, 1'000'000'000));
  const Prediction prediction = predictor.finish();
  EXPECT_DOUBLE_EQ(part(prediction, Stage::upload).seconds, 2);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::upload).rank_max_s, 1);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::repack).seconds, 0.75);
  EXPECT_DOUBLE_EQ(part(prediction, Stage::exchange).seconds, 0.25);
  EXPECT_EQ(part(prediction, Stage::exchange).limit, "copies in a GPU");
}

TEST(Prediction, CoresAreSharedByRepackingAndMessages) {
  Machine machine;
  machine.cores_per_node = 1;
  machine.repack_thread = 1 * kGB;
  machine.host_copy.rank = 1 * kGB;
  Predictor predictor(machine, job(2, 2));
  predictor.add(0, 0, round_of(0, 1'000'000'000, {{1, 0, 1'000'000'000}}));
  predictor.add(1, 0, round_of(0, 1'000'000'000));
  const Prediction prediction = predictor.finish();
  // Written 1 + 1, packed 1, received 1, on one core.
  EXPECT_DOUBLE_EQ(prediction.cores_s, 4);
  EXPECT_EQ(prediction.binds, "cores");
  EXPECT_EQ(prediction.limit, "a node");
}

TEST(Prediction, CoresWorkSideBySide) {
  Machine machine;
  machine.cores_per_node = 8;
  machine.repack_thread = 1 * kGB;
  Predictor predictor(machine, job(2, 2));
  predictor.add(0, 0, round_of(0, 1'000'000'000));
  predictor.add(1, 0, round_of(0, 3'000'000'000));
  EXPECT_DOUBLE_EQ(part(predictor.finish(), Stage::repack).seconds, 0.75);  // four threads
}

TEST(Prediction, FixedCostsAddUp) {
  Machine machine;
  machine.start_s = 1;
  machine.start_rank_s = 0.25;
  machine.start_file_s = 0.5;
  machine.start_array_s = 0.125;
  machine.touch = 1 * kGB;
  machine.finish_s = 2;
  machine.finish_file_s = 0.5;
  const Predictor predictor(machine, {.ranks = 2,
                                      .ranks_per_node = 2,
                                      .device = Device::cpu,
                                      .src_files = 3,
                                      .dst_files = 4,
                                      .slot_bytes = 1'500'000'000,
                                      .arrays = 8});
  const Prediction prediction = predictor.finish();
  EXPECT_DOUBLE_EQ(prediction.start_s, 1 + 0.25 + 2 * 0.5 + 8 * 0.125 + 2 * 1.5);  // one of two ranks reads two headers
  EXPECT_DOUBLE_EQ(prediction.finish_s, 2 + 4 * 0.5);
  EXPECT_EQ(prediction.binds, "");
  EXPECT_DOUBLE_EQ(prediction.seconds(), prediction.start_s + prediction.finish_s);
}

std::string error_of(const std::string& name_or_file) {
  const auto machine = app::find_machine(name_or_file);
  return machine ? "" : machine.error().message;
}

TEST(Machines, ShippedOnesAreWhole) {
  const std::vector<std::string> names = model::machine_names();
  EXPECT_EQ(names, (std::vector<std::string>{"b200-node", "cpu-node", "h100-node", "h200-node"}));
  for (const std::string& name : names) {
    EXPECT_EQ(error_of(name), "") << name;
    EXPECT_EQ(model::machine_description(name)->at("machine"), name);
  }
  const auto node = app::find_machine("h100-node");
  EXPECT_DOUBLE_EQ(node->read.node, 48 * kGB);
  EXPECT_DOUBLE_EQ(node->write.node, 26 * kGB);
  EXPECT_DOUBLE_EQ(node->nvlink, 370 * kGB);
}

TEST(Machines, MistakesAreNamed) {
  const test::TemporaryFolder folder;
  const std::string file = folder.path("m.json");
  const auto error = [&](const std::string& text) {
    test::put_file(file, text);
    return error_of(file);
  };
  const std::string head = R"({"machine": "m", "cores_per_node": 2, )";
  const std::string tail =
      R"("host_copy": {"source": ""}, "repack": {"thread_gb_per_s": 5, "source": ""}, "store": {"read": {"source": ""}, "write": {"source": ""}}})";
  EXPECT_EQ(error(head + R"("gpus_per_node": 0, )" + tail), "");
  EXPECT_EQ(error_of("h100-nod"), "there is no machine \"h100-nod\" and no file of that name; did you mean h100-node?");
  EXPECT_EQ(error(head + R"("gpus_per_nodes": 0, )" + tail), file + ": the key \"gpus_per_node\" is missing");
  EXPECT_EQ(error(head + R"("gpus_per_node": 0, "netwok": {}, )" + tail),
            file + ": netwok: unknown key; did you mean network?");
  EXPECT_EQ(error(head + R"("gpus_per_node": 0, "network": {"node_gb_per_s": "1", "source": ""}, )" + tail),
            file + ": network.node_gb_per_s: expected number, found string");
  EXPECT_EQ(error(head + R"("gpus_per_node": 0, "network": {"node_gb_per_s": 1}, )" + tail),
            file + ": network: the key \"source\" is missing");
  EXPECT_EQ(error(head + R"("gpus_per_node": 0, "network": {"node_gb_per_s": 0, "source": ""}, )" + tail),
            file + ": network.node_gb_per_s: expected more than 0; leave a limit out that there is not");
  EXPECT_EQ(error(head + R"("gpus_per_node": 99999, )" + tail), file + ": gpus_per_node: expected at most 4096");
  EXPECT_EQ(error(head + R"("gpus_per_node": 8, )" + tail),
            file + ": the key \"pcie.to_device_gb_per_s\" is missing: \"gpus_per_node\" is 8");
  EXPECT_NE(error("{").find(file), std::string::npos);
}

}  // namespace
}  // namespace reshard::plan
