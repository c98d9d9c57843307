// SPDX-License-Identifier: Apache-2.0
#include "reshard/format/format.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <regex>

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

std::vector<std::string> hf_cases() {
  std::vector<std::string> cases;
  for (const auto& entry : fs::directory_iterator(test::fixture("hf"))) {
    const std::string name = entry.path().filename().string();
    const bool stored =
        fs::exists(entry.path() / "model.safetensors") || fs::exists(entry.path() / "model.safetensors.index.json");
    if (stored && name != "llama-tied-no-head") cases.push_back(name);
  }
  return cases;
}

// What transformers wrote comes out byte for byte, and says the same config.
TEST(Format, HfIsWrittenAsTransformersDoes) {
  for (const std::string& name : hf_cases()) {
    SCOPED_TRACE(name);
    const test::TemporaryFolder out;
    TargetOptions options;
    options.max_shard_size = name == "llama-gqa-sharded" ? 100'000 : 5'000'000'000;
    test::convert_naively(open_well(test::fixture("hf/" + name)), "hf", options, out.path());
    int weights = 0;
    for (const auto& entry : fs::directory_iterator(test::fixture("hf/" + name))) {
      const std::string file = entry.path().filename().string();
      if (file == "config.json") continue;
      EXPECT_EQ(test::file_bytes(out.path(file)), test::file_bytes(entry.path().string())) << file;
      weights += file.ends_with(".safetensors") ? 1 : 0;
    }
    EXPECT_EQ(weights, name == "llama-gqa-sharded" ? 5 : 1);
    const json before = json::parse(test::file_bytes(test::fixture("hf/" + name + "/config.json")));
    const json after = json::parse(test::file_bytes(out.path("config.json")));
    for (const auto& [key, value] : before.items()) EXPECT_EQ(after[key], value) << key;
  }
}

// A to B to A is the identity, for every format that can hold the model.
TEST(Format, ThereAndBack) {
  for (const std::string& name : hf_cases()) {
    const auto source = open_well(test::fixture("hf/" + name));
    for (const char* format : {"hdf5", "nanotron"}) {
      if (!test::library().cell(source.probe.spec.family, format).holds ||
          (format == std::string("nanotron") && name == "mistral"))
        continue;
      SCOPED_TRACE(name + " " + format);
      const test::TemporaryFolder out;
      const std::string between = out.path(format == std::string("hdf5") ? "model.h5" : "between");
      TargetOptions options;
      options.final_path = between;
      if (format == std::string("nanotron")) options.mesh = {2, 2, 1, 1};
      test::convert_naively(source, format, options, between);
      SourceOptions known;
      if (format == std::string("nanotron")) known.vocab_size = source.probe.spec.integer("vocab_size");
      const auto there = open_well(between, known);
      EXPECT_EQ(there.format->name(), format);
      EXPECT_EQ(test::line_values(there), test::line_values(source));
      test::convert_naively(there, "hf", {}, out.path("back"));
      const auto back = open_well(out.path("back"));
      EXPECT_EQ(test::line_values(back), test::line_values(source));
      EXPECT_EQ(test::file_bytes(out.path("back/generation_config.json")),
                test::file_bytes(test::fixture("hf/" + name + "/generation_config.json")));
      if (format == std::string("hdf5")) {
        EXPECT_EQ(back.probe.spec.fields, source.probe.spec.fields);
      } else {
        for (const char* key : {"hidden_size", "num_key_value_heads", "vocab_size", "rope", "rms_norm_eps",
                                "tie_word_embeddings", "max_position_embeddings"}) {
          EXPECT_EQ(back.probe.spec.fields[key], source.probe.spec.fields[key]) << key;
        }
      }
    }
  }
}

// Nanotron's main branch wrote these: the same files, rows, metadata and config fields.
TEST(Format, NanotronIsWrittenAsItsMainBranchDoes) {
  int checked = 0;
  for (const auto& entry : fs::directory_iterator(test::fixture("nanotron"))) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_directory() || name.starts_with("train-") || name.find("-v1") != std::string::npos ||
        name.ends_with("interleaved") || name.ends_with("badnames")) {
      continue;
    }
    SCOPED_TRACE(name);
    SourceOptions known;
    known.vocab_size = 259;
    const auto theirs = open_well(entry.path().string(), known);
    const Index rows = json::parse(test::file_bytes(entry.path().string() + "/model_config.json"))["vocab_size"];
    TargetOptions options;
    options.format_version = "1.5";
    options.mesh = theirs.probe.mesh;
    for (options.vocab_multiple = 1; round_up(259, options.vocab_multiple * options.mesh.tp) != rows;)
      ++options.vocab_multiple;
    const test::TemporaryFolder out;
    test::convert_naively(open_well(test::fixture("hf/" + base_of(name))), "nanotron", options, out.path("out"));
    const auto ours = open_well(out.path("out"), known);
    EXPECT_EQ(test::line_values(ours), test::line_values(theirs));
    EXPECT_EQ(ours.probe.directory.files, theirs.probe.directory.files);
    for (std::size_t file = 0; file < ours.probe.directory.files.size(); ++file) {
      auto expected = theirs.probe.directory.metadata[file];
      for (auto& [key, text] : expected) text = std::regex_replace(text, std::regex("np\\.int64\\((\\d+)\\)"), "$1");
      EXPECT_EQ(ours.probe.directory.metadata[file], expected) << ours.probe.directory.files[file];
    }
    const json config = json::parse(test::file_bytes(out.path("out/model_config.json")));
    const json their_config = json::parse(test::file_bytes(entry.path().string() + "/model_config.json"));
    int shared = 0;
    for (const auto& [key, value] : their_config.items()) {
      if (!config.contains(key)) continue;
      EXPECT_EQ(config[key], value) << key;
      ++shared;
    }
    EXPECT_GE(shared, 22);
    ++checked;
  }
  EXPECT_GE(checked, 7);
}

}  // namespace
}  // namespace reshard
