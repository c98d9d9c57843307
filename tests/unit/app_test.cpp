// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "reshard/app/convert.h"
#include "reshard/app/digest.h"
#include "reshard/app/document.h"
#include "src/app/compare.h"
#include "src/app/selection.h"
#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/paths.h"

namespace reshard::app {
namespace {

template <class Raw>
PairSums compare(DType dtype, const std::vector<Raw>& a, const std::vector<Raw>& b) {
  EXPECT_EQ(a.size(), b.size());
  return compare_elements(dtype, reinterpret_cast<const std::byte*>(a.data()),
                          reinterpret_cast<const std::byte*>(b.data()), static_cast<Index>(a.size()));
}

TEST(CompareElements, SumsOverPairs) {
  const PairSums sums = compare<float>(DType::f32, {1, 2, -3, 0}, {1, 4, -3, 1});
  EXPECT_EQ(sums.elements, 4);
  EXPECT_EQ(sums.changed, 2);
  EXPECT_EQ(sums.max_abs, 2);
  EXPECT_EQ(sums.abs, 3);
  EXPECT_EQ(sums.squares, 5);
  EXPECT_EQ(sums.a_squares, 14);
  EXPECT_EQ(sums.b_squares, 27);
  EXPECT_EQ(sums.products, 18);
}

TEST(CompareElements, EqualBlocksCountInTheNorms) {
  std::vector<float> a(5000, 2.0f), b = a;
  b.back() = 3;
  const PairSums sums = compare(DType::f32, a, b);
  EXPECT_EQ(sums.elements, 5000);
  EXPECT_EQ(sums.changed, 1);
  EXPECT_EQ(sums.a_squares, 20000);
  EXPECT_EQ(sums.b_squares, 20005);
  EXPECT_EQ(sums.products, 20002);
}

TEST(CompareElements, NanEqualsItselfAndNothingElse) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  PairSums sums = compare<float>(DType::f32, {nan, infinity, 1}, {nan, infinity, 2});
  EXPECT_EQ(sums.changed, 1);
  EXPECT_EQ(sums.max_abs, 1);
  EXPECT_EQ(sums.a_squares, 1);
  sums = compare<float>(DType::f32, {nan, 1}, {-nan, 1});
  EXPECT_EQ(sums.changed, 1);
  EXPECT_EQ(sums.max_abs, 0);
  sums = compare<float>(DType::f32, {nan, infinity, infinity}, {1, -infinity, 2});
  EXPECT_EQ(sums.changed, 3);
  EXPECT_TRUE(std::isinf(sums.max_abs));
  EXPECT_EQ(sums.a_squares + sums.b_squares + sums.squares, 0);
}

// Equal is what has equal digests: bits as they are widened, so that a NaN made quiet is the same.
TEST(CompareElements, BitsThatNoDifferenceShowsCount) {
  const std::vector<PairSums> all = {
      compare<std::uint16_t>(DType::bf16, {0, 1}, {0x8000, 1}), compare<std::uint16_t>(DType::f16, {0, 1}, {0x8000, 1}),
      compare<std::uint8_t>(DType::f8_e4m3, {0, 1}, {0x80, 1}), compare<float>(DType::f32, {0.0f, 1}, {-0.0f, 1}),
      compare<double>(DType::f64, {0.0, 1}, {-0.0, 1})};
  for (const PairSums& sums : all) {
    EXPECT_EQ(sums.changed, 1);
    EXPECT_EQ(sums.max_abs, 0);
    EXPECT_EQ(sums.squares, 0);
  }
  EXPECT_EQ(compare<std::int64_t>(DType::i64, {Index{1} << 53}, {(Index{1} << 53) + 1}).changed, 1);
  EXPECT_EQ(compare<std::uint16_t>(DType::bf16, {0x7F81}, {0x7FC1}).changed, 0);
}

TEST(CompareElements, KnowsEveryDTypeOfWholeBytes) {
  EXPECT_EQ(compare<std::uint16_t>(DType::bf16, {0x3F80}, {0x4000}).max_abs, 1);
  EXPECT_EQ(compare<std::uint16_t>(DType::f16, {0x3C00}, {0x4000}).max_abs, 1);
  EXPECT_EQ(compare<std::uint8_t>(DType::f8_e4m3, {0x38}, {0x40}).max_abs, 1);
  EXPECT_EQ(compare<std::uint8_t>(DType::f8_e5m2, {0x3C}, {0x40}).max_abs, 1);
  EXPECT_EQ(compare<std::uint8_t>(DType::f8_e8m0, {0x7F}, {0x80}).max_abs, 1);
  EXPECT_EQ(compare<double>(DType::f64, {1.5}, {2.0}).max_abs, 0.5);
  EXPECT_EQ(compare<std::int8_t>(DType::i8, {-1}, {1}).max_abs, 2);
  EXPECT_EQ(compare<std::int64_t>(DType::i64, {-5}, {5}).max_abs, 10);
  EXPECT_EQ(compare<std::uint8_t>(DType::boolean, {0}, {1}).changed, 1);
  EXPECT_EQ(compare<std::uint64_t>(DType::c64, {1, 2}, {1, 2}).elements, 2 * 2);
}

TEST(Document, PutsSimpleThingsOnOneLine) {
  const nlohmann::ordered_json document = {
      {"name", "x"}, {"numbers", {1, 2}}, {"rows", {{{"a", 1}, {"shape", {2, 3}}}, {{"a", 2}, {"shape", {4}}}}}};
  const std::string text = document_text(document);
  EXPECT_EQ(text,
            "{\n  \"name\": \"x\",\n  \"numbers\": [1,2],\n  \"rows\": [\n    {\"a\":1,\"shape\":[2,3]},\n"
            "    {\"a\":2,\"shape\":[4]}\n  ]\n}\n");
  EXPECT_EQ(nlohmann::ordered_json::parse(text), document);
}

TEST(Document, WritesValuesAsTheLibraryDoes) {
  using Json = nlohmann::ordered_json;
  const Json line = {{"plain", "a.b[0]"},
                     {"quote\"d", "back\\slash \"and\" \t\n\x01\x7f"},
                     {"wide", "\u00e9\u20ac"},
                     {"unsigned", std::numeric_limits<std::uint64_t>::max()},
                     {"signed", std::numeric_limits<std::int64_t>::min()},
                     {"real", 0.1},
                     {"nothing", nullptr},
                     {"yes", true},
                     {"empty", Json::array()},
                     {"list", {"x", -1, 2.5, false}}};
  EXPECT_EQ(document_text(line), line.dump() + "\n");
  const Json table = {{"ta\"ble", {{{"lines", {line, line}}}}}};
  EXPECT_EQ(Json::parse(document_text(table)), table);
}

TEST(Document, TablesMayLieAnywhere) {
  using Json = nlohmann::ordered_json;
  const Json table = make_table("{\"a\":1}\n[2,3]\n");
  EXPECT_EQ(document_text(table), "[\n  {\"a\":1},\n  [2,3]\n]\n");
  EXPECT_EQ(document_text({{"t", table}, {"n", 4}}), "{\n  \"t\": [\n    {\"a\":1},\n    [2,3]\n  ],\n  \"n\": 4\n}\n");
  EXPECT_EQ(document_text(Json::array({4, table})), "[\n  4,\n  [\n    {\"a\":1},\n    [2,3]\n  ]\n]\n");
  EXPECT_EQ(document_text({{"l", Json::array({table})}}),
            "{\n  \"l\": [\n    [\n      {\"a\":1},\n      [2,3]\n    ]\n  ]\n}\n");
  EXPECT_EQ(document_text(make_table("")), "[]\n");
  EXPECT_EQ(document_text(make_table("1\n2")), "[\n  1,\n  2\n]\n");
}

TEST(Convert, TellsItsStages) {
  const test::TemporaryFolder folder;
  const auto comm = comm::make_self_comm();
  Engines engines(DeviceWish::cpu, ExchangeWish::automatic);
  std::vector<std::string> stages;
  const auto stage = [&](const std::string& name) {
    if (stages.empty() || stages.back() != name) stages.push_back(name);
  };
  const auto progress = [&](const Moment&) { stage("(stream)"); };
  Context context{*comm, engines, test::library(), "test", "test", {}, {}, stage, progress, {}};
  Options options;
  options.src = test::source_dir() + "/tests/interop/hf/llama-gqa";
  options.dst = folder.path("out");
  options.to = "nanotron";
  ASSERT_TRUE(convert(context, options));
  EXPECT_EQ(stages, (std::vector<std::string>{"reading headers", "planning", "claiming the output", "starting",
                                              "(stream)", "checking the source", "committing"}));
}

TEST(Selection, ExcludeWinsOverInclude) {
  Options options;
  EXPECT_TRUE(is_chosen("a.b", options));
  options.include = {"a.*", "c"};
  EXPECT_TRUE(is_chosen("a.b", options));
  EXPECT_TRUE(is_chosen("c", options));
  EXPECT_FALSE(is_chosen("d", options));
  options.exclude = {"*.b"};
  EXPECT_FALSE(is_chosen("a.b", options));
}

TEST(Digests, AreToldInOneLine) {
  const DigestLine line{"attn.q[layer=3]", {4, 2}, DType::bf16, 0x12ab};
  EXPECT_EQ(to_string(line), "rd1:00000000000012ab  attn.q[layer=3]  [4,2]");
  const std::vector<DigestLine> a = {line, {"norm", {8}, DType::bf16, 1}};
  std::vector<DigestLine> b = a;
  std::swap(b[0], b[1]);
  EXPECT_EQ(total_of(a, {}), total_of(b, {}));
  EXPECT_NE(total_of(a, {}), total_of(a, {{"head", "embed"}}));
  b[0].digest = 2;
  EXPECT_NE(total_of(a, {}), total_of(b, {}));
}

TEST(Digests, AreATableInADocument) {
  Digests digests;
  digests.lines = {{"attn.q[layer=3]", {4, 2}, DType::bf16, 0x12ab}, {"na\"me \u00e9", {}, DType::f32, 1}};
  digests.ties = {{"head", "embed"}};
  digests.total = 7;
  const nlohmann::ordered_json document = {{"a", {{"digests", to_json(digests)}}}};
  EXPECT_EQ(
      document_text(document),
      "{\n  \"a\": {\n    \"digests\": {\n      \"total\": \"rd1:0000000000000007\",\n      \"ties\": "
      "[\"head = embed\"],\n      \"vocabulary_padded\": false,\n      \"lines\": [\n        "
      "{\"name\":\"attn.q[layer=3]\",\"shape\":[4,2],\"dtype\":\"BF16\",\"digest\":\"rd1:00000000000012ab\"},\n        "
      "{\"name\":\"na\\\"me \u00e9\",\"shape\":[],\"dtype\":\"F32\",\"digest\":\"rd1:0000000000000001\"}\n      ]\n    "
      "}\n  }\n}\n");
  EXPECT_EQ(document_text(to_json(Digests{})),
            "{\"total\":\"rd1:0000000000000000\",\"ties\":[],\"vocabulary_padded\":false,\"lines\":[]}\n");
}

}  // namespace
}  // namespace reshard::app
