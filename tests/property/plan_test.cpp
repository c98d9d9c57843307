// SPDX-License-Identifier: Apache-2.0
// Random models, formats, meshes and job sizes: every element of the target is what the oracle says, whoever moved it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "reshard/layout/canonical_table.h"
#include "tests/support/oracle.h"
#include "tests/support/random_layouts.h"
#include "tests/support/seed.h"

namespace reshard::test {
namespace {

constexpr int kCases = 150;

Files oracle_files(const layout::Layout& layout, const std::vector<plan::Place>& places,
                   const std::vector<Index>& sizes) {
  Files files;
  for (const Index size : sizes) files.emplace_back(static_cast<std::size_t>(size), std::byte{0x55});
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const std::vector<std::byte> bytes = oracle_array(layout, a);
    if (!bytes.empty()) std::memcpy(files[places[a].file].data() + places[a].offset, bytes.data(), bytes.size());
  }
  return files;
}

/// Arrays that hold something else than the oracle says.
int wrong_arrays(const layout::Layout& layout, const std::vector<plan::Place>& places, const Files& files) {
  int wrong = 0;
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const std::vector<std::byte> expected = oracle_array(layout, a);
    if (expected.empty()) continue;
    wrong += std::memcmp(expected.data(), files[places[a].file].data() + places[a].offset, expected.size()) != 0;
  }
  return wrong;
}

plan::Sizes small_sizes(std::mt19937_64& random) {
  const auto pick = [&](std::initializer_list<Index> from) {
    return *(from.begin() + std::uniform_int_distribution<std::ptrdiff_t>(0, std::ssize(from) - 1)(random));
  };
  plan::Sizes sizes;
  sizes.span = pick({64, 256, 4096});
  sizes.round = pick({128, 512, 2048, 65536});
  sizes.small_round = pick({64, 256, 65536});
  sizes.smallest_round = 64;
  sizes.short_run = pick({8, 32, 256});
  sizes.bridged_gap = pick({0, 4, 64});
  sizes.finest = pick({8, 32});
  sizes.page = pick({2, 16, 64});
  return sizes;
}

TEST(PlanProperty, LayoutsHoldEveryCanonicalElement) {
  for (std::uint64_t seed = seed_or(1); seed < seed_or(1) + kCases; ++seed) {
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto canon = random_model(random);
    const layout::Layout layout = random_layout(random, canon);
    std::map<std::pair<int, std::vector<Index>>, int> seen;
    for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
      const Index n = *num_elements(layout.shape(layout.arrays()[a]));
      const Decoder decoder(layout, a);
      for (Index i = 0; i < n; ++i) {
        const Element element = decoder.at(i);
        if (element.tensor >= 0) ++seen[{element.tensor, element.position}];
      }
    }
    Index expected = 0;
    for (const layout::Tensor& tensor : canon->tensors()) {
      Index n = 1;
      for (const layout::Axis& axis : tensor.axes) n *= axis.size;
      expected += n;
    }
    ASSERT_EQ(std::ssize(seen), expected);
  }
}

TEST(PlanProperty, TargetsAreWhatTheOracleSays) {
  int exchanged = 0, many_rounds = 0;
  for (std::uint64_t seed = seed_or(1); seed < seed_or(1) + kCases; ++seed) {
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto canon = random_model(random);
    const layout::Layout src = random_layout(random, canon), dst = random_layout(random, canon);
    SCOPED_TRACE(src.table().format + " -> " + dst.table().format);
    const auto any = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
    std::vector<Index> src_sizes, dst_sizes;
    plan::Transfer transfer{&src, {}, &dst, {}, 0, false};
    transfer.src_places = place_arrays(src, static_cast<std::size_t>(any(1, 5)), any(0, 9), src_sizes);
    const Index header = 2 * any(0, 20);
    transfer.dst_places = place_arrays(dst, static_cast<std::size_t>(any(1, 5)), header, dst_sizes);
    const Files sources = oracle_files(src, transfer.src_places, src_sizes);
    const std::string header_bytes(static_cast<std::size_t>(header), 'h');
    std::vector<plan::TargetFile> targets;
    for (const Index size : dst_sizes) targets.push_back({size, {{0, header_bytes}}});

    Files first;
    std::uint64_t hash = 0;
    for (const int ranks : {1, 2, 3, 5}) {
      for (const plan::Route route : {plan::Route::direct, plan::Route::exchange}) {
        SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::string(to_string(route)));
        plan::Options options;
        options.ranks = ranks;
        options.route = route;
        options.sizes = small_sizes(random);
        const auto plan = plan::Plan::make({transfer}, targets, options);
        ASSERT_TRUE(plan) << plan.error().message;
        std::vector<plan::Totals> totals;
        const Files out = execute_naively(*plan, sources, dst_sizes, totals);
        for (int rank = 0; rank < ranks; ++rank) {
          ASSERT_TRUE(plan->totals(rank) == totals[static_cast<std::size_t>(rank)]);
          exchanged += totals[static_cast<std::size_t>(rank)].bytes_sent > 0;
          many_rounds += totals[static_cast<std::size_t>(rank)].rounds > 3;
        }
        if (first.empty()) {
          first = out;
          hash = plan->hash();
          ASSERT_EQ(wrong_arrays(dst, transfer.dst_places, out), 0);
          for (const auto& file : out) ASSERT_EQ(std::memcmp(file.data(), header_bytes.data(), header_bytes.size()), 0);
        }
        ASSERT_EQ(first, out);
        ASSERT_EQ(hash, plan->hash());
      }
    }
  }
  EXPECT_GT(exchanged, kCases);
  EXPECT_GT(many_rounds, kCases);
}

