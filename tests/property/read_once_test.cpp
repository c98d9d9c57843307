// SPDX-License-Identifier: Apache-2.0
// What plans of conversions at full size keep to: the budgets that they name are the smallest, for layouts that cut
// columns of the source; slots hold what rounds need; cuts lie on pages.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "reshard/app/stream.h"
#include "reshard/plan/plan.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"

namespace reshard::test {
namespace {

constexpr double kReadOnce = 1.01;

/// A conversion of a synthetic checkpoint of about a gigabyte, of which nothing is read.
struct Conversion {
  std::string name;
  format::Checkpoint source;
  format::Target target;

  Conversion(const std::string& config, const std::string& format, Index tp)
      : name(format + " tp " + std::to_string(tp)) {
    const TemporaryFolder folder;
    put_file(folder.path("config.json"), config);
    auto opened = open("synthetic:" + folder.path("config.json"));
    if (!opened) throw std::runtime_error(opened.error().message);
    source = *std::move(opened);
    format::TargetOptions options;
    options.mesh.tp = tp;
    auto described = format::describe_target(source, format, options, library());
    if (!described) throw std::runtime_error(described.error().message);
    target = *std::move(described);
  }

  Expected<plan::Plan> plan(const plan::Options& options) const {
    plan::Transfer transfer{source.layout.get(), app::places_of(source), target.layout.get(), {}, 0, false};
    for (std::size_t a = 0; a < target.file_of_array.size(); ++a) {
      transfer.dst_places.push_back({target.file_of_array[a], target.offset_of_array[a]});
    }
    std::vector<plan::TargetFile> files;
    for (const container::FileImage& image : target.images) files.push_back({image.size, {}});
    return plan::Plan::make({transfer}, files, options);
  }
};

double amplification(const plan::Plan& plan) {
  Index read = 0;
  for (int rank = 0; rank < plan.ranks(); ++rank) read += plan.totals(rank).bytes_read;
  return static_cast<double>(read) / static_cast<double>(plan.source_bytes());
}

std::vector<Conversion> conversions() {
  const std::string dense = R"({"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 8, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
    "torch_dtype": "bfloat16"})";
  const std::string experts = R"({"model_type": "qwen2_moe", "hidden_size": 1024, "intermediate_size": 5632,
    "num_hidden_layers": 6, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000,
    "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 704, "shared_expert_intermediate_size": 2816,
    "torch_dtype": "bfloat16"})";
  std::vector<Conversion> all;
  all.emplace_back(dense, "nanotron", 4);
  all.emplace_back(dense, "meta", 2);
  all.emplace_back(experts, "nanotron", 4);
  return all;
}

/// Calls check(conversion, options) for several numbers of ranks and all routes.
template <class Check>
void for_each_case(Check&& check) {
  for (const Conversion& conversion : conversions()) {
    for (const int ranks : {1, 4, 32}) {
      for (const plan::Route route : {plan::Route::automatic, plan::Route::direct, plan::Route::exchange}) {
        SCOPED_TRACE(conversion.name + ", " + std::to_string(ranks) + " ranks, " + std::string(to_string(route)));
        plan::Options options;
        options.ranks = ranks;
        options.route = route;
        options.table_bytes = kMiB;
        check(conversion, options);
      }
    }
  }
}

TEST(PlanProperty, ReadsOnceFromTheBudgetThatItNames) {
  for_each_case([](const Conversion& conversion, plan::Options options) {
    const auto ample = conversion.plan(options);
    ASSERT_TRUE(ample) << ample.error().message;
    EXPECT_LE(amplification(*ample), kReadOnce);
    const Index budget = ample->read_once_budget();
    ASSERT_GT(budget, 0);
    EXPECT_LT(budget, options.memory_budget);

    options.memory_budget = budget;
    const auto enough = conversion.plan(options);
    ASSERT_TRUE(enough) << enough.error().message;
    EXPECT_LE(amplification(*enough), kReadOnce);
    EXPECT_LE(enough->memory_bytes() + enough->slot_memory_bytes() + options.table_bytes, budget);
    EXPECT_EQ(enough->read_once_budget(), budget);

    options.memory_budget = budget - 1;
    options.route = ample->route();
    const auto less = conversion.plan(options);
    if (!less) {
      EXPECT_EQ(less.error().code, Code::usage);
      return;
    }
    EXPECT_GT(amplification(*less), kReadOnce);
    Index written = 0;
    for (int rank = 0; rank < options.ranks; ++rank) written += less->totals(rank).bytes_written;
    EXPECT_EQ(written, less->target_bytes());
    EXPECT_LE(less->memory_bytes() + less->slot_memory_bytes() + options.table_bytes, budget - 1);
  });
}

