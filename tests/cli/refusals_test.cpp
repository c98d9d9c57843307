// SPDX-License-Identifier: Apache-2.0
// What the program refuses: one line on stderr, nothing on stdout, the right status, and no output left behind.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/says.h"

namespace reshard::test {
namespace {

const std::string kData = source_dir() + "/tests/interop/hf/";
const std::string kModel = kData + "llama-gqa";

class Refusals : public ::testing::Test {
 protected:
  /// The line that says why. Checks the manners of a refusal.
  std::string refuse(const std::string& arguments, int status, int ranks = 1, const std::string& environment = "") {
    const ProgramRun run = run_program(program(), arguments, ranks, environment);
    EXPECT_EQ(run.status, status) << arguments << "\n" << run.err;
    EXPECT_EQ(run.out, "") << arguments;
    EXPECT_EQ(run.num_errors(), 1) << run.err;
    const std::size_t begin = run.err.find("reshard: error: ");
    if (begin == std::string::npos) return "";
    return run.err.substr(begin, run.err.find('\n', begin) - begin);
  }
  std::string path(const std::string& name) const { return folder_.path(name); }
  bool nothing_left(const std::string& name) const {
    for (const char* suffix : {"", ".partial", ".journal", ".report.json", ".old"}) {
      if (std::filesystem::exists(path(name) + suffix)) return false;
    }
    return true;
  }

  TemporaryFolder folder_;
};

TEST_F(Refusals, Usage) {
  EXPECT_SAYS(refuse("", 2), "no command");
  EXPECT_SAYS(refuse("conver a b", 2), "did you mean convert?");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out"), 2), "--to FORMAT is missing");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to nanotorn", 2), "did you mean nanotron?");
  EXPECT_SAYS(refuse("inspect " + kModel + " --from nanotorn", 2), "nanotorn");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to hf --dtype bf61", 2), "did you mean bf16?");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to hf --dtype fp8", 2), "fp8");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to hf --config-dir " + path("none"), 2), "none");
  EXPECT_SAYS(refuse("digest synthetic:llama3-80b", 2), "llama3-8");
  EXPECT_SAYS(refuse("convert " + kModel + " synthetic:llama3-8b --to hf", 2), "names sources only");
  EXPECT_TRUE(nothing_left("out"));
}

TEST_F(Refusals, ImpossibleTargets) {
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to nanotron --tp 3", 2), "tp (3)");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to nanotron --pp 5", 2), "only 4 layers");
  EXPECT_SAYS(refuse("convert " + kData + "qwen3 " + path("out") + " --to nanotron", 2), "q_norm");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to hf --tp 2", 2), "tp");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to nanotron --format-version 9", 2), "9");
  for (const std::string to : {"nanotron", "hdf5"}) {
    EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --max-shard-size 1GB --to " + to, 2),
                "format " + to);
  }
  EXPECT_TRUE(nothing_left("out"));
}

TEST_F(Refusals, ABudgetThatIsTooSmallNamesTheSmallest) {
  const std::string line = refuse("convert " + kModel + " " + path("out") + " --to nanotron --memory-budget 64KiB", 2);
  EXPECT_SAYS(line, "the smallest that works is ");
  const std::string smallest = line.substr(line.rfind(' ') + 1);
  const ProgramRun run =
      run_program(program(), "convert " + kModel + " " + path("out") + " --to nanotron --memory-budget " + smallest);
  EXPECT_EQ(run.status, 0) << run.err;
}

TEST_F(Refusals, WhatIsInTheWay) {
  put_file(path("out/precious"), "data");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to hf", 2), "--overwrite");
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("out") + " --to hf --dry-run", 2, 2), "--overwrite");
  EXPECT_EQ(run_program(program(), "plan " + kModel + " " + path("out") + " --to hf").status, 0);
  EXPECT_EQ(file_bytes(path("out/precious")), "data");
  EXPECT_FALSE(std::filesystem::exists(path("out.partial")));
  put_file(path("file/out"), "");
  for (const std::string below : {"file/out/deeper", "file/out/deeper/still"}) {
    EXPECT_SAYS(refuse("convert " + kModel + " " + path(below) + " --to hf", 2),
                path(below) + ": " + path("file/out") + " is not a folder; choose another path");
  }
  EXPECT_SAYS(refuse("convert " + kModel + " " + path("file/new/deeper") + " --to hf", 2),
              path("file/new") + " does not exist; make it first");
}

TEST_F(Refusals, ChoicesThatLeaveNothing) {
  for (const std::string& command : {"verify " + kModel, "convert " + kModel + " " + path("out") + " --to hf"}) {
    for (const std::string choice : {" --include nosuch", " --exclude '*'"}) {
      EXPECT_SAYS(refuse(command + choice, 2), "--include and --exclude leave nothing; `reshard inspect` lists");
    }
  }
  EXPECT_SAYS(refuse("diff " + kModel + " " + kModel + " --include nosuch", 2), "leave nothing to compare");
  EXPECT_TRUE(nothing_left("out"));
}

