// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdio>
#include <stdexcept>

#include "src/container/child.h"

namespace reshard::container {
namespace {

TEST(Child, GivesBackWhatItWasAskedFor) {
  EXPECT_EQ(*run_in_child([] { return std::string("a\0b", 3); }), std::string("a\0b", 3));
  EXPECT_EQ(*run_in_child([] { return std::string(); }), "");
  // More than a pipe holds.
  EXPECT_EQ(*run_in_child([] { return std::string(5'000'000, 'x'); }), std::string(5'000'000, 'x'));
}

TEST(Child, DiesAlone) {
  auto died = run_in_child([]() -> std::string {
    raise(SIGSEGV);
    return "unreached";
  });
  ASSERT_FALSE(died);
  EXPECT_EQ(died.error().message, "the reading process died of signal 11");
  EXPECT_EQ(died.error().code, Code::input);
  EXPECT_FALSE(run_in_child([]() -> std::string { throw std::runtime_error("no"); }));
}

TEST(Child, KeepsItsChangesToItself) {
  int number = 1;
  testing::internal::CaptureStdout();
  EXPECT_EQ(*run_in_child([&] {
    number = 2;
    std::puts("not to be seen");
    std::fflush(stdout);
    return std::to_string(number);
  }),
            "2");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(number, 1);
}

TEST(Cursor, RunsOutWithoutHarm) {
  Cursor cursor(std::string_view("\x01\x02\0\0xyz", 7));
  EXPECT_EQ(cursor.number(4), 0x201u);
  EXPECT_EQ(cursor.take(2), "xy");
  EXPECT_FALSE(cursor.ran_out());
  EXPECT_EQ(cursor.number(8), 0u);
  EXPECT_TRUE(cursor.ran_out());
  EXPECT_TRUE(cursor.is_at_end());
  EXPECT_EQ(cursor.take(~std::uint64_t{0}), "");
}

}  // namespace
}  // namespace reshard::container
