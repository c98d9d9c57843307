// SPDX-License-Identifier: Apache-2.0
// Random plans run by the executor on virtual ranks: bytes as the oracle has them, counters as the plan foretold.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "reshard/comm/comm.h"
#include "reshard/exec/executor.h"
#include "tests/support/oracle.h"
#include "tests/support/random_layouts.h"
#include "tests/support/streams.h"

namespace reshard::test {
namespace {

constexpr int kPlans = 50;

TEST(ExecuteProperty, CountersAndBytesAreThoseOfThePlan) {
  const char* set = std::getenv("RESHARD_SEED");
  const std::uint64_t first_seed = set != nullptr ? std::strtoull(set, nullptr, 10) : 1;
  Index exchanged = 0;
  for (std::uint64_t seed = first_seed; seed < first_seed + kPlans; ++seed) {
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto any = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
    const auto canon = random_model(random);
    const layout::Layout src = random_layout(random, canon), dst = random_layout(random, canon);
    std::vector<Index> src_sizes, dst_sizes;
    plan::Transfer transfer{&src, {}, &dst, {}, 0, false};
    transfer.src_places = place_arrays(src, static_cast<std::size_t>(any(1, 5)), any(0, 9), src_sizes);
    transfer.dst_places = place_arrays(dst, static_cast<std::size_t>(any(1, 5)), 2 * any(0, 20), dst_sizes);
    Files sources;
    for (const Index size : src_sizes) sources.emplace_back(static_cast<std::size_t>(size));
    for (std::uint32_t a = 0; a < src.arrays().size(); ++a) {
      const std::vector<std::byte> bytes = oracle_array(src, a);
      const plan::Place& place = transfer.src_places[a];
      std::copy(bytes.begin(), bytes.end(), sources[place.file].begin() + place.offset);
    }
    std::vector<plan::TargetFile> target_files;
    for (const Index size : dst_sizes) target_files.push_back({size, {}});

    plan::Options options;
    options.ranks = static_cast<int>(any(1, 5));
    options.route = any(0, 1) == 1 ? plan::Route::exchange : plan::Route::direct;
    options.sizes.span = 256;
    options.sizes.round = 512;
    options.sizes.smallest_round = 64;
    options.sizes.short_run = 64;
    options.sizes.finest = 32;
    options.sizes.page = 16;
    const auto plan = plan::Plan::make({transfer}, target_files, options);
    ASSERT_TRUE(plan) << plan.error().message;

    Files targets;
    for (const Index size : dst_sizes) targets.emplace_back(static_cast<std::size_t>(size), std::byte{0xEE});
    comm::run_virtual_ranks(options.ranks, [&](comm::Comm& comm) {
      MemorySources files(sources);
      MemorySink sink(targets);
      exec::Options how;
      how.io_threads = 2;
      how.repack_threads = 2;
      how.io_block_bytes = 128;
      const auto outcome = exec::execute(*plan->schedule(comm.rank()), files, sink, comm, how);
      ASSERT_TRUE(outcome) << outcome.error().message;
      const plan::Totals foretold = plan->totals(comm.rank());
      EXPECT_EQ(outcome->totals.bytes_read, foretold.bytes_read);
      EXPECT_EQ(outcome->totals.bytes_sent, foretold.bytes_sent);
      EXPECT_EQ(outcome->totals.bytes_received, foretold.bytes_received);
      EXPECT_EQ(outcome->totals.bytes_written, foretold.bytes_written);
      EXPECT_EQ(outcome->totals.rounds, foretold.rounds);
    });
    for (int rank = 0; rank < options.ranks; ++rank) exchanged += plan->totals(rank).bytes_sent;
    for (std::uint32_t a = 0; a < dst.arrays().size(); ++a) {
      const std::vector<std::byte> expected = oracle_array(dst, a);
      const plan::Place& place = transfer.dst_places[a];
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), targets[place.file].begin() + place.offset))
          << "array " << dst.name(dst.arrays()[a]);
    }
  }
  EXPECT_GT(exchanged, 0);
}

}  // namespace
}  // namespace reshard::test
