// SPDX-License-Identifier: Apache-2.0
// The program itself, on small checkpoints: every command, its answers, statuses and streams.
#include <gtest/gtest.h>

#include <map>
#include <regex>

#include "tests/support/json_schema.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/says.h"

namespace reshard::test {
namespace {

const std::string kData = source_dir() + "/tests/interop/hf/";
const std::string kModel = kData + "llama-gqa";
const std::string kNanotron = source_dir() + "/tests/interop/nanotron/llama-gqa-tp2-pp2";

class Program : public ::testing::Test {
 protected:
  ProgramRun reshard(const std::string& arguments, int ranks = 1) const {
    return run_program(program(), arguments, ranks);
  }
  /// Runs what must succeed.
  ProgramRun succeed(const std::string& arguments, int ranks = 1) const {
    ProgramRun run = reshard(arguments, ranks);
    EXPECT_EQ(run.status, 0) << arguments << "\n" << run.err;
    return run;
  }
  /// Runs with --json: one document on stdout that follows its schema.
  nlohmann::json document(const std::string& arguments, int ranks = 1, int status = 0) const {
    const ProgramRun run = reshard(arguments + " --json", ranks);
    EXPECT_EQ(run.status, status) << arguments << "\n" << run.err;
    nlohmann::json parsed = nlohmann::json::parse(run.out, nullptr, false);
    EXPECT_FALSE(parsed.is_discarded()) << run.out;
    if (parsed.is_discarded()) return {};
    const std::string command = parsed.value("command", "");
    EXPECT_EQ(schema_error(parsed, source_dir() + "/configs/schema/output", command), "") << arguments;
    return parsed;
  }
  std::string path(const std::string& name) const { return folder_.path(name); }

