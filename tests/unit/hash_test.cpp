// SPDX-License-Identifier: Apache-2.0
#include "reshard/base/hash.h"

#include <gtest/gtest.h>

namespace reshard {
namespace {

std::uint64_t hash_of(std::string_view bytes) {
  Hasher hasher;
  hasher.bytes(bytes);
  return hasher.value();
}

TEST(Hasher, IsFnv1a) {
  EXPECT_EQ(hash_of(""), 0xcbf29ce484222325u);
  EXPECT_EQ(hash_of("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(hash_of("foobar"), 0x85944171f73967e8u);
  Hasher word;
  word.word(0x0000726162'6f6f66);
  EXPECT_EQ(word.value(), hash_of(std::string_view("foobar\0\0", 8)));
}

TEST(Hasher, TellsWhereATextEnds) {
  Hasher one, other;
  one.text("ab");
  one.text("c");
  other.text("a");
  other.text("bc");
  EXPECT_NE(one.value(), other.value());
}

}  // namespace
}  // namespace reshard
