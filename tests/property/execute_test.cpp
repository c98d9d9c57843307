// SPDX-License-Identifier: Apache-2.0
// Random plans run by the executor on virtual ranks: bytes as the oracle has them, counters as the plan foretold.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "reshard/comm/comm.h"
#include "reshard/exec/executor.h"
#include "tests/support/fake_nccl.h"
#include "tests/support/host_device.h"
#include "tests/support/oracle.h"
#include "tests/support/random_layouts.h"
#include "tests/support/seed.h"
#include "tests/support/streams.h"

namespace reshard::test {
namespace {

constexpr int kPlans = 600;  // a third of them on each engine

using Strides = std::map<std::uint32_t, std::vector<Index>>;  // of arrays that are not dense

/// Lays half of the arrays out as views of torch storages lie: dimensions in another order, with holes between; some of
/// them with elements that share bytes (strides of 0, windows).
Strides stretch_some(std::mt19937_64& random, layout::Layout& layout) {
  Strides all;
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const Shape shape = layout.shape(layout.arrays()[a]);
    if (random() % 2 == 0 || *num_elements(shape) == 0) continue;
    std::vector<std::size_t> order(shape.size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    std::vector<Index> strides(shape.size());
    Index unit = 1 + static_cast<Index>(random() % 2);
    const bool shares = random() % 3 == 0;
    for (const std::size_t d : order) {
      strides[d] = shares ? static_cast<Index>(random() % static_cast<std::uint64_t>(unit + 1)) : unit;
      unit *= shape[d] + static_cast<Index>(random() % 2);
    }
    layout.set_strides(a, strides);
    all[a] = std::move(strides);
  }
  return all;
}

/// Puts the dense elements of an array where its strides have them.
void put_array(const std::vector<std::byte>& dense, const Shape& shape, const std::vector<Index>* strides,
               std::byte* to) {
  if (strides == nullptr) {
    std::copy(dense.begin(), dense.end(), to);
    return;
  }
  for (std::size_t i = 0; 2 * i < dense.size(); ++i) {
    Index at = 0, rest = static_cast<Index>(i);
    for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) at += rest % shape[d] * (*strides)[d];
    std::memcpy(to + 2 * at, dense.data() + 2 * i, 2);
  }
}

/// What the source files hold of each canonical element: several values where it has copies, which may lie in bytes
/// that others share.
using Values = std::map<std::pair<int, std::vector<Index>>, std::set<std::uint16_t>>;

Values values_there(const layout::Layout& layout, const Strides& strides, const std::vector<plan::Place>& places,
                    const Files& files) {
  Values values;
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const Shape shape = layout.shape(layout.arrays()[a]);
    const auto stretched = strides.find(a);
    const Decoder decoder(layout, a);
    for (Index i = 0; i < *num_elements(shape); ++i) {
      Index at = i;
      if (stretched != strides.end()) {
        at = 0;
        Index rest = i;
        for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) at += rest % shape[d] * stretched->second[d];
      }
      std::uint16_t value = 0;
      std::memcpy(&value, files[places[a].file].data() + places[a].offset + 2 * at, 2);
      Element element = decoder.at(i);
      values[{element.tensor, std::move(element.position)}].insert(value);
    }
  }
  return values;
}

TEST(ExecuteProperty, CountersAndBytesAreThoseOfThePlan) {
  const std::uint64_t first_seed = seed_or(1);
  Index exchanged = 0, shared = 0;
  for (std::uint64_t seed = first_seed; seed < first_seed + kPlans; ++seed) {
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto any = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
    const auto canon = random_model(random);
    layout::Layout src = random_layout(random, canon);
    const layout::Layout dst = random_layout(random, canon);
    const Strides strides = stretch_some(random, src);
    std::vector<Index> src_sizes, dst_sizes;
    plan::Transfer transfer{&src, {}, &dst, {}, 0, false};
    transfer.src_places = place_arrays(src, static_cast<std::size_t>(any(1, 5)), any(0, 9), src_sizes);
    transfer.dst_places = place_arrays(dst, static_cast<std::size_t>(any(1, 5)), 2 * any(0, 20), dst_sizes);
    Files sources;
    for (const Index size : src_sizes) sources.emplace_back(static_cast<std::size_t>(size));
    for (std::uint32_t a = 0; a < src.arrays().size(); ++a) {
      const std::vector<std::byte> bytes = oracle_array(src, a);
      const plan::Place& place = transfer.src_places[a];
      const auto stretched = strides.find(a);
      put_array(bytes, src.shape(src.arrays()[a]), stretched == strides.end() ? nullptr : &stretched->second,
                sources[place.file].data() + place.offset);
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
    // By turns: the CPU, a device with messages through the host, and devices with groups of NCCL.
    const std::uint64_t engine = seed % 3;
    NcclWorld world(options.ranks);
    comm::run_virtual_ranks(options.ranks, [&](comm::Comm& comm) {
      HostDevice device(seed);
      FakeNccl nccl(world, comm.rank());
      std::unique_ptr<device::Groups> groups;
      MemorySources files(sources);
      MemorySink sink(targets);
      exec::Options how;
      how.io_threads = 2;
      how.repack_threads = 2;
      how.io_block_bytes = 128;
      if (engine > 0) how.engine.device = &device;
      if (engine == 2) {
        auto made = device::make_nccl_groups(nccl, device, comm, 60);
        ASSERT_TRUE(made) << made.error().message;
        groups = *std::move(made);
        how.engine.groups = groups.get();
      }
      const auto outcome = exec::execute(*plan->schedule(comm.rank()), files, sink, comm, how);
      ASSERT_TRUE(outcome) << outcome.error().message;
      const plan::Totals foretold = plan->totals(comm.rank());
      EXPECT_EQ(outcome->totals.bytes_read, foretold.bytes_read);
      EXPECT_EQ(outcome->totals.bytes_sent, foretold.bytes_sent);
      EXPECT_EQ(outcome->totals.bytes_received, foretold.bytes_received);
      EXPECT_EQ(outcome->totals.bytes_written, foretold.bytes_written);
      EXPECT_EQ(outcome->totals.rounds, foretold.rounds);
    });
    EXPECT_EQ(world.violations(), std::vector<std::string>());
    for (int rank = 0; rank < options.ranks; ++rank) exchanged += plan->totals(rank).bytes_sent;
    const Values values = values_there(src, strides, transfer.src_places, sources);
    for (std::uint32_t a = 0; a < dst.arrays().size(); ++a) {
      const plan::Place& place = transfer.dst_places[a];
      const Decoder decoder(dst, a);
      for (Index i = 0; i < *num_elements(dst.shape(dst.arrays()[a])); ++i) {
        const Element element = decoder.at(i);
        std::uint16_t value = 0;
        std::memcpy(&value, targets[place.file].data() + place.offset + 2 * i, 2);
        const bool is_right =
            element.tensor < 0 ? value == 0 : values.at({element.tensor, element.position}).contains(value);
        ASSERT_TRUE(is_right) << "array " << dst.name(dst.arrays()[a]) << ", element " << i;
        if (element.tensor >= 0 && value != oracle_value(*canon, element)) ++shared;
      }
    }
  }
  EXPECT_GT(exchanged, 0);
  EXPECT_GT(shared, 0) << "no view has elements that share bytes";
}

}  // namespace
}  // namespace reshard::test
