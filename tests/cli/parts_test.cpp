// SPDX-License-Identifier: Apache-2.0
// Conversions as parts, lists of jobs, and what `status` says of them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/support/json_schema.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/says.h"

namespace reshard::test {
namespace {

namespace fs = std::filesystem;

const std::string kModel = source_dir() + "/tests/interop/hf/llama-gqa";

class Parts : public ::testing::Test {
 protected:
  ProgramRun reshard(const std::string& arguments, int status = 0, int ranks = 1) const {
    ProgramRun run = run_program(program(), arguments, ranks);
    EXPECT_EQ(run.status, status) << arguments << "\n" << run.err;
    return run;
  }
  nlohmann::json status_of(const std::string& what, int status) const {
    const nlohmann::json parsed = nlohmann::json::parse(reshard("status " + what + " --json", status).out);
    EXPECT_EQ(schema_error(parsed, source_dir() + "/configs/schema/output", "status"), "");
    return parsed;
  }
  std::string path(const std::string& name) const { return folder_.path(name); }
  bool equal(const std::string& a, const std::string& b) const {
    return run_program("/usr/bin/diff", "-r " + path(a) + " " + path(b)).status == 0;
  }

  TemporaryFolder folder_;
};

TEST_F(Parts, WriteWhatOneJobWrites) {
  int number = 0;
  for (const std::string to : {"hf --max-shard-size 100KB", "nanotron --tp 2 --pp 2", "hdf5", "meta"}) {
    const std::string name = std::to_string(number++);
    reshard("convert " + kModel + " " + path(name) + " --to " + to);
    fs::rename(path(name), path("whole" + name));  // side files may tell where they stand
    // In another order, one of them as an MPI job, one of them twice.
    for (const auto& [part, ranks] : {std::pair("3/3", 1), {"1/3", 2}, {"3/3", 1}, {"2/3", 1}}) {
      EXPECT_FALSE(fs::exists(path(name)));
      reshard("convert " + kModel + " " + path(name) + " --to " + to + " --part " + part, 0, ranks);
    }
    EXPECT_TRUE(equal("whole" + name, name)) << to;
    EXPECT_FALSE(fs::exists(path(name + ".partial")));
    EXPECT_FALSE(fs::exists(path(name + ".journal")));
    // Late ones find it done.
    const ProgramRun late = reshard("convert " + kModel + " " + path(name) + " --to " + to + " --part 2/3");
    EXPECT_SAYS(late.out, "holds this conversion already");
    EXPECT_SAYS(reshard("convert " + kModel + " " + path(name) + " --to " + to + " --resume").out, "already");
    reshard("convert " + kModel + " " + path(name) + " --to " + to, 2);
  }
}

TEST_F(Parts, AreRefusedWhereTheyDoNotFit) {
  for (const std::string part : {"0/3", "4/3", "1", "1/0", "x/2", "-1/2", "1/2/3", "1/99999"}) {
    EXPECT_SAYS(reshard("convert " + kModel + " " + path("out") + " --to hf --part " + part, 2).err, "1 <= I <= N");
  }
  reshard("convert " + kModel + " " + path("out") + " --to hf --part 1/2");
  const ProgramRun other = reshard("convert " + kModel + " " + path("out") + " --to nanotron --part 2/2", 2);
  EXPECT_SAYS(other.err, "is work on another conversion");
  const ProgramRun cast = reshard("convert " + kModel + " " + path("out") + " --to hf --dtype fp32 --part 2/2", 2);
  EXPECT_SAYS(cast.err, "is work on another conversion");
}

TEST_F(Parts, AreTold) {
  reshard("status " + path("out"), 2);
  reshard("convert " + kModel + " " + path("out") + " --to nanotron --part 1/2");
  const nlohmann::json half = status_of(path("out"), 1);
  ASSERT_EQ(half["jobs"].size(), 1u);
  const nlohmann::json& job = half["jobs"][0];
  EXPECT_EQ(job["state"], "waiting");
  ASSERT_EQ(job["parts"].size(), 2u);
  EXPECT_EQ(job["parts"][0]["state"], "done");
  EXPECT_EQ(job["parts"][0]["bytes_done"], job["parts"][0]["bytes"]);
  EXPECT_GT(job["parts"][0]["bytes"], 0);
  EXPECT_EQ(job["parts"][1]["state"], "waiting");
  reshard("convert " + kModel + " " + path("out") + " --to nanotron --part 2/2");
  const nlohmann::json whole = status_of(path("out"), 0);
  EXPECT_EQ(whole["jobs"][0]["state"], "done");
  EXPECT_EQ(whole["counts"]["done"], 1);
  EXPECT_SAYS(reshard("status " + path("")).out, "1 done");
}

// A part that was killed: its process is gone.
TEST_F(Parts, AreTakenFromTheDead) {
  const std::string convert = "convert " + kModel + " " + path("out") + " --to nanotron --tp 2 --part 1/2";
  run_program(program(), convert, 1, "RESHARD_IO_KILL=synced@1");
  const nlohmann::json dead = status_of(path("out"), 4);
  EXPECT_EQ(dead["jobs"][0]["state"], "stopped");
  EXPECT_SAYS(dead["jobs"][0]["error"].get<std::string>(), "is gone without a word");
  reshard("convert " + kModel + " " + path("out") + " --to nanotron --tp 2 --resume");
  fs::rename(path("out"), path("resumed"));
  reshard("convert " + kModel + " " + path("out") + " --to nanotron --tp 2");
  EXPECT_TRUE(equal("resumed", "out"));
}

TEST_F(Parts, OfARunBecomeJobs) {
  fs::create_directory(path("run"));
  for (const char* step : {"step-9", "step-10", "step-100"})
    fs::copy(kModel, path(std::string("run/") + step), fs::copy_options::recursive);
  put_file(path("run/latest.txt"), "100");
  const std::string jobs = "jobs " + path("run") + " '*' --to nanotron --tp 2 --out " + path("out") + " --resume";
  const ProgramRun listed = reshard(jobs);
  EXPECT_SAYS(listed.err, "latest.txt: no checkpoint");
  put_file(path("jobs.jsonl"), listed.out + "{broken\n");
  std::vector<std::string> sources;
  for (std::istringstream lines(listed.out); lines;) {
    std::string line;
    if (!std::getline(lines, line)) break;
    const nlohmann::json job = nlohmann::json::parse(line);
    EXPECT_EQ(job["tp"], 2);
    EXPECT_EQ(job["resume"], true);
    EXPECT_FALSE(job.contains("out"));
    sources.push_back(fs::path(job["src"].get<std::string>()).filename());
  }
  EXPECT_EQ(sources, (std::vector<std::string>{"step-9", "step-10", "step-100"}));

  const std::string by_line = "convert --config " + path("jobs.jsonl") + " --line ";
  reshard(by_line + "2");
  EXPECT_TRUE(fs::exists(path("out/step-10/reshard.json")));
  EXPECT_SAYS(reshard(by_line + "4", 2).err, "jobs.jsonl: line 4: ");
  EXPECT_SAYS(reshard(by_line + "7", 2).err, "jobs.jsonl: line 7: there is no such line");
  EXPECT_SAYS(reshard(by_line + "0", 2).err, "the number of a line, from 1");
  EXPECT_SAYS(reshard("convert " + kModel + " " + path("x") + " --to hf --line 1", 2).err, "--config");

  const nlohmann::json all = status_of(path("jobs.jsonl"), 4);
  std::vector<std::string> states;
  for (const auto& job : all["jobs"]) states.push_back(job["state"]);
  EXPECT_EQ(states, (std::vector<std::string>{"waiting", "done", "waiting", "failed"}));

  // What is done is left out, unless it was done otherwise.
  EXPECT_EQ(reshard(jobs).out.find("step-10\""), std::string::npos);
  EXPECT_SAYS(reshard(jobs + " --dtype fp32").out, "step-10\"");
  EXPECT_SAYS(reshard("jobs " + path("run") + " 'no*' --to hf --out " + path("out"), 2).err, "nothing matches");
  EXPECT_SAYS(reshard("jobs " + path("run") + " '*' --to hf", 2).err, "--out");
}

}  // namespace
}  // namespace reshard::test
