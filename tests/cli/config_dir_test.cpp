// SPDX-License-Identifier: Apache-2.0
// A family and a sharded format that no line of C++ knows: files in a folder, and they convert.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/says.h"

namespace reshard::test {
namespace {

constexpr const char* kFamily = R"({
  "family": "toy", "model_types": ["toy"],
  "fields": {"width": {"type": "integer", "keys": ["d_model"]}, "depth": {"type": "integer"}, "words": {"type": "integer"}},
  "axes": {"layer": "depth", "embed": "width", "side": 3, "vocab": "words"},
  "tensors": {"embed": {"axes": "vocab embed"}, "left": {"axes": "layer side embed"}, "right": {"axes": "layer side embed"}},
  "formats": {"hf": {"rules": [{"array": "words.weight", "tensor": "embed", "view": "vocab embed"},
                               {"array": "blocks.{layer}.left", "tensor": "left", "view": "embed side"},
                               {"array": "blocks.{layer}.right", "tensor": "right", "view": "side embed"}]}}
})";

constexpr const char* kFormat = R"({
  "format": "slices", "container": "safetensors", "mesh": ["pp", "tp"], "split": "balanced",
  "file": {"sharded": "stage{pp}/part-{tp}-of-{tp.size}.safetensors", "replicated": "stage{pp}/whole.safetensors"},
  "numbers": {"pad": "round_up(vocab, 4) - vocab"},
  "rules": {"all": [{"array": "w", "tensor": "embed", "view": "([embed: vocab | ~: pad]) embed", "shard": {"tp": 0}, "stage": "embed"},
                    {"array": "b{layer}.both", "view": "(side [left: | right:]) embed", "shard": {"tp": "embed"}}]},
  "families": {"toy": {"rules": ["all"]}}
})";

TEST(ConfigDir, AMadeUpFamilyAndFormatConvert) {
  const TemporaryFolder folder;
  put_file(folder.path("tables/arch/toy.json"), kFamily);
  put_file(folder.path("tables/format/slices.json"), kFormat);
  put_file(folder.path("config.json"),
           R"({"model_type": "toy", "d_model": 5, "depth": 3, "words": 7, "torch_dtype": "bfloat16"})");
  const std::string tables = " --config-dir " + folder.path("tables");
  const auto must = [&](const std::string& arguments, int ranks = 1) {
    const ProgramRun run = run_program(program(), arguments + tables, ranks);
    ASSERT_EQ(run.status, 0) << arguments << "\n" << run.err;
  };
  must("convert synthetic:" + folder.path("config.json") + " " + folder.path("hf") + " --to hf");
  must("convert " + folder.path("hf") + " " + folder.path("slices") + " --to slices --tp 2 --pp 2", 2);
  ASSERT_TRUE(std::filesystem::exists(folder.path("slices/stage0/part-1-of-2.safetensors")));
  ASSERT_TRUE(std::filesystem::exists(folder.path("slices/stage1/part-0-of-2.safetensors")));
  must("convert " + folder.path("slices") + " " + folder.path("back") + " --from slices --to hf --tp 1");
  EXPECT_TRUE(file_bytes(folder.path("hf/model.safetensors")) == file_bytes(folder.path("back/model.safetensors")));
  must("diff " + folder.path("hf") + " " + folder.path("back"));

  // Such a format is never detected: --from names that of the first checkpoint, --against-from that of the second.
  must("diff " + folder.path("slices") + " " + folder.path("hf") + " --from slices", 2);
  must("diff " + folder.path("hf") + " " + folder.path("slices") + " --against-from slices", 2);
  must("diff " + folder.path("slices") + " " + folder.path("slices") + " --from slices --against-from slices");
  must("verify " + folder.path("hf") + " --against " + folder.path("slices") + " --against-from slices");
  const ProgramRun unknown =
      run_program(program(), "diff " + folder.path("hf") + " " + folder.path("slices") + " --from hf" + tables);
  EXPECT_EQ(unknown.status, 3);
  EXPECT_SAYS(unknown.err, "--against-from");

  // Element [side 1, left/right, embed 4] of block 2, by hand: embed 4 is the second value of the second rank (3 + 2).
  const auto element = [](const std::string& path, const std::string& array, std::size_t index) {
    const std::string bytes = file_bytes(path);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    const auto header = nlohmann::json::parse(bytes.substr(8, length));
    const std::size_t at = 8 + length + header.at(array).at("data_offsets").at(0).get<std::size_t>() + 2 * index;
    std::uint16_t value = 0;
    std::memcpy(&value, bytes.data() + at, 2);
    return value;
  };
  const std::string whole = folder.path("hf/model.safetensors");
  const std::string part = folder.path("slices/stage1/part-1-of-2.safetensors");
  EXPECT_EQ(element(part, "b2.both", (1 * 2 + 0) * 2 + 1), element(whole, "blocks.2.left", 4 * 3 + 1));
  EXPECT_EQ(element(part, "b2.both", (1 * 2 + 1) * 2 + 1), element(whole, "blocks.2.right", 1 * 5 + 4));
  // Row 7 of the vocabulary is padding.
  EXPECT_EQ(element(folder.path("slices/stage0/part-1-of-2.safetensors"), "w", 3 * 5 + 2), 0);
}

