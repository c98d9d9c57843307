// SPDX-License-Identifier: Apache-2.0
#include "reshard/container/weight_map.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

// Numbers are those of the list in README.md.

namespace reshard::container {
namespace {

std::string verdict(std::string_view text) {
  auto map = parse_weight_map(text, "index.json");
  if (map) return "accepted";
  EXPECT_EQ(map.error().code, Code::input);
  EXPECT_EQ(map.error().message.find('\n'), std::string::npos);
  EXPECT_EQ(map.error().message.rfind("index.json: ", 0), 0u) << map.error().message;
  return map.error().message;
}

#define EXPECT_SAYS(index, text)                           \
  do {                                                     \
    const std::string said = verdict(index);               \
    EXPECT_NE(said.find(text), std::string::npos) << said; \
  } while (false)

TEST(HostileWeightMap, C62_FileNamesThatLeadElsewhere) {
  for (const char* file : {"../x", "/etc/passwd", "a/b", "a\\\\b", "..", ".", "", "a\\u0000b", "a\\nb", "a\\/b"}) {
    EXPECT_SAYS(fmt::format(R"({{"weight_map":{{"t":"{}"}}}})", file), "tensor \"t\": file ");
  }
  EXPECT_SAYS(fmt::format(R"({{"weight_map":{{"t":"{}"}}}})", std::string(256, 'f')),
              "is not a plain name in the same folder");
  EXPECT_EQ(verdict(R"({"weight_map":{"t":"..a"}})"), "accepted");
}

TEST(HostileWeightMap, C62_Duplicates) {
  EXPECT_SAYS(R"({"weight_map":{"t":"a","t":"b"}})", "duplicate key \"t\"");
  EXPECT_SAYS(R"({"weight_map":{"t":"a","\u0074":"a"}})", "duplicate key \"t\"");
  EXPECT_SAYS(R"({"weight_map":{},"weight_map":{}})", "duplicate key \"weight_map\"");
  EXPECT_SAYS(R"({"metadata":{"total_size":1,"total_size":2},"weight_map":{}})", "duplicate key \"total_size\"");
}

TEST(HostileWeightMap, C62_NoIndex) {
  EXPECT_SAYS("", "invalid JSON");
  EXPECT_SAYS("\xef\xbb\xbf{\"weight_map\":{}}", "byte-order mark");
  EXPECT_SAYS(std::string_view("{\"weight_map\":{}}\0", 18), "NUL byte");
  EXPECT_SAYS("{}", "has no object \"weight_map\"");
  EXPECT_SAYS("3", "has no object \"weight_map\"");
  EXPECT_SAYS("[]", "expected an object");
  for (const char* map : {"null", "3", "[]", "true"})
    EXPECT_SAYS(fmt::format(R"({{"weight_map":{}}})", map), "expected an object of file names");
  EXPECT_SAYS(R"({"weight_map":"a"})", "weight_map: expected an object");
  for (const char* file : {"null", "3", "[\"a\"]", "{\"a\":\"b\"}", "true"}) {
    EXPECT_SAYS(fmt::format(R"({{"weight_map":{{"t":{}}}}})", file), "tensor \"t\": expected a file name");
  }
  EXPECT_SAYS("<!DOCTYPE html>", "invalid JSON");
}

TEST(HostileWeightMap, C62_Limits) {
  std::string many = "{\"weight_map\":{";
  for (int i = 0; i <= 100'000; ++i)
    fmt::format_to(std::back_inserter(many), "{}\"{}\":\"f{}\"", i > 0 ? "," : "", i, i);
  EXPECT_SAYS(many + "}}", "more than 100000 files");
  EXPECT_SAYS(fmt::format(R"({{"weight_map":{{"{}":"f"}}}})", std::string(4097, 't')), "a name of 4097 bytes");
  EXPECT_SAYS(fmt::format(R"({{"weight_map":{{"t":"{}"}}}})", std::string(40'000, 'f')), "a string of more than");
  EXPECT_SAYS(fmt::format(R"({{"metadata":{}}})", std::string(1000, '[')), "nested deeper than 64");
}

}  // namespace
}  // namespace reshard::container
