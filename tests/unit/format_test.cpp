// SPDX-License-Identifier: Apache-2.0
#include "reshard/format/format.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "tests/support/files.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/says.h"

namespace reshard {
namespace {

namespace fs = std::filesystem;
using format::SourceOptions;
using format::TargetOptions;
using nlohmann::json;

format::Checkpoint open_well(const std::string& path, const SourceOptions& options = {}) {
  auto checkpoint = test::open(path, options);
  EXPECT_TRUE(checkpoint) << checkpoint.error().message;
  return *std::move(checkpoint);
}

std::string base_of(const std::string& nanotron_case) {
  for (const char* base : {"llama-gqa", "llama-mha", "llama-tied", "qwen2"}) {
    if (nanotron_case.find(base) != std::string::npos) return base;
  }
  return "";
}

// Every case of Nanotron's holds the values of its base, under every version, topology and spelling.
TEST(Format, NanotronCasesHoldTheirBase) {
  int checked = 0;
  for (const auto& entry : fs::directory_iterator(test::fixture("nanotron"))) {
    if (!entry.is_directory()) continue;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    SourceOptions options;
    options.vocab_size = 259;
    const auto source = open_well(entry.path().string(), options);
    const auto base = open_well(test::fixture("hf/" + base_of(name)));
    EXPECT_EQ(source.probe.spec.family, base.probe.spec.family);
    EXPECT_EQ(test::line_values(source), test::line_values(base));
    ++checked;
  }
  EXPECT_GE(checked, 11);
}

}  // namespace
}  // namespace reshard
