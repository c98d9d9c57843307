// SPDX-License-Identifier: Apache-2.0
#include "reshard/base/text.h"

#include <gtest/gtest.h>

namespace reshard {
namespace {

TEST(Text, ParsesSizes) {
  EXPECT_EQ(parse_size("4096"), 4096);
  EXPECT_EQ(parse_size("0"), 0);
  EXPECT_EQ(parse_size("5GB"), 5'000'000'000);
  EXPECT_EQ(parse_size("5gb"), 5'000'000'000);
  EXPECT_EQ(parse_size("2GiB"), 2 * kGiB);
  EXPECT_EQ(parse_size("1.5 GiB"), 3 * kGiB / 2);
  EXPECT_EQ(parse_size("0.1GB"), 100'000'000);
  EXPECT_EQ(parse_size("16 KiB"), 16 * kKiB);
  EXPECT_EQ(parse_size("3B"), 3);
  EXPECT_EQ(parse_size("8PiB"), Index{8} << 50);
  EXPECT_EQ(parse_size("9223372036854775807"), INT64_MAX);
}

TEST(Text, RefusesWhatIsNoSize) {
  for (const char* text : {"",
                           " ",
                           "GB",
                           "-1",
                           "+1",
                           "1.",
                           ".5GB",
                           "1.5",
                           "1.5B",
                           "5G",
                           "5M",
                           "5 GBs",
                           "5  GB",
                           "5GB ",
                           "5 ",
                           " 5",
                           "1e9",
                           "0x10",
                           "5GiiB",
                           "5iB",
                           "9223372036854775808",
                           "10000PiB",
                           "1.12345678901GB",
                           "1,5GB",
                           "nan"}) {
    EXPECT_FALSE(parse_size(text)) << text;
  }
}

TEST(Text, DescribesBytes) {
  EXPECT_EQ(describe_bytes(0), "0 B");
  EXPECT_EQ(describe_bytes(1023), "1023 B");
  EXPECT_EQ(describe_bytes(1024), "1.0 KiB");
  EXPECT_EQ(describe_bytes(kMiB - 1), "1.0 MiB");
  EXPECT_EQ(describe_bytes(16 * kMiB), "16.0 MiB");
  EXPECT_EQ(describe_bytes(INT64_MAX), "8.0 EiB");
}

TEST(Text, DescribesRates) {
  EXPECT_EQ(describe_rate(0), "0 B/s");
  EXPECT_EQ(describe_rate(999), "999 B/s");
  EXPECT_EQ(describe_rate(1.35e9), "1.35 GB/s");
  EXPECT_EQ(describe_rate(200e6), "200 MB/s");
  EXPECT_EQ(describe_rate(12.34e6), "12.3 MB/s");
  EXPECT_EQ(describe_rate(999.9e6), "1.00 GB/s");
}

TEST(Text, DescribesSeconds) {
  EXPECT_EQ(describe_seconds(0.0123), "12 ms");
  EXPECT_EQ(describe_seconds(1.2), "1.2 s");
  EXPECT_EQ(describe_seconds(59.96), "1 min 00 s");
  EXPECT_EQ(describe_seconds(185), "3 min 05 s");
  EXPECT_EQ(describe_seconds(3600), "1 h 00 min");
  EXPECT_EQ(describe_seconds(7800), "2 h 10 min");
}

TEST(Text, MatchesGlobs) {
  EXPECT_TRUE(matches_glob("*", ""));
  EXPECT_TRUE(matches_glob("*", "a.b/c"));
  EXPECT_TRUE(matches_glob("model.layers.*.weight", "model.layers.0.mlp.up_proj.weight"));
  EXPECT_FALSE(matches_glob("model.layers.*.weight", "model.layers.0.mlp.up_proj.weights"));
  EXPECT_TRUE(matches_glob("a?c", "abc"));
  EXPECT_FALSE(matches_glob("a?c", "ac"));
  EXPECT_TRUE(matches_glob("layer[012].w", "layer2.w"));
  EXPECT_FALSE(matches_glob("layer[012].w", "layer3.w"));
  EXPECT_TRUE(matches_glob("layer[0-9].w", "layer3.w"));
  EXPECT_TRUE(matches_glob("[-a]", "-"));
  EXPECT_TRUE(matches_glob("a[", "a["));
  EXPECT_TRUE(matches_glob("[]", "[]"));
  EXPECT_TRUE(matches_glob("*a*b*", "xxaxxbxx"));
  EXPECT_FALSE(matches_glob("", "a"));
  EXPECT_TRUE(matches_glob("", ""));
  EXPECT_TRUE(matches_glob("*[ab]c", "acbc"));
  // Would take ages with naive recursion.
  EXPECT_FALSE(matches_glob("*a*a*a*a*a*a*a*a*a*a*b", std::string(2000, 'a')));
}

TEST(Text, GuessesSlips) {
  const std::vector<std::string> names = {"overwrite", "memory-budget", "tp", "pp", "to", "from"};
  EXPECT_EQ(did_you_mean("overwite", names), "overwrite");
  EXPECT_EQ(did_you_mean("memroy-budget", names), "memory-budget");
  EXPECT_EQ(did_you_mean("tpp", names), "tp");
  EXPECT_EQ(did_you_mean("fro", names), "from");
  EXPECT_FALSE(did_you_mean("banana", names));
  EXPECT_FALSE(did_you_mean("x", names));
  EXPECT_FALSE(did_you_mean("anything", {}));
}

TEST(Text, SplitsAndJoins) {
  EXPECT_EQ(split("a,b,,c", ','), (std::vector<std::string>{"a", "b", "", "c"}));
  EXPECT_EQ(split("", ','), (std::vector<std::string>{""}));
  EXPECT_EQ(split("abc", ','), (std::vector<std::string>{"abc"}));
  EXPECT_EQ(join({"a", "b"}, ", "), "a, b");
  EXPECT_EQ(join({}, ", "), "");
}

}  // namespace
}  // namespace reshard
