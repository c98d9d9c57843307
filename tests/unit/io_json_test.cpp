// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "reshard/io/json.h"

namespace reshard::io {
namespace {

std::string problem(std::string_view text) {
  auto json = parse_strict_json(text, "config.json");
  return json ? "none" : json.error().message;
}

TEST(StrictJson, ParsesWhatIsPlain) {
  auto json =
      parse_strict_json(" {\"a\": [1, -2, 3.5, true, null, \"x\\u00e9\"], \"b\": {\"a\": {}}}\r\n\t", "config.json");
  ASSERT_TRUE(json) << json.error().message;
  EXPECT_EQ((*json)["a"][5], "xé");
  EXPECT_EQ(parse_strict_json("3", "f")->get<int>(), 3);
  // Keys of objects beside and inside each other may be equal.
  EXPECT_EQ(problem(R"({"a":{"a":1},"b":{"a":1},"c":[{"a":1},{"a":1}]})"), "none");
}

TEST(StrictJson, RefusesDuplicateKeysAtEveryLevel) {
  EXPECT_EQ(problem(R"({"a":1,"b":2,"a":3})"), R"(config.json: byte 16: duplicate key "a")");
  EXPECT_NE(problem(R"({"x":{"y":[{"a":1,"\u0061":2}]}})").find("duplicate key"), std::string::npos);
  EXPECT_NE(problem(R"({"q\"":1,"q\u0022":2})").find(R"(duplicate key "q\"")"), std::string::npos);
  EXPECT_NE(problem(R"({"\\":1,"\u005c":2})").find("duplicate key"), std::string::npos);
  EXPECT_EQ(problem(R"({"\\":1,"\"":2,"\\\"":3,"":4})"), "none");
}

TEST(StrictJson, RefusesWhatParsersDisagreeAbout) {
  for (std::string_view text :
       {std::string_view("{}\0", 3), std::string_view("\xEF\xBB\xBF{}"), std::string_view("{} {}"),
        std::string_view("{}x"), std::string_view(""), std::string_view(" "), std::string_view("{\"a\":1,}"),
        std::string_view("[1,]"), std::string_view("{\"a\":01}"), std::string_view("[NaN]"),
        std::string_view("// c\n{}"), std::string_view("{'a':1}"), std::string_view("[\"\xff\"]"),
        std::string_view("[\"\xc0\x80\"]"), std::string_view("[\"\\ud800\"]"), std::string_view("[\"a\nb\"]"),
        std::string_view("[\"a"), std::string_view("{\"a\":1"), std::string_view("[1e999]")}) {
    EXPECT_NE(problem(text), "none") << text;
    EXPECT_EQ(problem(text).find('\n'), std::string::npos) << problem(text);
  }
}

TEST(StrictJson, BoundsDepthAndSize) {
  EXPECT_EQ(problem(std::string(64, '[') + std::string(64, ']')), "none");
  EXPECT_EQ(problem(std::string(65, '[') + std::string(65, ']')), "config.json: byte 65: nested deeper than 64");
  EXPECT_NE(problem(std::string(100'000'000, '[')).find("at most"), std::string::npos);
  EXPECT_NE(problem('"' + std::string(17 * kMiB, 'a') + '"').find("a string of more than"), std::string::npos);
}

TEST(StrictJson, NamesTheByte) {
  EXPECT_NE(problem("{\"a\": tru}").find("config.json: byte 10: invalid JSON"), std::string::npos)
      << problem("{\"a\": tru}");
}

}  // namespace
}  // namespace reshard::io
