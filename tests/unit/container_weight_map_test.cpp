// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "reshard/container/weight_map.h"

namespace reshard::container {
namespace {

TEST(WeightMap, ReadsWhatTheToolsWrite) {
  auto map = parse_weight_map(R"({
  "metadata": {"total_parameters": 5, "total_size": 16060522496},
  "weight_map": {
    "lm_head.weight": "model-00002-of-00002.safetensors",
    "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
    "model.norm.weight": "model-00002-of-00002.safetensors"
  }
}
)",
                              "index");
  ASSERT_TRUE(map) << map.error().message;
  EXPECT_EQ(map->total_size, 16060522496);
  EXPECT_EQ(map->files,
            (std::vector<std::string>{"model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"}));
  ASSERT_EQ(map->lines.size(), 3u);
  EXPECT_EQ(map->lines[1].tensor, "model.embed_tokens.weight");
  EXPECT_EQ(map->lines[1].file, 1u);
  EXPECT_EQ(map->lines[2].file, 0u);
}

TEST(WeightMap, PassesOverWhatItDoesNotKnow) {
  auto map = parse_weight_map(
      R"({"extra":[{"total_size":1}],"metadata":{"total_size":2.5,"x":{"total_size":3}},"weight_map":{},"total_size":4})",
      "index");
  ASSERT_TRUE(map) << map.error().message;
  EXPECT_FALSE(map->total_size);
  EXPECT_TRUE(map->lines.empty());
}

}  // namespace
}  // namespace reshard::container
