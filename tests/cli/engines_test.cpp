// SPDX-License-Identifier: Apache-2.0
// What repacks and what carries messages: choices, refusals, and the same bytes whatever was chosen.
#include <gtest/gtest.h>

#include "reshard/device/device.h"
#include "tests/support/json_schema.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/says.h"

namespace reshard::test {
namespace {

const std::string kModel = source_dir() + "/tests/interop/hf/llama-gqa";
const std::string kNanotron = " --to nanotron --tp 2 --pp 2";

class Engines : public ::testing::Test {
 protected:
  ProgramRun reshard(const std::string& arguments, int ranks = 1, const std::string& environment = "") const {
    return run_program(program(), arguments, ranks, environment);
  }
  /// Converts to `name` and returns what the report says of the stream.
  nlohmann::json convert(const std::string& name, const std::string& options, int ranks = 1) const {
    const ProgramRun run = reshard("convert " + kModel + " " + path(name) + kNanotron + " --json " + options, ranks);
    EXPECT_EQ(run.status, 0) << run.err;
    const nlohmann::json report = nlohmann::json::parse(run.out, nullptr, false);
    if (report.is_discarded()) return {};
    EXPECT_EQ(schema_error(report, source_dir() + "/configs/schema/output", "convert"), "");
    return report["stream"];
  }
  void refuse(const std::string& options, int status, const std::string& text, int ranks = 1) const {
    const ProgramRun run = reshard("convert " + kModel + " " + path("refused") + kNanotron + " " + options, ranks);
    EXPECT_EQ(run.status, status) << options << run.err;
    EXPECT_EQ(run.num_errors(), 1) << run.err;
    EXPECT_SAYS(run.err, text);
    EXPECT_FALSE(std::filesystem::exists(path("refused")));
  }
  void expect_same(const std::string& a, const std::string& b) const {
    const int differ = std::system(("diff -r -x config.yaml " + path(a) + " " + path(b)).c_str());
    EXPECT_EQ(differ, 0) << a << " " << b;
  }
  std::string path(const std::string& name) const { return folder_.path(name); }

  TemporaryFolder folder_;
  const bool has_cuda_ = device::open_cuda(0).has_value();
};

TEST_F(Engines, TheSameBytesByThreadsAndProcesses) {
  const nlohmann::json alone = convert("alone", "--device cpu");
  EXPECT_EQ(alone["device"], "cpu");
  EXPECT_EQ(alone["device_reason"], "--device cpu");
  EXPECT_EQ(alone["exchange"], "none");
  const nlohmann::json processes = convert("processes", "--route exchange --device cpu", 3);
  EXPECT_EQ(processes["exchange"], "mpi");
  EXPECT_EQ(processes["exchange_reason"], "ranks repack on the CPU");
  const nlohmann::json threads = convert("threads", "--route exchange --exchange loopback --ranks 3");
  EXPECT_EQ(threads["exchange"], "loopback");
  EXPECT_EQ(threads["ranks"].size(), 3u);
  EXPECT_EQ(threads["ranks"][1]["bytes_sent"], processes["ranks"][1]["bytes_sent"]);
  expect_same("alone", "processes");
  expect_same("alone", "threads");
}

TEST_F(Engines, ThreadsServeEveryCommandThatStreams) {
  convert("out", "--exchange loopback --ranks 2");
  for (const std::string& command : {"digest " + path("out"), "verify " + path("out") + " --against " + kModel,
                                     "diff " + path("out") + " " + kModel + " --vocab-size 259"}) {
    const ProgramRun run = reshard(command + " --exchange loopback --ranks 3");
    EXPECT_EQ(run.status, 0) << command << run.err;
  }
}

TEST_F(Engines, SaysWhyThereIsNoDevice) {
  if (has_cuda_) GTEST_SKIP() << "there is a CUDA device here";
  const nlohmann::json stream = convert("out", "");
  EXPECT_EQ(stream["device"], "cpu");
  const auto reason = stream["device_reason"].get<std::string>();
  EXPECT_TRUE(reason.find("no CUDA driver") != std::string::npos || reason.find("without CUDA") != std::string::npos)
      << reason;
  refuse("--device cuda", 4, "error: --device cuda: " + reason + "; say --device cpu to go on without");
  refuse("--device cuda", 4, "error: --device cuda: rank 0: " + reason, 2);
  refuse("--exchange nccl --route exchange", 4, "error: --exchange nccl: NCCL moves memory of CUDA devices", 2);
}

TEST_F(Engines, TheSameBytesByCuda) {
  if (!has_cuda_) GTEST_SKIP() << device::describe_cuda();
  convert("cpu", "--device cpu");
  EXPECT_EQ(convert("auto", "")["device"], "cuda");
  EXPECT_EQ(convert("threads", "--device cuda --route exchange --exchange loopback --ranks 3")["exchange"], "loopback");
  EXPECT_EQ(convert("processes", "--device cuda --route exchange --exchange mpi", 3)["exchange"], "mpi");
  for (const char* other : {"auto", "threads", "processes"}) expect_same("cpu", other);
}

TEST_F(Engines, RefusesWhatCannotBe) {
  refuse("--exchange loopback", 2, "say --ranks N, how many threads, from 1 to 64");
  refuse("--exchange loopback --ranks 65", 2, "say --ranks N");
  refuse("--exchange loopback --ranks 2", 2, "start it without mpirun", 2);
  refuse("--ranks 2", 2, "the launcher says how many ranks a job has");
  refuse("--device cpu --exchange nccl", 2, "leave out --device cpu, or say --exchange mpi");
  refuse("--exchange smoke", 2, "expected auto, mpi, nccl or loopback");
  refuse("--device tpu", 2, "expected auto, cpu or cuda");
  refuse("--device-memory-budget 4KiB", 2, "--device-memory-budget 4.0 KiB is too small");
}

TEST_F(Engines, TheSmallestDeviceBudgetThatIsNamedWorks) {
  const ProgramRun run = reshard("convert " + kModel + " " + path("out") + kNanotron + " --device-memory-budget 4KiB");
  const std::size_t at = run.err.find("the smallest that works is ");
  ASSERT_NE(at, std::string::npos) << run.err;
  const std::string smallest = run.err.substr(at + 27, run.err.find('\n', at) - at - 27);
  convert("out", "--device-memory-budget " + smallest);
}

}  // namespace
}  // namespace reshard::test