// Of many differences the first are told, and how to see what there is.
TEST_F(Refusals, MoreLayersThanTheConfigSays) {
  std::filesystem::copy(kModel, path("model"));
  std::string config = file_bytes(kModel + "/config.json");
  const std::string layers = "\"num_hidden_layers\": 4";
  ASSERT_NE(config.find(layers), std::string::npos);
  put_file(path("model/config.json"), config.replace(config.find(layers), layers.size(), "\"num_hidden_layers\": 3"));
  const std::string line = refuse("digest " + path("model"), 3);
  EXPECT_SAYS(line, "is of layer 3 (counted from 0), but the configuration's number of layers is 3");
  EXPECT_EQ(line.find("--passthrough carries"), std::string::npos) << line;
  EXPECT_SAYS(line, "; and 4 more (reshard inspect --passthrough '*' lists all tensors)");
  const ProgramRun run = run_program(program(), "inspect --passthrough '*' " + path("model"));
  EXPECT_EQ(run.status, 0) << run.err;
  for (const std::string name : {"model.layers.3.input_layernorm.weight", "model.layers.3.self_attn.v_proj.weight"}) {
    EXPECT_SAYS(run.out, name);
  }
}

TEST_F(Refusals, SourceAndTargetInsideOneAnother) {
  std::filesystem::copy(kModel, path("model"));
  EXPECT_SAYS(refuse("convert " + path("model") + " " + path("model/out") + " --to hf", 2), "outside");
  EXPECT_SAYS(refuse("convert " + path("model") + " " + folder_.path() + " --to hf --overwrite", 2), "outside");
  EXPECT_SAYS(refuse("convert " + path("model") + " " + path("model") + " --to hf --overwrite", 2), "outside");
  EXPECT_TRUE(std::filesystem::exists(path("model/model.safetensors")));
  // A link counts where it leads, be it the folder or a file.
  std::filesystem::create_directory_symlink("model", path("alias"));
  EXPECT_SAYS(refuse("convert " + path("alias") + " " + path("model/out") + " --to hf", 2), "outside");
  std::filesystem::create_directory(path("linked"));
  std::filesystem::copy(kModel + "/config.json", path("linked/config.json"));
  std::filesystem::create_symlink("../model/model.safetensors", path("linked/model.safetensors"));
  EXPECT_SAYS(refuse("convert " + path("linked") + " " + path("model") + " --to hf --overwrite --follow-symlinks", 2),
              "outside");
  // So does each folder of a source of many.
  std::filesystem::copy(source_dir() + "/tests/interop/nanotron/llama-gqa-tp2-pp2", path("nanotron"),
                        std::filesystem::copy_options::recursive);
  std::filesystem::create_directory(path("store"));
  std::filesystem::rename(path("nanotron/model/model/decoder/2"), path("store/2"));
  std::filesystem::create_directory_symlink("../../../../store/2", path("nanotron/model/model/decoder/2"));
  const std::string convert = "convert " + path("nanotron") + " --to hf --follow-symlinks ";
  const ProgramRun apart = run_program(program(), convert + "null:");
  EXPECT_EQ(apart.status, 0) << apart.err;
  EXPECT_SAYS(refuse(convert + path("store") + " --overwrite", 2), "outside");
  EXPECT_TRUE(std::filesystem::exists(path("store/2")));
}

TEST_F(Refusals, Sources) {
  EXPECT_SAYS(refuse("inspect " + path("none"), 3), "none");
  EXPECT_SAYS(refuse("inspect org/name", 3, 1, "HF_HUB_CACHE=" + path("cache")), "org/name");
  std::filesystem::create_directory(path("empty"));
  EXPECT_SAYS(refuse("inspect " + path("empty"), 3), "empty");
  EXPECT_SAYS(refuse("convert " + kData + "llama-tied-no-head " + path("out") + " --to hf", 3), "lm_head");

  std::filesystem::copy(kModel, path("cut"));
  std::filesystem::resize_file(path("cut/model.safetensors"),
                               std::filesystem::file_size(kModel + "/model.safetensors") - 1);
  for (const std::string command : {"inspect", "digest", "verify"}) {
    EXPECT_SAYS(refuse(command + " " + path("cut"), 3), "model.safetensors");
  }
  EXPECT_SAYS(refuse("convert " + path("cut") + " " + path("out") + " --to hf", 3, 3), "model.safetensors");
  EXPECT_TRUE(nothing_left("out"));
}