  TemporaryFolder folder_;
};

TEST_F(Program, HelpAndVersionGoToStdout) {
  for (const char* arguments : {"--help", "convert --help", "help", "--version", "list --help", "digest --version"}) {
    const ProgramRun run = succeed(arguments);
    EXPECT_FALSE(run.out.empty()) << arguments;
    EXPECT_EQ(run.err, "") << arguments;
  }
  const std::string version = reshard("--version").out;
  for (const char* what : {"reshard ", "compiler", "MPI", "HDF5", "nlohmann/json", "Boost", "fmt", "yaml-cpp", "zlib",
                           "ISA-L", "CUDA           ", "NCCL           "}) {
    EXPECT_SAYS(version, what);
  }
  EXPECT_FALSE(std::regex_search(version, std::regex("yaml-cpp +\n"))) << version;
}

TEST_F(Program, Inspect) {
  const ProgramRun run = succeed("inspect " + kModel);
  EXPECT_SAYS(run.out, "llama");
  EXPECT_SAYS(run.out, "model.layers.3.mlp.down_proj.weight");
  EXPECT_EQ(run.err, "");
  const nlohmann::json whole = document("inspect " + kModel);
  EXPECT_EQ(whole["format"], "hf");
  EXPECT_EQ(whole["family"], "llama");
  EXPECT_EQ(whole["vocabulary"], (nlohmann::json{{"size", 259}, {"padded", false}}));
  EXPECT_EQ(whole["num_arrays"], whole["arrays"].size());
  const nlohmann::json some = document("inspect " + kModel + " --include '*norm*' --exclude model.norm.weight");
  EXPECT_EQ(some["num_arrays"], whole["num_arrays"]);
  EXPECT_EQ(some["arrays"].size(), 8u);
  EXPECT_TRUE(document("inspect " + kData + "llama-tied")["ties"] == nlohmann::json::array({"head = embed"}));
  // Two names of one storage are not twice the bytes.
  const std::string shared = kData + "llama-tied-bin-sharded";
  const auto index = nlohmann::json::parse(file_bytes(shared + "/pytorch_model.bin.index.json"));
  EXPECT_EQ(document("inspect " + shared)["bytes"], index["metadata"]["total_size"]);
}

// In Nanotron's files every array is called "data".
TEST_F(Program, ArraysHaveTheNamesOfTheLayout) {
  const nlohmann::json found = document("inspect " + kNanotron + " --include '*qkv*' --exclude '*.3.*'");
  std::map<std::string, int> shards;
  for (const auto& array : found["arrays"]) ++shards[array["name"]];
  EXPECT_EQ(shards, (std::map<std::string, int>{{"model.decoder.0.pp_block.attn.qkv_proj.weight", 2},
                                                {"model.decoder.1.pp_block.attn.qkv_proj.weight", 2},
                                                {"model.decoder.2.pp_block.attn.qkv_proj.weight", 2}}));
  EXPECT_SAYS(succeed("inspect " + kNanotron).out, "\nmodel.lm_head.pp_block.weight ");
  const nlohmann::json plan = document("plan " + kNanotron + " null: --to hf --exclude 'model.final*'");
  EXPECT_EQ(plan["dropped"], nlohmann::json::array({"model.final_layer_norm.pp_block.weight"}));
}

TEST_F(Program, Lists) {
  const nlohmann::json formats = document("list formats");
  bool found = false;
  for (const auto& format : formats["formats"]) {
    for (const auto& cell : format["families"]) {
      if (format["name"] != "nanotron" || cell["family"] != "qwen3") continue;
      found = true;
      EXPECT_FALSE(cell["holds"].get<bool>());
      EXPECT_SAYS(cell["reason"].get<std::string>(), "q_norm");
    }
  }
  EXPECT_TRUE(found);
  EXPECT_EQ(document("list models")["models"].size(), 27u);
  EXPECT_EQ(document("list dtypes")["dtypes"].size(), 22u);
  EXPECT_EQ(document("list machines")["machines"].size(), 4u);
  EXPECT_SAYS(succeed("list machines").out, "h100-node");
  EXPECT_SAYS(succeed("list formats").out, "nanotron");
}

TEST_F(Program, PlanWritesNothingAndSaysItAll) {
  const std::string arguments = "plan " + kModel + " " + path("out") + " --to nanotron --tp 2 --pp 2";
  const nlohmann::json plan = document(arguments + " --ranks 4 --ranks-per-node 2");
  EXPECT_EQ(plan["ranks"].size(), 4u);
  EXPECT_EQ(plan["ranks_per_node"], 2);
  EXPECT_DOUBLE_EQ(plan["read_amplification"].get<double>(), 1.0);
  std::int64_t written = 0;
  for (const auto& rank : plan["ranks"]) written += rank["bytes_written"].get<std::int64_t>();
  EXPECT_EQ(written, plan["target"]["bytes"].get<std::int64_t>());
  EXPECT_EQ(plan["padding"].size(), 2u);  // 259 tokens on two ranks
  const ProgramRun run = succeed(arguments + " --ranks 64");
  for (const char* part :
       {"mean", "runs of", "read once", "dropped", "padded", "(64 ranks: --json has a row for each)"}) {
    EXPECT_SAYS(run.out, part);
  }
  EXPECT_FALSE(std::filesystem::exists(path("out")));
  EXPECT_EQ(document("convert --dry-run " + arguments.substr(5))["command"], "plan");
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(Program, PlanPredictsTimes) {
  const std::string arguments = "plan synthetic:llama3-8b null: --to nanotron --tp 4 --route exchange";
  EXPECT_FALSE(document(arguments + " --ranks 4").contains("prediction"));
  const nlohmann::json found = document(arguments + " --ranks 8 --machine h100-node")["prediction"];
  EXPECT_EQ(found["device"], "cuda");
  EXPECT_EQ(found["binds"], "write");
  EXPECT_EQ(found["stages"].size(), 6u);
  EXPECT_EQ(found["crossings"].size(), 4u);
  // 16.06 GB at the 26 GB/s of a node's drives.
  EXPECT_NEAR(found["overlapped_seconds"].get<double>(), 16.06 / 26, 0.01);
  EXPECT_NEAR(found["seconds"].get<double>(),
              found["start_seconds"].get<double>() + found["overlapped_seconds"].get<double>() +
                  found["fill_seconds"].get<double>() + found["finish_seconds"].get<double>(),
              1e-9);
  // On twice the nodes a store of each node takes half the time.
  const nlohmann::json wide = document(arguments + " --ranks 8 --ranks-per-node 4 --machine h100-node")["prediction"];
  EXPECT_NEAR(wide["overlapped_seconds"].get<double>(), 16.06 / 52, 0.01);
  EXPECT_EQ(document(arguments + " --ranks 2 --machine cpu-node")["prediction"]["stages"].size(), 4u);

  const nlohmann::json on_cpus = document(arguments + " --ranks 8 --machine h100-node --device cpu")["prediction"];
  EXPECT_EQ(on_cpus["device"], "cpu");
  EXPECT_EQ(reshard(arguments + " --machine cpu-node --device cuda").status, 2);

  const std::string text = succeed(arguments + " --ranks 8 --machine h100-node").out;
  for (const char* part : {"predicted on h100-node", "exchange (NCCL)", "binds", "would bind", "times this store"}) {
    EXPECT_SAYS(text, part);
  }
  EXPECT_SAYS(succeed(arguments + " --ranks 2 --machine cpu-node").out, "exchange (MPI)");
  const ProgramRun wrong = reshard(arguments + " --machine h100");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_SAYS(wrong.err, "there is no machine \"h100\" and no file of that name");
  EXPECT_EQ(reshard("convert " + kModel + " null: --to hf --machine h100-node").status, 2);
}

TEST_F(Program, PlanKeepsItsWord) {
  for (const char* route : {"direct", "exchange"}) {
    const std::string rest = kModel + " " + path(route) + " --to nanotron --tp 2 --route " + route;
    const nlohmann::json plan = document("plan " + rest, 3);
    const nlohmann::json done = document("convert " + rest, 3);
    EXPECT_EQ(plan["plan_hash"], done["plan_hash"]);
    for (std::size_t rank = 0; rank < 3; ++rank) {
      for (const char* what : {"bytes_read", "bytes_sent", "bytes_received", "bytes_written", "rounds"}) {
        EXPECT_EQ(plan["ranks"][rank][what], done["stream"]["ranks"][rank][what])
            << route << " " << rank << " " << what;
      }
    }
  }
}

TEST_F(Program, ThereAndBack) {
  const nlohmann::json there = document("convert " + kModel + " " + path("nt") + " --to nanotron --tp 2 --pp 2", 4);
  EXPECT_EQ(there["target"]["mesh"]["tp"], 2);
  const nlohmann::json back = document("convert " + path("nt") + " " + path("hf") + " --to hf --vocab-size 259", 3);
  EXPECT_EQ(file_bytes(path("hf/model.safetensors")), file_bytes(kModel + "/model.safetensors"));
  EXPECT_EQ(there["digests"]["total"], back["digests"]["total"]);
  EXPECT_EQ(document("digest " + kModel)["digests"], back["digests"]);
  EXPECT_TRUE(std::filesystem::exists(path("nt.report.json")));
  const auto report = nlohmann::json::parse(file_bytes(path("nt.report.json")));
  EXPECT_SAYS(report["command_line"].get<std::string>(), "--to nanotron");
  EXPECT_FALSE(std::filesystem::exists(path("nt.partial")));
  EXPECT_FALSE(std::filesystem::exists(path("nt.journal")));
}

TEST_F(Program, Digest) {
  const ProgramRun run = succeed("digest " + kData + "llama-tied");
  EXPECT_TRUE(std::regex_search(run.out, std::regex("^rd1:[0-9a-f]{16}  embed  \\[259,64\\]\n"))) << run.out;
  EXPECT_SAYS(run.out, "\nhead = embed\n");
  EXPECT_EQ(document("digest " + kModel)["digests"], document("digest " + kModel + "-sharded", 3)["digests"]);
  EXPECT_EQ(document("digest synthetic:" + kModel + "/config.json")["digests"]["lines"].size(), 39u);
}

TEST_F(Program, PaddedVocabulariesAreSaid) {
  const ProgramRun made = succeed("convert " + kModel + " " + path("nt") + " --to nanotron --tp 2");
  EXPECT_SAYS(made.err, "the source has no tokenizer");
  EXPECT_SAYS(succeed("digest " + path("nt")).err, "note: the vocabulary is taken as the 260 rows");
  const std::string convert = "convert " + path("nt") + " " + path("out.h5") + " --overwrite --to hdf5";
  EXPECT_EQ(succeed(convert + " --vocab-size 259").err.find("--vocab-size"), std::string::npos);
  const ProgramRun kept = succeed("convert " + path("nt") + " " + path("nt2") + " --to nanotron --tp 4");
  EXPECT_SAYS(kept.err, "note: the vocabulary is taken as the 260 rows");
  EXPECT_EQ(kept.err.find("rows of padding become"), std::string::npos) << kept.err;
  // What has no rows of padding keeps them for good.
  EXPECT_SAYS(succeed(convert).err, "warning: rows of padding become part of the vocabulary, which format hdf5 cannot");
  const ProgramRun late = reshard("digest " + path("out.h5") + " --vocab-size 259");
  EXPECT_EQ(late.status, 2);
  EXPECT_SAYS(late.err, "convert its source again with --vocab-size 259");
  EXPECT_EQ(reshard("digest " + path("out.h5") + " --vocab-size 261").err.find("again"), std::string::npos);
  EXPECT_EQ(document("digest " + path("nt") + " --vocab-size 259")["digests"], document("digest " + kModel)["digests"]);
}

// What only matters to a conversion is told by it alone, and once.
TEST_F(Program, NotesAreToldWhereTheyMatter) {
  const std::string meta = source_dir() + "/tests/interop/meta/llama-tied-mp1";
  const auto count = [](const std::string& text, const std::string& part) {
    int found = 0;
    for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  const ProgramRun converted = succeed("convert " + meta + " " + path("out") + " --to meta");
  EXPECT_EQ(count(converted.err, "tokenizer"), 2) << converted.err;  // one note, which names the option
  EXPECT_EQ(count(converted.err, "token ids of begin"), 1) << converted.err;
  const ProgramRun inspected = succeed("inspect " + meta);
  EXPECT_EQ(count(inspected.err, "tokenizer"), 0) << inspected.err;
  EXPECT_EQ(count(inspected.err, "token ids of begin"), 1) << inspected.err;
  EXPECT_EQ(succeed("digest " + meta).err, "");
  EXPECT_EQ(succeed("diff " + meta + " " + path("out")).err, "");
  EXPECT_EQ(succeed("verify " + meta + " --against " + path("out")).err, "");
  // The same note about two checkpoints.
  succeed("convert " + kModel + " " + path("nt") + " --to nanotron");
  const ProgramRun compared = succeed("diff " + path("nt") + " " + path("nt"));
  EXPECT_EQ(count(compared.err, "--vocab-size"), 1) << compared.err;
}

TEST_F(Program, Verify) {
  succeed("convert " + kModel + " " + path("nt") + " --to nanotron --tp 2");
  const nlohmann::json good = document("verify " + path("nt") + " --vocab-size 259 --against " + kModel, 2);
  EXPECT_TRUE(good["passed"].get<bool>());
  EXPECT_EQ(good["checks"].size(), 5u);
  EXPECT_EQ(good["checks"][4]["outcome"], "passed");
  EXPECT_EQ(document("verify " + kModel)["checks"][3]["outcome"], "skipped");  // nobody wrote a record

  // One bit of one value.
  const std::string file = path("nt/model/model/decoder/1/pp_block/post_attention_layernorm/model_weight.safetensors");
  std::string bytes = file_bytes(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  put_file(file, bytes);
  const nlohmann::json bad = document("verify " + path("nt") + " --vocab-size 259 --against " + kModel, 1, 1);
  EXPECT_FALSE(bad["passed"].get<bool>());
  for (const std::size_t check : {3u, 4u}) {
    EXPECT_EQ(bad["checks"][check]["outcome"], "failed");
    ASSERT_EQ(bad["checks"][check]["problems"].size(), 1u);
    EXPECT_SAYS(bad["checks"][check]["problems"][0].get<std::string>(), "mlp.norm[layer=1]");
  }
  const std::string rest = "verify " + path("nt") + " --vocab-size 259 --against " + kModel;
  EXPECT_EQ(reshard(rest + " --exclude 'mlp.norm[[]layer=1]'").status, 0);
  EXPECT_EQ(reshard(rest + " --include 'mlp.norm*'").status, 1);
}

TEST_F(Program, VerifyCastsTheSourceAsTheConversionDid) {
  const ProgramRun run =
      succeed("convert " + kModel + " " + path("half") + " --to hf --dtype fp16 --keep-dtype '*norm*'");
  EXPECT_SAYS(run.err, "reshard: warning: ");
  EXPECT_SAYS(run.err, "lose precision, BF16 -> F16");
  EXPECT_EQ(reshard("verify " + path("half") + " --against " + kModel).status, 0);
  EXPECT_EQ(document("inspect " + path("half") + " --include model.norm.weight")["arrays"][0]["dtype"], "BF16");
  const ProgramRun wider = succeed("convert " + kModel + " " + path("wide") + " --to hf --dtype fp32");
  EXPECT_EQ(wider.err.find("warning"), std::string::npos) << wider.err;
  EXPECT_EQ(document("digest " + path("wide"))["digests"]["total"], document("digest " + kModel)["digests"]["total"]);
  EXPECT_TRUE(document("diff " + path("wide") + " " + kModel)["equal"].get<bool>());  // compared as f32
}

TEST_F(Program, DiffOfEqualCheckpoints) {
  succeed("convert " + kModel + " " + path("nt") + " --to nanotron --tp 4 --pp 3");
  const ProgramRun run = succeed("diff " + kModel + " " + path("nt") + " --vocab-size 259", 3);
  EXPECT_EQ(run.out, "equal: 39 tensors\n");
  const nlohmann::json found = document("diff " + kModel + " " + path("nt") + " --vocab-size 259");
  EXPECT_TRUE(found["equal"].get<bool>());
  EXPECT_EQ(found["lines"][0]["elements"], 259 * 64);
  EXPECT_EQ(found["lines"][0]["cosine"], 1.0);
}

TEST_F(Program, DiffMeasuresWhatDiffers) {
  succeed("convert " + kModel + " " + path("b") + " --to hf");
  // The last two elements of the last array in the file: model.norm.weight.
  std::string bytes = file_bytes(path("b/model.safetensors"));
  const std::string one = {'\x80', '\x3f'}, three = {'\x40', '\x40'}, nan = {'\xc0', '\x7f'};
  const std::string head = bytes.substr(0, bytes.size() - 4);
  put_file(path("b/model.safetensors"), head + three + nan);
  std::filesystem::copy(path("b"), path("a"));
  put_file(path("a/model.safetensors"), head + one + nan);

  const nlohmann::json found = document("diff " + path("a") + " " + path("b"), 2, 1);
  EXPECT_FALSE(found["equal"].get<bool>());
  int different = 0;
  for (const auto& line : found["lines"]) {
    if (line["equal"].get<bool>()) continue;
    ++different;
    EXPECT_EQ(line["changed"], 1);  // the same NaN is equal
    EXPECT_EQ(line["max_abs"], 2.0);
    EXPECT_DOUBLE_EQ(line["mean_abs"].get<double>(), 2.0 / line["elements"].get<double>());
    EXPECT_LT(line["cosine"].get<double>(), 1.0);
    EXPECT_GT(line["relative_l2"].get<double>(), 0.0);
  }
  EXPECT_EQ(different, 1);
  EXPECT_EQ(reshard("diff " + path("a") + " " + path("b") + " --tolerance 2").status, 0);
  EXPECT_EQ(reshard("diff " + path("a") + " " + path("b") + " --tolerance 1.9").status, 1);
  EXPECT_EQ(reshard("diff " + path("a") + " " + path("b") + " --include '*embed*'").status, 0);
  put_file(path("b/model.safetensors"), head + one + one);
  const nlohmann::json infinite = document("diff " + path("a") + " " + path("b"), 1, 1);
  EXPECT_NE(infinite.dump().find("\"max_abs\":\"inf\""), std::string::npos);
}

// What diff calls equal verify does, and the other way round: also where only bits differ.
TEST_F(Program, DiffAndVerifyCallTheSameEqual) {
  succeed("convert " + kModel + " " + path("a") + " --to hf");
  const std::string bytes = file_bytes(path("a/model.safetensors"));
  const std::string head = bytes.substr(0, bytes.size() - 4);
  std::filesystem::remove(path("a/reshard.json"));
  std::filesystem::copy(path("a"), path("b"));
  const std::string zero("\0\0", 2), minus_zero("\0\x80", 2), nan = "\xc0\x7f", other_nan = "\xc0\xff";
  const auto compare = [&](const std::string& a, const std::string& b) {
    put_file(path("a/model.safetensors"), head + zero + a);
    put_file(path("b/model.safetensors"), head + zero + b);
    const int status = reshard("diff " + path("a") + " " + path("b")).status;
    EXPECT_EQ(reshard("verify " + path("b") + " --against " + path("a")).status, status);
    EXPECT_EQ(reshard("diff " + path("a") + " " + path("b") + " --tolerance 1e-30").status, 0);
    return status;
  };
  EXPECT_EQ(compare(zero, zero), 0);
  EXPECT_EQ(compare(nan, nan), 0);
  EXPECT_EQ(compare(nan, other_nan), 1);
  EXPECT_EQ(compare(zero, minus_zero), 1);
  const nlohmann::json found = document("diff " + path("a") + " " + path("b") + " --include norm", 1, 1);
  ASSERT_EQ(found["lines"].size(), 1u) << found.dump();
  EXPECT_EQ(found["lines"][0]["changed"], 1);
  EXPECT_EQ(found["lines"][0]["max_abs"], 0.0);
  EXPECT_EQ(found["lines"][0]["relative_l2"], 0.0);
  EXPECT_SAYS(reshard("diff " + path("a") + " " + path("b")).out, "different: 1 of 39 tensors\n");
}

TEST_F(Program, DiffNamesWhatIsOnOneSideOnly) {
  const nlohmann::json found = document("diff " + kData + "llama-tied " + kData + "llama-mha", 1, 1);
  EXPECT_FALSE(found["mismatches"].empty());
  const nlohmann::json families = document("diff " + kModel + " " + kData + "gpt2", 1, 1);
  EXPECT_FALSE(families["mismatches"].empty());
}

TEST_F(Program, APartIsAPartForAllCommands) {
  const std::string weights = " --include '*proj*'",
                    rest = " --exclude '*norm*' --exclude '*embed*' --exclude '*lm_head*'",
                    lines = " --exclude '*norm*' --exclude embed --exclude head";
  for (const std::string to : {"hf", "nanotron --tp 2"}) {
    const std::string part = path("part-" + to.substr(0, 2));
    succeed("convert " + kModel + " " + part + " --to " + to + weights);
    const std::vector<std::string> pairs = {"verify " + part + " --against " + kModel, "diff " + part + " " + kModel,
                                            "diff " + kModel + " " + part};
    for (const std::string& choice : {weights, rest}) {
      succeed("inspect " + part + choice);
      succeed("verify " + part + choice);
      for (const std::string& pair : pairs) succeed(pair + choice);
    }
    // Lines have names that both sides share.
    for (const std::string& pair : pairs) succeed(pair + lines);
    EXPECT_EQ(document("diff " + part + " " + kModel + " --include 'mlp.down*'")["lines"].size(), 4u);
    // What is asked for has to be there.
    for (const std::string& command :
         {"inspect " + part, "inspect " + part + " --include '*norm*'", "diff " + kModel + " " + part,
          "diff " + part + " " + kModel + " --include 'mlp.norm*'"}) {
      const ProgramRun run = reshard(command);
      EXPECT_EQ(run.status, 3) << command;
      EXPECT_SAYS(run.err, " is missing") << command;
    }
  }
}

TEST_F(Program, GlobsThatMatchNothingAreSaid) {
  const auto warned = [&](const std::string& arguments, const std::string& option) {
    const ProgramRun run = succeed(arguments, 2);
    EXPECT_SAYS(run.err, "reshard: warning: " + option + " 'nom*' matches nothing");
    EXPECT_EQ(run.err.find("nom"), run.err.rfind("nom")) << run.err;
  };
  for (const std::string option : {"--include", "--exclude", "--passthrough"}) {
    const std::string slip = " " + option + " 'nom*' --include '*proj*'";
    for (const std::string& command : {"inspect " + kModel, "verify " + kModel, "plan " + kModel + " null: --to hf",
                                       "diff " + kModel + " " + kModel, "verify " + kModel + " --against " + kModel}) {
      warned(command + slip, option);
    }
  }
  warned("digest " + kModel + " --passthrough 'nom*'", "--passthrough");
  warned("convert " + kModel + " null: --to hf --keep-dtype 'nom*' --keep-dtype '*norm*'", "--keep-dtype");
  // What a format calls an array counts, whatever its files call it, and what is left out as well.
  for (const std::string& model : {kModel, kNanotron, "synthetic:" + kModel + "/config.json"}) {
    for (const std::string& command : {"inspect " + model, "verify " + model, "plan " + model + " null: --to hf",
                                       "diff " + model + " " + model, "verify " + model + " --against " + model}) {
      const std::string choice = " --include '*.?.*' --exclude '*norm*'";
      const ProgramRun run = succeed(command + choice, 2);
      EXPECT_EQ(run.err.find("matches nothing"), std::string::npos) << command << "\n" << run.err;
    }
    warned("verify " + model + " --include '*.?.*' --exclude 'nom*'", "--exclude");
  }
  // Names of lines count where two checkpoints are compared.
  EXPECT_EQ(succeed("diff " + kModel + " " + kModel + " --include 'attn.q*'").err, "");
}

TEST_F(Program, TheNullTargetKeepsNothing) {
  const nlohmann::json done = document("convert synthetic:" + kModel + "/config.json null: --to nanotron --tp 2", 2);
  EXPECT_EQ(done["target"]["path"], "null:");
  EXPECT_EQ(done["digests"]["total"], document("digest synthetic:" + kModel + "/config.json")["digests"]["total"]);
}

// Transformers 5 may save the experts of a layer as it holds them, in two tensors; we write them one by one, as it does
// by default.
TEST_F(Program, FusedExpertsAreRead) {
  for (const std::string name : {"mixtral", "qwen2-moe", "qwen3-moe"}) {
    const std::string single = source_dir() + "/tests/interop/hf-fused/" + name, fused = single + "-fused";
    EXPECT_EQ(document("digest " + fused)["digests"], document("digest " + single)["digests"]) << name;
    succeed("convert " + fused + " " + path(name) + " --to hf", 2);
    EXPECT_TRUE(file_bytes(path(name + "/model.safetensors")) == file_bytes(single + "/model.safetensors")) << name;
    succeed("convert " + fused + " " + path(name + ".h5") + " --to hdf5");
    succeed("diff " + path(name + ".h5") + " " + single);
  }
}

TEST_F(Program, OneFileTargetsGoIntoFoldersUnderTheirUsualName) {
  std::filesystem::create_directory(path("folder"));
  const nlohmann::json done = document("convert " + kModel + " " + path("folder") + " --to hdf5");
  EXPECT_EQ(done["target"]["path"], path("folder/model.h5"));
  EXPECT_TRUE(document("verify " + path("folder/model.h5"))["passed"].get<bool>());
}

TEST_F(Program, JobFiles) {
  put_file(path("job.json"), "{\"command\": \"convert\", \"src\": \"" + kModel + "\", \"dst\": \"" + path("out") +
                                 "\", \"to\": \"nanotron\", \"tp\": 2}");
  succeed("--config " + path("job.json"));
  EXPECT_EQ(document("inspect " + path("out"))["mesh"]["tp"], 2);
  succeed("convert --config " + path("job.json") + " --tp 4 --overwrite", 2);
  EXPECT_EQ(document("inspect " + path("out"))["mesh"]["tp"], 4);
}

TEST_F(Program, ProgressGoesToStderr) {
  const ProgramRun run = run_program(program(), "convert " + kModel + " " + path("out") + " --to hf --progress 1", 1,
                                     "RESHARD_IO_THROTTLE=200KB,200KB");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_TRUE(std::regex_search(run.err, std::regex("reshard: convert +[0-9]+ %.*limit: (read|write)\n"))) << run.err;
  EXPECT_EQ(run.out.find("%"), std::string::npos);
}

// What has no share to tell is named once it has lasted as long as lines are apart.
TEST_F(Program, ProgressNamesStages) {
  const std::string plan = "plan " + kModel + " null: --to hf";
  const auto run = [&](const std::string& more) {
    return run_program(program(), plan + more, 1, "RESHARD_IO_THROTTLE=2KB,2KB").err;
  };
  EXPECT_TRUE(std::regex_search(run(" --progress 1"), std::regex("^reshard: plan: reading headers, 1\\.[0-9] s\n")));
  EXPECT_EQ(run(" --progress 0").find("reading"), std::string::npos);
  EXPECT_EQ(succeed(plan + " --progress 1").err.find("reading"), std::string::npos);
}

TEST_F(Program, SeveralRanksPrintOnce) {
  EXPECT_EQ(reshard("digest " + kModel, 3).out, reshard("digest " + kModel).out);
  EXPECT_EQ(reshard("--version", 2).out, reshard("--version").out);
  const ProgramRun run = reshard("convert " + kModel + " " + path("out") + " --to nothing", 3);
  EXPECT_EQ(run.status, 2);
  EXPECT_EQ(run.num_errors(), 1) << run.err;
}

TEST_F(Program, AReaderThatGoesAwayIsNoFailure) {
  const int status = std::system((std::string("(") + program() + " digest " + kModel + "; echo $? >" + path("status") +
                                  ") | head -n 0 && sleep 0.5")
                                     .c_str());
  EXPECT_EQ(status, 0);
  EXPECT_EQ(file_bytes(path("status")), "0\n");
  EXPECT_NE(std::system((program() + " list dtypes >/dev/full 2>/dev/null").c_str()), 0);
}

}  // namespace
}  // namespace reshard::test
