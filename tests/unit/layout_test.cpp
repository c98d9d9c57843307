// SPDX-License-Identifier: Apache-2.0
#include "reshard/layout/layout.h"

#include <gtest/gtest.h>

#include "reshard/layout/strided.h"

namespace reshard::layout {
namespace {

Scope scope() {
  Scope s;
  s.numbers = {{"layer", 2},  {"group", 4}, {"query", 2}, {"half", 2}, {"pair", 4},           {"embed", 6},
               {"vocab", 10}, {"ffn", 8},   {"tp", 2},    {"zero", 0}, {"tied_embeddings", 1}};
  s.sets["moe_layers"] = {1};
  return s;
}

TEST(Expression, Arithmetic) {
  EXPECT_EQ(*evaluate("group * query + 2", scope()), 10);
  EXPECT_EQ(*evaluate("round_up(vocab, 4 * tp) - vocab", scope()), 6);
  EXPECT_EQ(*evaluate("ceil_div(vocab, 3)", scope()), 4);
  EXPECT_EQ(*evaluate(" (group - 1) * (2 + 1) ", scope()), 9);
  EXPECT_EQ(*evaluate("vocab / 5", scope()), 2);
}

TEST(Expression, Refusals) {
  EXPECT_NE(evaluate("vocab / 3", scope()).error().message.find("10 is not divisible by 3"), std::string::npos);
  EXPECT_NE(evaluate("vocab / zero", scope()).error().message.find("not divisible by 0"), std::string::npos);
  EXPECT_NE(evaluate("heads * 2", scope()).error().message.find("unknown name 'heads'"), std::string::npos);
  EXPECT_NE(evaluate("9223372036854775807 + 1", scope()).error().message.find("overflow"), std::string::npos);
  EXPECT_NE(evaluate("99999999999999999999", scope()).error().message.find("overflow"), std::string::npos);
  EXPECT_NE(evaluate("1 +", scope()).error().message.find("column"), std::string::npos);
  EXPECT_FALSE(evaluate(std::string(1000, '(') + "1", scope()));
  EXPECT_FALSE(evaluate("gcd(4, 2)", scope()));
  // The least number has no negative.
  EXPECT_FALSE(evaluate("(0 - 9223372036854775807 - 1) / (0 - 1)", scope()));
  EXPECT_FALSE(evaluate("0 - (0 - 9223372036854775807 - 1)", scope()));
  EXPECT_FALSE(*holds("(0 - 1) divides (0 - 9223372036854775807 - 1)", scope()));
}

TEST(Condition, Forms) {
  EXPECT_TRUE(*holds("tp divides group", scope()));
  EXPECT_FALSE(*holds("zero divides group", scope()));
  EXPECT_TRUE(*holds("1 in moe_layers and not zero", scope()));
  EXPECT_TRUE(*holds("0 not in moe_layers", scope()));
  EXPECT_FALSE(*holds("not tied_embeddings", scope()));
  EXPECT_TRUE(*holds("half == 2 and group == 4", scope()));
  EXPECT_FALSE(holds("1 in nowhere", scope()));
}

TEST(Pattern, ReadOff) {
  using Numbers = std::map<std::string, Index>;
  EXPECT_EQ(read_off("layers.{layer}.w-{tp:03d}-of-{tp.size}", "layers.7.w-001-of-16"),
            (Numbers{{"layer", 7}, {"tp", 1}, {"tp.size", 16}}));
  EXPECT_EQ(read_off("plain", "plain"), Numbers{});
  EXPECT_EQ(read_off("{tp}/{tp:02d}", "3/03"), (Numbers{{"tp", 3}}));
  for (const char* other :
       {"layers..w", "layers.x.w", "layers.-1.w", "layers.1.v", "layers.1.w2", "layers.1", "layers.1234567890.w", ""}) {
    EXPECT_FALSE(read_off("layers.{layer}.w", other)) << other;
  }
  EXPECT_FALSE(read_off("{tp}/{tp:02d}", "3/04"));
  EXPECT_FALSE(read_off("{tp", "3"));
}

TEST(Pattern, FillIn) {
  const auto lookup = [](std::string_view name) -> std::optional<Index> {
    if (name == "layer") return 7;
    if (name == "tp.size") return 16;
    return std::nullopt;
  };
  EXPECT_EQ(*fill_in("layers.{layer}.w-{layer:03d}-of-{tp.size}", lookup), "layers.7.w-007-of-16");
  EXPECT_FALSE(fill_in("{unknown}", lookup));
  EXPECT_FALSE(fill_in("{layer", lookup));
  EXPECT_FALSE(fill_in("{layer:x}", lookup));
  EXPECT_EQ(names_in("a{layer}.{expert:02d}"), (std::vector<std::string>{"layer", "expert"}));
}

Expected<Index> extent(const std::string& axis) { return evaluate(axis, scope()); }

TEST(View, FusedQkvBlocks) {
  const View view = *parse_view("([attn.q: group query | attn.k: group | attn.v: group] half pair) embed");
  const Expansion e = *expand(view, "", extent);
  EXPECT_EQ(e.shape, (Shape{(8 + 4 + 4) * 8, 6}));
  ASSERT_EQ(e.terms.size(), 3u);
  EXPECT_EQ(e.terms[0].tensor, "attn.q");
  EXPECT_EQ(e.terms[0].offset, 0);
  EXPECT_EQ(e.terms[1].offset, 8 * 8 * 6);
  EXPECT_EQ(e.terms[2].offset, 12 * 8 * 6);
  // attn.q: group query half pair embed
  std::vector<Index> strides;
  for (const Term::Step& step : e.terms[0].steps) strides.push_back(step.stride);
  EXPECT_EQ(strides, (std::vector<Index>{2 * 8 * 6, 8 * 6, 4 * 6, 6, 1}));
}

TEST(View, InterleavedByGroup) {
  const Expansion e = *expand(*parse_view("(group [attn.q: query | attn.k: | attn.v:] half pair) embed"), "", extent);
  EXPECT_EQ(e.shape, (Shape{4 * 4 * 8, 6}));
  ASSERT_EQ(e.terms.size(), 3u);
  EXPECT_EQ(e.terms[1].offset, 2 * 8 * 6);
  EXPECT_EQ(e.terms[2].offset, 3 * 8 * 6);
  EXPECT_EQ(e.terms[1].steps[0].axis, "group");
  EXPECT_EQ(e.terms[1].steps[0].stride, 4 * 8 * 6);
}

TEST(View, TwoSumsMultiply) {
  const Expansion e =
      *expand(*parse_view("([a: vocab | ~: 3]) ([group | query] half)"), "a",
              [](const std::string& axis) -> Expected<Index> { return axis == "3" ? 3 : *extent(axis); });
  EXPECT_EQ(e.terms.size(), 4u);
  EXPECT_EQ(e.shape, (Shape{13, 12}));
}

TEST(View, DimensionStridesOfAStorage) {
  const std::vector<Index> strides = {1, 100};  // a transposed view
  const Expansion e = *expand(*parse_view("(group query) embed"), "w", extent, &strides);
  EXPECT_EQ(e.terms[0].steps[0].stride, 2);
  EXPECT_EQ(e.terms[0].steps[1].stride, 1);
  EXPECT_EQ(e.terms[0].steps[2].stride, 100);
}

TEST(View, Syntax) {
  for (const char* bad : {"(", "(a", "[a |", "a ]", "[a: b", "()", "a $"}) EXPECT_FALSE(parse_view(bad)) << bad;
  EXPECT_TRUE(parse_view(""));
  EXPECT_TRUE(expand(*parse_view(""), "scalar", extent)->shape.empty());
}

TEST(Strided, CoalesceMergesWhatAllThreeSidesAgreeOn) {
  StridedCopy copy;
  copy.rank = 4;
  copy.loops[0] = {3, 40, 80, 20};
  copy.loops[1] = {1, 7, 7, 7};
  copy.loops[2] = {4, 10, 10, 5};
  copy.loops[3] = {5, 2, 2, 1};
  coalesce(copy);
  ASSERT_EQ(copy.rank, 2);
  EXPECT_EQ(copy.loops[0], (Loop{3, 40, 80, 20}));
  EXPECT_EQ(copy.loops[1], (Loop{20, 2, 2, 1}));
}

TEST(Strided, CutsKeepExactlyTheRange) {
  StridedCopy copy;
  copy.src = 3;
  copy.dst = 100;
  copy.rank = 3;
  copy.loops[0] = {3, 1, 60, 20};
  copy.loops[1] = {4, 50, 12, 5};
  copy.loops[2] = {5, 7, 2, 1};
  const auto positions = [](const StridedCopy& c) {
    std::vector<std::pair<Index, Index>> all;
    std::vector<Index> at(static_cast<std::size_t>(c.rank), 0);
    while (true) {
      Index src = c.src, dst = c.dst;
      for (int k = 0; k < c.rank; ++k) {
        src += at[static_cast<std::size_t>(k)] * c.loops[k].src;
        dst += at[static_cast<std::size_t>(k)] * c.loops[k].dst;
      }
      all.emplace_back(dst, src);
      int k = c.rank - 1;
      while (k >= 0 && ++at[static_cast<std::size_t>(k)] == c.loops[k].size) at[static_cast<std::size_t>(k--)] = 0;
      if (k < 0) return all;
    }
  };
  const auto all = positions(copy);
  for (Index begin = 90; begin < 300; begin += 7) {
    for (Index end = begin; end < 310; end += 5) {
      std::vector<StridedCopy> parts;
      cut_by_dst(copy, begin, end, parts);
      EXPECT_LE(parts.size(), 5u);
      std::vector<std::pair<Index, Index>> found, expected;
      for (const StridedCopy& part : parts) {
        const auto some = positions(part);
        found.insert(found.end(), some.begin(), some.end());
      }
      for (const auto& position : all) {
        if (position.first >= begin && position.first < end) expected.push_back(position);
      }
      EXPECT_EQ(found, expected) << begin << ".." << end;
    }
  }
}

std::shared_ptr<const Canon> small_model() {
  Tensor q{"attn.q", {{"layer", 2}, {"group", 4}, {"query", 2}, {"half", 2}, {"pair", 4}, {"embed", 6}}, {}};
  Tensor k{"attn.k", {{"layer", 2}, {"group", 4}, {"half", 2}, {"pair", 4}, {"embed", 6}}, {}};
  Tensor embed{"embed", {{"vocab", 10}, {"embed", 6}}, {}};
  return std::make_shared<Canon>(std::vector<Tensor>{q, k, embed}, scope());
}

ArrayRule rule(const char* array, const char* tensor, const char* view, std::vector<ShardRule> shards = {}) {
  ArrayRule r;
  r.array = array;
  r.tensor = tensor;
  r.view_text = view;
  r.view = *parse_view(view);
  r.shards = std::move(shards);
  return r;
}

TEST(Layout, OrderNamesAndSlices) {
  Table table;
  table.format = "made-up";
  table.mesh_dims = {"tp"};
  table.number_order = {{"pad", "round_up(vocab, 4 * tp) - vocab"}};
  table.rules = {rule("embed", "embed", "([embed: vocab | ~: pad]) embed", {{"tp", ShardRule::Kind::dim, {}, 0}}),
                 rule("l{layer}.qk", "", "([attn.q: group query | attn.k: group] half pair) embed",
                      {{"tp", ShardRule::Kind::axis, {"group"}, 0}})};
  table.rules[1].file = "l{layer}/tp-{tp}-of-{tp.size}";
  const auto layout = Layout::predict(small_model(), table, Mesh{2, 1, 1, 1}, place_evenly(2, 1), DType::bf16, {});
  ASSERT_TRUE(layout) << layout.error().message;
  ASSERT_EQ(layout->arrays().size(), 2u + 2 * 2);
  EXPECT_EQ(layout->shape(layout->arrays()[0]), (Shape{8, 6}));  // 10 + 6 pad over 2
  EXPECT_EQ(layout->name(layout->arrays()[3]), "l0.qk");
  EXPECT_EQ(layout->file(layout->arrays()[5]), "l1/tp-1-of-2");
  const Cut& cut = layout->cut(layout->arrays()[3]);
  EXPECT_EQ(cut.whole, (Shape{96, 6}));
  EXPECT_EQ(cut.dim, 0);
  ASSERT_EQ(cut.slices.size(), 2u);
  EXPECT_EQ(cut.slices[0].begin, 0);
  EXPECT_EQ(cut.slices[0].end, 32);
  EXPECT_EQ(cut.slices[0].whole_begin, 32);
  EXPECT_EQ(cut.slices[1].begin, 32);
  EXPECT_EQ(cut.slices[1].end, 48);
  EXPECT_EQ(cut.slices[1].whole_begin, 64 + 16);
  EXPECT_EQ(layout->fills(1).size(), 1u);
}

TEST(Layout, ZerosStandBesideATensor) {
  Table table;
  table.format = "made-up";
  table.rules = {rule("embed", "embed", "vocab embed"), rule("q{layer}", "attn.q", "group query half pair embed"),
                 rule("q{layer}.bias", "attn.q", "([~: group query] half pair)"),
                 rule("k{layer}", "attn.k", "group half pair embed"), rule("v{layer}.bias", "attn.v", "([~: group])")};
  const auto names = [&](std::vector<Index> layers_of_q) {
    std::vector<Tensor> tensors = small_model()->tensors();
    tensors[0].layers = std::move(layers_of_q);
    const auto layout =
        Layout::predict(std::make_shared<Canon>(tensors, scope()), table, {}, place_evenly(2, 1), DType::bf16, {});
    EXPECT_TRUE(layout) << layout.error().message;
    std::vector<std::string> all;
    for (std::uint32_t a = 0; a < layout->arrays().size(); ++a) {
      const Array& array = layout->arrays()[a];
      all.push_back(layout->name(array));
      if (!all.back().ends_with(".bias")) continue;
      EXPECT_EQ(layout->shape(array), Shape{4 * 2 * 2 * 4});
      EXPECT_TRUE(layout->tensors(array).empty());
      EXPECT_EQ(layout->fills(a).size(), 1u);
    }
    return all;
  };
  EXPECT_EQ(names({}), (std::vector<std::string>{"embed", "q0", "q0.bias", "k0", "q1", "q1.bias", "k1"}));
  EXPECT_EQ(names({1}), (std::vector<std::string>{"embed", "k0", "q1", "q1.bias", "k1"}));
}

TEST(Layout, Refusals) {
  const auto message = [](Table table, Mesh mesh) {
    const auto layout = Layout::predict(small_model(), std::move(table), mesh, {}, DType::bf16, {});
    return layout ? std::string("accepted") : layout.error().message;
  };
  Table table;
  table.format = "made-up";
  table.rules = {rule("embed", "embed", "vocab embed"), rule("q{layer}", "attn.q", "group query half pair embed")};
  EXPECT_NE(message(table, {}).find("no place for the tensor attn.k"), std::string::npos);
  EXPECT_NE(message(table, Mesh{2, 1, 1, 1}).find("does not shard by tp"), std::string::npos);
  table.rules.push_back(rule("k", "attn.k", "group half pair embed"));
  EXPECT_NE(message(table, {}).find("axis layer of tensor attn.k is covered 0 times"), std::string::npos);
  table.rules.back() =
      rule("k{layer}", "attn.k", "group half pair embed", {{"tp", ShardRule::Kind::axis, {"group"}, 0}});
  table.mesh_dims = {"tp"};
  EXPECT_NE(message(table, Mesh{3, 1, 1, 1}).find("tp=3 does not divide group (4)"), std::string::npos);
  table.require = {{"tp divides group", "TP {tp} must divide the kv heads"}};
  EXPECT_NE(message(table, Mesh{3, 1, 1, 1}).find("TP 3 must divide the kv heads"), std::string::npos);
  EXPECT_EQ(message(table, Mesh{2, 1, 1, 1}), "accepted");
}

TEST(Layout, EvenPlacement) {
  EXPECT_EQ(place_evenly(7, 3).layer_stage, (std::vector<Index>{0, 0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(place_evenly(2, 4).layer_stage, (std::vector<Index>{0, 1}));
}

}  // namespace
}  // namespace reshard::layout