// A tensor of its own in one model, the embedding in another: what is tied to what is said by the family alone.
TEST(ConfigDir, TiesAreThoseOfTheFamily) {
  const TemporaryFolder folder;
  nlohmann::json family = nlohmann::json::parse(kFamily);
  family["fields"]["one_table"] = {{"type", "boolean"}, {"default", true}};
  family["tensors"]["answers"] = {{"axes", "vocab embed"}, {"if", "not one_table"}, {"else", "embed"}};
  family["formats"]["hf"]["rules"].push_back({{"array", "answers"}, {"tensor", "answers"}, {"view", "vocab embed"}});
  put_file(folder.path("tables/arch/toy.json"), family.dump());
  nlohmann::json config = {{"model_type", "toy"}, {"d_model", 5}, {"depth", 1}, {"words", 7}};
  put_file(folder.path("config.json"), config.dump());
  const auto run = [&](const std::string& arguments, int status = 0) {
    const ProgramRun done = run_program(program(), arguments + " --config-dir " + folder.path("tables"));
    EXPECT_EQ(done.status, status) << arguments << "\n" << done.err;
    return done.out;
  };
  run("convert synthetic:" + folder.path("config.json") + " " + folder.path("tied") + " --to hf");
  EXPECT_SAYS(run("digest " + folder.path("tied")), "\nanswers = embed\n");
  EXPECT_SAYS(run("inspect " + folder.path("tied")), "answers = embed");

  // The same values in two arrays.
  const std::string bytes = file_bytes(folder.path("tied/model.safetensors"));
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  nlohmann::json header = nlohmann::json::parse(bytes.substr(8, length));
  const std::size_t end = bytes.size() - 8 - length, begin = header["words.weight"]["data_offsets"][0],
                    size = header["words.weight"]["data_offsets"][1].get<std::size_t>() - begin;
  header["answers"] = header["words.weight"];
  header["answers"]["data_offsets"] = {end, end + size};
  const std::string text = header.dump();
  length = text.size();
  const std::string values = bytes.substr(bytes.size() - end);
  std::string untied(8, '\0');
  std::memcpy(untied.data(), &length, 8);
  put_file(folder.path("untied/model.safetensors"), untied + text + values + values.substr(begin, size));
  config["one_table"] = false;
  put_file(folder.path("untied/config.json"), config.dump());
  EXPECT_EQ(run("digest " + folder.path("untied")).find(" = "), std::string::npos);
  run("verify " + folder.path("tied") + " --against " + folder.path("untied"));
  run("verify " + folder.path("untied") + " --against " + folder.path("tied"));
  put_file(folder.path("untied/model.safetensors"), untied + text + values + std::string(size, 'x'));
  run("verify " + folder.path("untied") + " --against " + folder.path("tied"), 1);

  family["tensors"]["answers"]["else"] = "left";
  put_file(folder.path("tables/arch/toy.json"), family.dump());
  run("digest " + folder.path("tied"), 2);
}

TEST(ConfigDir, BadTablesAreNamed) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& family) {
    put_file(folder.path("arch/toy.json"), family);
    const ProgramRun run = run_program(program(), "list models --config-dir " + folder.path());
    EXPECT_EQ(run.status, 2);
    return run.err;
  };
  std::string wrong = kFamily;
  EXPECT_NE(message("{").find("toy.json"), std::string::npos);
  wrong.replace(wrong.find("\"axes\""), 6, "\"axis\"");
  EXPECT_NE(message(wrong).find("axis"), std::string::npos);
  wrong = kFamily;
  wrong.replace(wrong.find("vocab embed\"},"), 5, "nouns");
  EXPECT_NE(message(wrong).find("nouns"), std::string::npos);
}

}  // namespace
}  // namespace reshard::test