TEST(PlanProperty, TheSmallestBudgetThatARefusalNamesIsTheSmallest) {
  for_each_case([](const Conversion& conversion, plan::Options options) {
    const auto smallest_kib = [&]() -> Index {
      const auto refused = conversion.plan(options);
      if (refused) return 0;
      const std::string& line = refused.error().message;
      const std::string before = "the smallest that works is ";
      const std::size_t at = line.find(before);
      return at == std::string::npos ? -1 : std::stoll(line.substr(at + before.size()));
    };
    options.memory_budget = kKiB;
    const Index smallest = smallest_kib();
    ASSERT_GT(smallest, 1) << "no refusal";
    options.memory_budget = smallest * kKiB;
    EXPECT_EQ(smallest_kib(), 0) << "does not work";
    options.memory_budget = (smallest - 1) * kKiB;
    EXPECT_EQ(smallest_kib(), smallest);
  });
}

// Also where a restart has little of a group left to make.
TEST(PlanProperty, SlotsHoldWhatRoundsNeed) {
  std::mt19937_64 random(3);
  for_each_case([&](const Conversion& conversion, plan::Options options) {
    for (const Index budget : {Index{64}, Index{1024}}) {
      for (const bool restart : {false, true}) {
        options.memory_budget = budget * kMiB;
        options.done.clear();
        for (const container::FileImage& image : conversion.target.images) {
          if (!restart) break;
          std::vector<bool>& spans = options.done.emplace_back();
          for (Index at = 0; at < image.size; at += plan::kSpanBytes) spans.push_back(random() % 4 != 0);
        }
        const auto plan = conversion.plan(options);
        if (!plan) continue;
        for (int rank = 0; rank < options.ranks; ++rank) {
          const auto schedule = plan->schedule(rank);
          for (Index i = 0; i < schedule->num_rounds(); ++i) {
            const plan::Round round = schedule->round(i);
            const auto fits = [&](plan::Slot slot, const auto& pieces) {
              for (const auto& piece : pieces) {
                ASSERT_LE(piece.slot_offset + piece.length, schedule->slot_bytes(slot))
                    << "rank " << rank << ", round " << i << ", slot " << static_cast<int>(slot);
              }
            };
            fits(plan::Slot::source, round.reads);
            fits(plan::Slot::output, round.writes);
            fits(plan::Slot::outgoing, round.sends);
            fits(plan::Slot::received, round.receives);
          }
        }
      }
    }
  });
}

// Bytes beside a cut that lies elsewhere would go through the page cache.
TEST(PlanProperty, CutsArraysAtPagesWhateverTheirSize) {
  // Rounds of 3.8 GB on one rank, 15 MB each, would be no whole pages.
  const Conversion conversion(R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 4, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "torch_dtype": "bfloat16"})",
                              "hf", 1);
  const plan::Options options;
  const auto plan = conversion.plan(options);
  ASSERT_TRUE(plan) << plan.error().message;
  std::set<std::pair<std::uint32_t, Index>> natural;
  for (std::size_t a = 0; a < conversion.target.file_of_array.size(); ++a) {
    natural.insert({conversion.target.file_of_array[a], conversion.target.offset_of_array[a]});
  }
  const auto schedule = plan->schedule(0);
  int cuts = 0;
  for (Index i = 0; i < schedule->num_rounds(); ++i) {
    for (const plan::Write& write : schedule->round(i).writes) {
      if (write.offset == 0 || natural.contains({write.file, write.offset})) continue;
      ++cuts;
      ASSERT_EQ(write.offset % options.sizes.page, 0) << write.offset;
    }
  }
  EXPECT_GT(cuts, 100);
}

}  // namespace
}  // namespace reshard::test
