// SPDX-License-Identifier: Apache-2.0
// A made-up format that stores kv heads twice (tp 8 on 4 of them): verify compares the copies, convert reads the first.
#include <gtest/gtest.h>

#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/says.h"

namespace reshard::test {
namespace {

const std::string kModel = source_dir() + "/tests/interop/hf/llama-gqa";

constexpr const char* kFormat = R"table({
  "format": "copies", "container": "safetensors", "mesh": ["tp"],
  "file": {"sharded": "part-{tp}.safetensors", "replicated": "common.safetensors"},
  "rules": {"all": [
    {"array": "embed", "tensor": "embed", "view": "vocab embed"}, {"array": "head", "tensor": "head", "view": "vocab embed"},
    {"array": "norm", "tensor": "norm", "view": "embed"},
    {"array": "{layer}.attn.norm", "tensor": "attn.norm", "view": "embed"},
    {"array": "{layer}.mlp.norm", "tensor": "mlp.norm", "view": "embed"},
    {"array": "{layer}.qkv", "view": "([attn.q: group query | attn.k: group | attn.v: group] half pair) embed",
     "shard": {"tp": ["group", "query"]}},
    {"array": "{layer}.o", "tensor": "attn.o", "view": "embed (group query half pair)", "shard": {"tp": ["group", "query"]}},
    {"array": "{layer}.gate", "tensor": "mlp.gate", "view": "ffn embed", "shard": {"tp": "ffn"}},
    {"array": "{layer}.up", "tensor": "mlp.up", "view": "ffn embed", "shard": {"tp": "ffn"}},
    {"array": "{layer}.down", "tensor": "mlp.down", "view": "embed ffn", "shard": {"tp": "ffn"}}]},
  "families": {"llama": {"rules": ["all"]}, "mixtral": {"refuse": "no experts"}, "qwen3_moe": {"refuse": "no experts"}}
})table";

TEST(Replicas, AreCompared) {
  const TemporaryFolder folder;
  put_file(folder.path("tables/format/copies.json"), kFormat);
  const std::string tables = " --from copies --config-dir " + folder.path("tables");
  const std::string out = folder.path("out");
  const auto run = [&](const std::string& arguments, int ranks = 1) {
    return run_program(program(), arguments, ranks);
  };
  ProgramRun made =
      run("convert " + kModel + " " + out + " --to copies --tp 8 --config-dir " + folder.path("tables"), 2);
  ASSERT_EQ(made.status, 0) << made.err;
  ProgramRun verified = run("verify " + out + tables + " --against " + kModel, 2);
  EXPECT_EQ(verified.status, 0) << verified.out << verified.err;
  EXPECT_SAYS(verified.out, "replicas   ok       32 copies compared");

  // Part 1 holds the second copies of kv head 0: [query 1 of group 0; k; v].
  std::string bytes = file_bytes(out + "/part-1.safetensors");
  const std::size_t header = 8 + static_cast<unsigned char>(bytes[0]) + 256u * static_cast<unsigned char>(bytes[1]);
  const auto directory = nlohmann::json::parse(bytes.substr(8, header - 8));
  const std::size_t last_of_qkv = header + directory.at("2.qkv").at("data_offsets").at(1).get<std::size_t>() - 1;
  bytes[last_of_qkv] = static_cast<char>(bytes[last_of_qkv] ^ 1);
  put_file(out + "/part-1.safetensors", bytes);
  verified = run("verify " + out + tables + " --against " + kModel);
  EXPECT_EQ(verified.status, 1) << verified.err;
  EXPECT_SAYS(verified.out, "part-1.safetensors: 2.qkv: its copy of attn.v is not equal to the first one");
  EXPECT_SAYS(verified.out, "source     ok");  // the first copies are as they were
  EXPECT_EQ(run("diff " + out + " " + kModel + tables).status, 0);
}

}  // namespace
}  // namespace reshard::test