// Parts of the work, each resumed from some point, by any number of ranks: every span is made by one of them, and they
// are cut alike however they are run.
TEST(PlanProperty, PartsMakeTheWhole) {
  int shared = 0;
  for (std::uint64_t seed = seed_or(1); seed < seed_or(1) + kCases; ++seed) {
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto canon = random_model(random);
    const layout::Layout src = random_layout(random, canon), dst = random_layout(random, canon);
    const auto any = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
    std::vector<Index> src_sizes, dst_sizes;
    plan::Transfer transfer{&src, {}, &dst, {}, 0, false};
    transfer.src_places = place_arrays(src, static_cast<std::size_t>(any(1, 5)), any(0, 9), src_sizes);
    transfer.dst_places = place_arrays(dst, static_cast<std::size_t>(any(1, 5)), 2 * any(0, 20), dst_sizes);
    const Files sources = oracle_files(src, transfer.src_places, src_sizes);
    std::vector<plan::TargetFile> targets;
    for (const Index size : dst_sizes) targets.push_back({size, {}});

    plan::Options options;
    options.sizes = small_sizes(random);
    const Index span_bytes = options.sizes.span;
    const auto whole = plan::Plan::make({transfer}, targets, options);
    ASSERT_TRUE(whole) << whole.error().message;
    std::vector<plan::Totals> totals;
    const Files expected = execute_naively(*whole, sources, dst_sizes, totals);
    std::vector<std::vector<bool>> done;
    for (const Index size : dst_sizes) {
      std::vector<bool>& file = done.emplace_back();
      for (Index span = 0; span * span_bytes < size; ++span) file.push_back(any(0, 3) == 0);
    }
    const int parts = static_cast<int>(any(1, 6));
    std::vector<std::vector<int>> maker;  // of each span: the part, or -1
    for (const auto& file : done) maker.emplace_back(file.size(), -1);
    for (int part = 0; part < parts; ++part) {
      options.parts = parts;
      options.part = part;
      options.ranks = static_cast<int>(any(1, 4));
      options.route = any(0, 1) == 1 ? plan::Route::exchange : plan::Route::direct;
      options.done = done;
      const auto plan = plan::Plan::make({transfer}, targets, options);
      ASSERT_TRUE(plan) << plan.error().message;
      ASSERT_EQ(plan->hash(), whole->hash());
      const Files out = execute_naively(*plan, sources, dst_sizes, totals);
      Index written = 0;
      for (int rank = 0; rank < options.ranks; ++rank) {
        ASSERT_TRUE(plan->totals(rank) == totals[static_cast<std::size_t>(rank)]);
        written += plan->totals(rank).bytes_written;
      }
      ASSERT_EQ(written, plan->target_bytes());
      options.ranks = 1;
      options.done.clear();
      const auto alone = plan::Plan::make({transfer}, targets, options);
      ASSERT_TRUE(alone) << alone.error().message;
      for (std::uint32_t f = 0; f < maker.size(); ++f) {
        for (std::size_t span = 0; span < maker[f].size(); ++span) {
          const bool mine = plan->owner(f, static_cast<Index>(span)) >= 0;
          ASSERT_EQ(mine, !done[f][span] && alone->owner(f, static_cast<Index>(span)) >= 0);
          if (!mine) continue;
          ASSERT_EQ(maker[f][span], -1);
          maker[f][span] = part;
          const auto begin = static_cast<std::ptrdiff_t>(span) * span_bytes;
          const auto end = std::min<std::ptrdiff_t>(begin + span_bytes, std::ssize(out[f]));
          ASSERT_TRUE(std::equal(out[f].begin() + begin, out[f].begin() + end, expected[f].begin() + begin));
        }
      }
      shared += part > 0 && plan->target_bytes() > 0;
    }
    for (std::uint32_t f = 0; f < maker.size(); ++f) {
      for (std::size_t span = 0; span < maker[f].size(); ++span) ASSERT_EQ(maker[f][span] < 0, done[f][span]);
    }
  }
  EXPECT_GT(shared, kCases / 2);
}

