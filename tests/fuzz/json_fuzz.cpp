// SPDX-License-Identifier: Apache-2.0
// JSON texts beside the weights: side files and indexes.
#include "reshard/container/weight_map.h"
#include "reshard/io/json.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto json = io::parse_strict_json(text, "input");
  const auto map = container::parse_weight_map(text, "input");
  // What is an index is JSON, and names plain files.
  if (map) {
    test::require(json.has_value());
    for (const std::string& file : map->files) test::require(file.find('/') == std::string::npos && file != "..");
  }
  return 0;
}