// A format takes its own configs alone, some also a config.json.
TEST_F(Refusals, ConfigsOfAnotherFormat) {
  for (const char* format : {"nanotron", "meta", "fairseq2", "llms_from_scratch"}) {
    const std::string made = "convert " + kModel + " " + path(format) + " --to " + format;
    ASSERT_EQ(run_program(program(), made).status, 0) << made;
  }
  std::filesystem::remove(path("nanotron/model_config.json"));
  const auto inspect = [&](const char* format, const std::string& from) {
    return "inspect " + path(format) + " --from " + format + " --config-from " + from;
  };
  EXPECT_SAYS(refuse(inspect("nanotron", kModel), 3),
              "--config-from " + kModel +
                  ": has no model_config.json; a source of format nanotron takes its config from that file alone");
  EXPECT_SAYS(refuse(inspect("nanotron", kModel + "/config.json"), 3), "which a model_config.json of Nanotron says");
  EXPECT_SAYS(refuse(inspect("meta", path("nanotron")), 3), ": has no params.json and no config.json; a source of");
  EXPECT_SAYS(refuse(inspect("fairseq2", path("nanotron")), 3), ": has no model.yaml and no config.json; a source of");
  EXPECT_SAYS(refuse(inspect("llms_from_scratch", path("nanotron")), 3), ": has no model.json and no config.json; a");
  for (const char* format : {"meta", "fairseq2", "llms_from_scratch"}) {
    for (const std::string& from : {path(format), kModel}) {
      EXPECT_EQ(run_program(program(), inspect(format, from)).status, 0) << inspect(format, from);
    }
  }
}

// Nothing looks complete then, and --resume goes on.
TEST_F(Refusals, FailuresWhileRunningCanBeResumed) {
  const ProgramRun whole = run_program(program(), "convert " + kModel + " " + path("out") + " --to nanotron");
  ASSERT_EQ(whole.status, 0) << whole.err;
  std::filesystem::rename(path("out"), path("whole"));
  const std::vector<std::tuple<std::string, int, std::string>> faults = {
      {"write:ENOSPC@100000", 4, "No space left"},
      {"write:EIO@9000", 4, "out"},
      {"read:EIO@100000", 3, "tensors lm_head.weight to "},
      {"sync:EIO@100000", 4, "cannot sync"}};
  for (const auto& [fault, status, part] : faults) {
    for (const int ranks : {1, 3}) {
      const std::string convert = "convert " + kModel + " " + path("out") + " --to nanotron";
      const std::string line = refuse(convert, status, ranks, "RESHARD_IO_FAULT=" + fault);
      EXPECT_SAYS(line, part) << fault;
      EXPECT_SAYS(line, "--resume goes on from here");
      EXPECT_FALSE(std::filesystem::exists(path("out")));
      const ProgramRun failed = run_program(program(), "status " + path("out"));
      EXPECT_EQ(failed.status, 4);
      EXPECT_SAYS(failed.out, "failed");
      EXPECT_SAYS(failed.out, part);
      const ProgramRun resumed = run_program(program(), convert + " --resume");
      EXPECT_EQ(resumed.status, 0) << resumed.err;
      // Bytes whose sync failed are not there; what another rank synced before is.
      if (fault.starts_with("sync") && ranks == 1) {
        EXPECT_EQ(resumed.err.find("from before"), std::string::npos) << resumed.err;
      }
      EXPECT_EQ(run_program("/usr/bin/diff", "-r " + path("whole") + " " + path("out")).status, 0);
      EXPECT_EQ(run_program(program(), "status " + path("out")).status, 0);
      std::filesystem::remove_all(path("out"));
      EXPECT_FALSE(std::filesystem::exists(path("out.partial")));
      EXPECT_FALSE(std::filesystem::exists(path("out.journal")));
      std::filesystem::remove(path("out.report.json"));
    }
  }
}

// The commit fails when all else is done: the output is whole, under the name that it grew in.
TEST_F(Refusals, AFailingCommitKeepsTheOutput) {
  for (const int ranks : {1, 3}) {
    std::thread somebody([&] {
      for (int tries = 0; tries < 3000 && !std::filesystem::exists(path("out.partial")); ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      put_file(path("out/precious"), "data");
    });
    const std::string line =
        refuse("convert " + kModel + " " + path("out") + " --to nanotron", 4, ranks, "RESHARD_IO_THROTTLE=500KB,500KB");
    somebody.join();
    EXPECT_SAYS(line, "appeared while this job ran; the output is complete in " + path("out.partial"));
    EXPECT_EQ(file_bytes(path("out/precious")), "data");
    EXPECT_FALSE(std::filesystem::exists(path("out.report.json")));
    const ProgramRun whole = run_program(program(), "diff " + kModel + " " + path("out.partial"));
    EXPECT_EQ(whole.status, 0) << whole.err;
    EXPECT_EQ(run_program(program(), "verify " + path("out.partial")).status, 0);
    for (const char* name : {"out", "out.partial", "out.journal"}) std::filesystem::remove_all(path(name));
  }
}

}  // namespace
}  // namespace reshard::test