TEST(PlanProperty, DigestsDoNotDependOnTheLayoutAndReplicasAreCompared) {
  int replicas = 0;
  for (std::uint64_t seed = seed_or(1); seed < seed_or(1) + kCases; ++seed) {
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto canon = random_model(random);
    const auto canonical = layout::Layout::predict(canon, layout::canonical_table(*canon), {}, {}, DType::bf16, {});
    ASSERT_TRUE(canonical) << canonical.error().message;
    std::vector<std::uint64_t> first;
    for (int i = 0; i < 2; ++i) {
      const layout::Layout src = random_layout(random, canon);
      std::vector<Index> src_sizes, dst_sizes, same_sizes;
      plan::Transfer transfer{&src, {}, &*canonical, {}, 0, false};
      transfer.src_places = place_arrays(src, 2, 8, src_sizes);
      transfer.dst_places = place_arrays(*canonical, 3, 0, dst_sizes);
      Files sources = oracle_files(src, transfer.src_places, src_sizes);
      const auto run = [&](const plan::Transfer& what, const std::vector<Index>& sizes) {
        std::vector<plan::TargetFile> targets;
        for (const Index size : sizes) targets.push_back({size, {}});
        plan::Options options;
        options.ranks = 2;
        options.sizes = small_sizes(random);
        const auto plan = plan::Plan::make({what}, targets, options);
        EXPECT_TRUE(plan) << plan.error().message;
        std::vector<plan::Totals> totals;
        std::vector<std::uint64_t> digests;
        execute_naively(*plan, sources, sizes, totals, &digests);
        return digests;
      };
      const std::vector<std::uint64_t> digests = run(transfer, dst_sizes);
      if (first.empty()) first = digests;
      ASSERT_EQ(first, digests) << src.table().format;

      // Each piece by itself: replicas of one box agree, until one of them is damaged.
      plan::Transfer itself{&src, transfer.src_places, &src, transfer.src_places, 0, true};
      const std::vector<plan::PieceLine> lines = plan::piece_lines(src);
      const auto disagreeing = [&](const std::vector<std::uint64_t>& by_piece) {
        std::map<std::vector<Index>, std::uint64_t> boxes;
        int different = 0;
        for (std::size_t l = 0; l < lines.size(); ++l) {
          const layout::Piece& piece = lines[l].piece;
          std::vector<Index> box = {lines[l].tensor};
          box.insert(box.end(), piece.begin, piece.begin + piece.rank);
          box.insert(box.end(), piece.size, piece.size + piece.rank);
          const auto [at, fresh] = boxes.emplace(box, by_piece[l]);
          EXPECT_EQ(fresh, !piece.replica);
          different += at->second != by_piece[l];
        }
        return different;
      };
      ASSERT_EQ(disagreeing(run(itself, src_sizes)), 0);
      for (const plan::PieceLine& line : lines) {
        if (!line.piece.replica) continue;
        ++replicas;
        const plan::Place& place = transfer.src_places[line.piece.array];
        sources[place.file][static_cast<std::size_t>(place.offset + 2 * line.piece.offset)] ^= std::byte{1};
        ASSERT_EQ(disagreeing(run(itself, src_sizes)), 1);
        break;
      }
    }
  }
  EXPECT_GT(replicas, kCases / 10);
}

TEST(PlanProperty, AWrongRuleIsCaught) {
  // Gate and up have one shape: swapped, nothing but the values can tell.
  int caught = 0;
  for (std::uint64_t seed = seed_or(1); seed < seed_or(1) + 20; ++seed) {
    SCOPED_TRACE("RESHARD_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto canon = random_model(random);
    const layout::Layout src = random_layout(random, canon, "plain");
    layout::Table table = src.table();
    for (layout::ArrayRule& rule : table.rules) {
      if (rule.tensor == "gate" || rule.tensor == "up") rule.tensor = rule.tensor == "gate" ? "up" : "gate";
    }
    const auto wrong = layout::Layout::predict(canon, table, {}, {}, DType::bf16, {});
    ASSERT_TRUE(wrong);
    std::vector<Index> src_sizes, dst_sizes;
    plan::Transfer transfer{&src, {}, &*wrong, {}, 0, false};
    transfer.src_places = place_arrays(src, 3, 0, src_sizes);
    transfer.dst_places = place_arrays(*wrong, 3, 0, dst_sizes);
    std::vector<plan::TargetFile> targets;
    for (const Index size : dst_sizes) targets.push_back({size, {}});
    const auto plan = plan::Plan::make({transfer}, targets, {});
    ASSERT_TRUE(plan) << plan.error().message;
    std::vector<plan::Totals> totals;
    const Files out = execute_naively(*plan, oracle_files(src, transfer.src_places, src_sizes), dst_sizes, totals);
    EXPECT_EQ(wrong_arrays(*wrong, transfer.dst_places, out), 0);
    const int differing = wrong_arrays(src, transfer.dst_places, out);
    EXPECT_EQ(differing, 2 * canon->scope().numbers.at("layer"));
    caught += differing;
  }
  EXPECT_GE(caught, 40);
}

}  // namespace
}  // namespace reshard::test
