// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "src/cli/command_line.h"
#include "src/cli/progress.h"
#include "src/cli/text_table.h"
#include "tests/support/files.h"
#include "tests/support/says.h"

namespace reshard::cli {
namespace {

Invocation parsed(const std::vector<std::string>& arguments) {
  Expected<Invocation> invocation = parse_command_line(arguments);
  EXPECT_TRUE(invocation) << (invocation ? "" : invocation.error().message);
  return invocation ? *invocation : Invocation{};
}

std::string refused(const std::vector<std::string>& arguments) {
  const Expected<Invocation> invocation = parse_command_line(arguments);
  EXPECT_FALSE(invocation);
  if (invocation) return "";
  EXPECT_EQ(invocation.error().code, Code::usage);
  EXPECT_EQ(invocation.error().message.find('\n'), std::string::npos);
  return invocation.error().message;
}

TEST(CommandLine, TakesEveryFixedWord) {
  const Invocation invocation = parsed({"convert",
                                        "a",
                                        "b",
                                        "--to",
                                        "nanotron",
                                        "--tp",
                                        "2",
                                        "--pp=3",
                                        "--ep",
                                        "4",
                                        "--dp",
                                        "5",
                                        "--dtype",
                                        "bf16",
                                        "--max-shard-size",
                                        "2GB",
                                        "--memory-budget",
                                        "1GiB",
                                        "--route",
                                        "exchange",
                                        "--vocab-size",
                                        "259",
                                        "--vocab-multiple",
                                        "64",
                                        "--overwrite"});
  const app::Options& options = invocation.options;
  EXPECT_EQ(invocation.command, Command::convert);
  EXPECT_EQ(options.src, "a");
  EXPECT_EQ(options.dst, "b");
  EXPECT_EQ(options.to, "nanotron");
  EXPECT_EQ(options.mesh, (layout::Mesh{2, 3, 4, 5}));
  EXPECT_EQ(options.dtype, "bf16");
  EXPECT_EQ(options.max_shard_size, 2'000'000'000);
  EXPECT_EQ(options.memory_budget, kGiB);
  EXPECT_EQ(options.route, plan::Route::exchange);
  EXPECT_EQ(options.vocab_size, 259);
  EXPECT_EQ(options.vocab_multiple, 64);
  EXPECT_TRUE(options.overwrite);
}

TEST(CommandLine, DefaultsAreThoseOfTheOptions) {
  const Invocation invocation = parsed({"plan", "a", "b", "--to", "hf"});
  EXPECT_EQ(invocation.options.mesh, layout::Mesh{});
  EXPECT_EQ(invocation.options.route, plan::Route::automatic);
  EXPECT_FALSE(invocation.options.overwrite);
  EXPECT_FALSE(invocation.json);
  EXPECT_TRUE(invocation.progress.automatic);
}

TEST(CommandLine, OptionsMayComeBeforeOperandsAndAfterThem) {
  EXPECT_EQ(parsed({"diff", "--tolerance", "1e-3", "a", "--json", "b"}).options.dst, "b");
}

TEST(CommandLine, UnderscoresStandForDashesInNamesAlone) {
  const Invocation invocation = parsed({"convert", "s_r_c", "d", "--max_shard_size=1MB", "--keep_dtype", "a_*"});
  EXPECT_EQ(invocation.options.max_shard_size, 1'000'000);
  EXPECT_EQ(invocation.options.keep_dtype, std::vector<std::string>{"a_*"});
  EXPECT_EQ(invocation.options.src, "s_r_c");
  EXPECT_EQ(parsed({"convert", "a", "b", "--config_dir=x_y"}).options.config_dir, "x_y");
}

TEST(CommandLine, ListsRepeat) {
  EXPECT_EQ(parsed({"inspect", "a", "--include", "x", "--include=y"}).options.include,
            (std::vector<std::string>{"x", "y"}));
  EXPECT_SAYS(refused({"convert", "a", "b", "--tp", "1", "--tp", "2"}), "--tp is given 2 times");
}

TEST(CommandLine, NothingIsGuessed) {
  EXPECT_SAYS(refused({"convert", "a", "b", "--over"}), "unknown option --over");
  EXPECT_SAYS(refused({"convert", "a", "b", "--max-shard", "1"}), "unknown option --max-shard");
}

TEST(CommandLine, SlipsGetASuggestion) {
  EXPECT_SAYS(refused({"covnert", "a", "b"}), "did you mean convert?");
  EXPECT_SAYS(refused({"convert", "a", "b", "--overwite"}), "did you mean --overwrite?");
  EXPECT_SAYS(refused({"convert", "a", "b", "--memroy-budget", "1GB"}), "did you mean --memory-budget?");
  EXPECT_SAYS(refused({"list", "format"}), "did you mean formats?");
  EXPECT_SAYS(refused({"digest", "a", "--tp", "2"}), "--tp is no option of digest");
  EXPECT_SAYS(refused({"frobnicate"}), "inspect, plan, convert, verify, diff, digest, list");
}

TEST(CommandLine, ValuesAreChecked) {
  EXPECT_SAYS(refused({"convert", "a", "b", "--tp", "0"}), "--tp 0: expected a whole number from 1 on");
  EXPECT_SAYS(refused({"convert", "a", "b", "--tp", "2x"}), "--tp 2x");
  EXPECT_SAYS(refused({"convert", "a", "b", "--tp=-1"}), "--tp -1");
  EXPECT_SAYS(refused({"convert", "a", "b", "--tp", "99999999999999999999"}), "--tp 9999");
  EXPECT_SAYS(refused({"convert", "a", "b", "--memory-budget", "lots"}), "--memory-budget lots: expected a size");
  EXPECT_SAYS(refused({"convert", "a", "b", "--max-shard-size", "0"}), "expected a size");
  EXPECT_SAYS(refused({"convert", "a", "b", "--route", "scenic"}), "auto, direct or exchange");
  EXPECT_SAYS(refused({"convert", "a", "b", "--progress", "often"}), "--progress often");
  EXPECT_SAYS(refused({"diff", "a", "b", "--tolerance", "-1"}), "--tolerance -1");
  EXPECT_SAYS(refused({"diff", "a", "b", "--tolerance", "nan"}), "--tolerance nan");
  EXPECT_FALSE(refused({"convert", "a", "b", "--to"}).empty());
  EXPECT_FALSE(refused({"convert", "a", "b", "--overwrite=yes"}).empty());
}

TEST(CommandLine, OperandsAreCounted) {
  EXPECT_SAYS(refused({"convert", "a"}), "convert: DST is missing; usage: reshard convert SRC DST");
  EXPECT_SAYS(refused({"convert"}), "SRC is missing");
  EXPECT_SAYS(refused({"inspect", "a", "b"}), "b is one operand too many");
  EXPECT_SAYS(refused({"inspect", ""}), "empty");
  EXPECT_SAYS(refused({}), "no command");
  EXPECT_SAYS(refused({"convert", "a", "b", "-x"}), "unknown option -x");
}

TEST(CommandLine, HelpAndVersionAskForNothingElse) {
  EXPECT_TRUE(parsed({"--help"}).help);
  EXPECT_TRUE(parsed({"-h"}).help);
  EXPECT_TRUE(parsed({"help"}).help);
  EXPECT_EQ(parsed({"help", "plan"}).command, Command::plan);
  EXPECT_TRUE(parsed({"convert", "--help"}).help);
  EXPECT_TRUE(parsed({"--version"}).version);
  EXPECT_TRUE(parsed({"convert", "--version"}).version);
}

TEST(CommandLine, Progress) {
  EXPECT_EQ(parsed({"digest", "a", "--progress", "0"}).progress.interval_s, 0);
  const ProgressSetting every = parsed({"digest", "a", "--progress", "5"}).progress;
  EXPECT_EQ(every.interval_s, 5);
  EXPECT_FALSE(every.automatic);
  EXPECT_TRUE(parsed({"digest", "a", "--progress", "auto"}).progress.automatic);
}

TEST(Help, NamesEveryOptionAndShowsExamples) {
  for (const CommandInfo& command : commands()) {
    const std::string text = help_text(command.command);
    EXPECT_SAYS(text, "\nexamples\n  reshard " + std::string(command.name));
    for (const OptionInfo& option : options()) {
      const bool shown = text.find("  --" + std::string(option.name) + " ") != std::string::npos;
      EXPECT_EQ(shown, option.belongs_to(command.command)) << option.name << " in the help of " << command.name;
    }
  }
  EXPECT_SAYS(help_text(std::nullopt), "exit status");
  // Options speak of the operands by their names in the command.
  EXPECT_SAYS(help_text(Command::convert), "format of SRC;");
  EXPECT_SAYS(help_text(Command::verify), "format of CKPT;");
  EXPECT_SAYS(help_text(Command::verify), "format of the checkpoint of --against;");
  EXPECT_SAYS(help_text(Command::diff), "format of A;");
  EXPECT_SAYS(help_text(Command::diff), "format of B;");
}

class JobFiles : public ::testing::Test {
 protected:
  std::string job(const std::string& text) {
    test::put_file(folder_.path("job.json"), text);
    return folder_.path("job.json");
  }
  test::TemporaryFolder folder_;
};

TEST_F(JobFiles, EveryOptionIsAKey) {
  const Invocation invocation =
      parsed({"convert", "--config", job(R"({"src": "a", "dst": "b", "to": "hf", "tp": 2, "memory_budget": "2GiB",
          "keep-dtype": ["x", "y"], "include": "z", "overwrite": true, "dry-run": false, "json": true})")});
  EXPECT_EQ(invocation.options.src, "a");
  EXPECT_EQ(invocation.options.dst, "b");
  EXPECT_EQ(invocation.options.to, "hf");
  EXPECT_EQ(invocation.options.mesh.tp, 2);
  EXPECT_EQ(invocation.options.memory_budget, 2 * kGiB);
  EXPECT_EQ(invocation.options.keep_dtype, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(invocation.options.include, std::vector<std::string>{"z"});
  EXPECT_TRUE(invocation.options.overwrite);
  EXPECT_FALSE(invocation.options.dry_run);
  EXPECT_TRUE(invocation.json);
}

TEST_F(JobFiles, TheCommandLineWins) {
  const std::string path = job(R"({"command": "plan", "src": "a", "dst": "b", "to": "hf", "include": ["x"], "tp": 2})");
  const Invocation all = parsed({"--config", path});
  EXPECT_EQ(all.command, Command::plan);
  EXPECT_EQ(all.options.src, "a");
  const Invocation some = parsed({"convert", "c", "--config", path, "--include", "y", "--tp=3"});
  EXPECT_EQ(some.command, Command::convert);
  EXPECT_EQ(some.options.src, "c");
  EXPECT_EQ(some.options.dst, "b");
  EXPECT_EQ(some.options.include, std::vector<std::string>{"y"});
  EXPECT_EQ(some.options.mesh.tp, 3);
}

TEST_F(JobFiles, OperandsOfTheCommandLineTakeTheFirstPlaces) {
  const std::string both = job(R"({"src": "a", "dst": "b"})");
  const auto operands = [&](std::vector<std::string> given, const std::string& path) {
    given.insert(given.begin(), "convert");
    given.insert(given.end(), {"--config", path});
    const Invocation invocation = parsed(given);
    return invocation.options.src + " " + invocation.options.dst;
  };
  EXPECT_EQ(operands({}, both), "a b");
  EXPECT_EQ(operands({"c"}, both), "c b");
  EXPECT_EQ(operands({"c", "d"}, both), "c d");
  EXPECT_SAYS(refused({"convert", "c", "d", "e", "--config", both}), "e is one operand too many");
  const std::string dst = job(R"({"dst": "b"})");
  EXPECT_EQ(operands({"c"}, dst), "c b");
  EXPECT_SAYS(refused({"convert", "--config", dst}), "SRC is missing");
  const std::string src = job(R"({"src": "a"})");
  EXPECT_EQ(operands({"c", "d"}, src), "c d");
  EXPECT_SAYS(refused({"convert", "c", "--config", src}), "DST is missing");
}

TEST_F(JobFiles, TolerancesAndLists) {
  EXPECT_DOUBLE_EQ(parsed({"diff", "a", "b", "--config", job(R"({"tolerance": 0.001})")}).options.tolerance, 0.001);
  EXPECT_EQ(parsed({"--config", job(R"({"command": "list", "what": "models"})")}).list_what, "models");
}

TEST_F(JobFiles, MistakesAreRefused) {
  const auto refusal = [&](const std::string& text) { return refused({"convert", "--config", job(text)}); };
  EXPECT_SAYS(refusal(R"({"max-shard-sise": "1GB"})"), "did you mean max-shard-size?");
  EXPECT_SAYS(refusal(R"({"tolerance": 1})"), "unknown key for convert");
  EXPECT_SAYS(refusal(R"({"tp": [1, 2]})"), "tp: expected a text or a number");
  EXPECT_SAYS(refusal(R"({"overwrite": "yes"})"), "expected true or false");
  EXPECT_SAYS(refusal(R"({"tp": 1.5})"), "--tp 1.5");
  EXPECT_SAYS(refusal(R"({"tp": 1, "tp": 2})"), "job.json");
  EXPECT_SAYS(refusal(R"([1])"), "JSON object");
  EXPECT_SAYS(refusal(R"({"tp": )"), "job.json");
  EXPECT_SAYS(refused({"--config", job(R"({"src": "a"})")}), "command");
  EXPECT_SAYS(refused({"--config", job(R"({"command": "fly"})")}), "command");
  EXPECT_SAYS(refused({"convert", "--config", folder_.path("none.json")}), "none.json");
}

TEST(ProgressLine, TellsWhatIsDoneAndWhoIsWaitedFor) {
  app::Moment before, now;
  now.target_bytes = 400 * kMiB;
  now.all_ranks.bytes_written = 100 * kMiB;
  now.all_ranks.busy_s[static_cast<std::size_t>(exec::Stage::read)] = 0.5;
  now.all_ranks.busy_s[static_cast<std::size_t>(exec::Stage::write)] = 1.5;
  now.elapsed_s = 2;
  const std::string line = progress_line("convert", before, now);
  EXPECT_SAYS(line, "convert   25 %  100.0 MiB of 400.0 MiB");
  EXPECT_SAYS(line, "52.4 MB/s");
  EXPECT_SAYS(line, "6.0 s left");
  EXPECT_SAYS(line, "limit: write");
}

// A log has a line of a stage for each interval that it lasts: none of a short one, none after its end.
TEST(ProgressPrinter, NamesStagesThatLast) {
  using std::this_thread::sleep_for;
  using namespace std::chrono_literals;
  testing::internal::CaptureStderr();
  {
    ProgressPrinter printer("convert", {false, 0.2}, false);
    printer.stage("reading headers");
    printer.stage("planning");
    sleep_for(500ms);
    printer.update({});
    sleep_for(300ms);
    printer.stage("committing");
    sleep_for(300ms);
    printer.end();
    sleep_for(300ms);
  }
  const std::string lines = testing::internal::GetCapturedStderr();
  EXPECT_EQ(lines.find("reading headers"), std::string::npos) << lines;
  const std::size_t committing = lines.find("reshard: convert: committing, ");
  ASSERT_NE(committing, std::string::npos) << lines;
  EXPECT_LT(lines.find("reshard: convert: planning, "), committing) << lines;
  EXPECT_EQ(lines.find("planning", committing), std::string::npos) << lines;
}

TEST(ProgressPrinter, RewritesOneLineOfATerminal) {
  testing::internal::CaptureStderr();
  {
    ProgressPrinter printer("convert", {true, 10}, true);
    printer.stage("planning");
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_SAYS(text, "\rconvert: planning, ");
  EXPECT_TRUE(text.ends_with("\r\x1b[K"));
}

TEST(ProgressPrinter, SaysNothingWhereNothingIsWanted) {
  testing::internal::CaptureStderr();
  ProgressPrinter printer("convert", {false, 0}, false);
  printer.stage("planning");
  printer.update({{}, 1, 1});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(TextTable, AlignsItsColumns) {
  TextTable table("lrl");
  table.add({"a", "1", "x"});
  table.add({"bbb", "1000", "y"});
  EXPECT_EQ(table.text(1), " a       1  x\n bbb  1000  y\n");
}

}  // namespace
}  // namespace reshard::cli
