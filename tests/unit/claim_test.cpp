// SPDX-License-Identifier: Apache-2.0
#include "reshard/job/claim.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <utility>

#include "tests/support/files.h"
#include "tests/support/says.h"

namespace reshard {
namespace {

namespace fs = std::filesystem;
using job::Claim;

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

Claim::Request request(const std::string& target) {
  Claim::Request request;
  request.target = target;
  request.plan_hash = "0123";
  request.job_id = "42";
  return request;
}

// A claim that must be one.
Expected<Claim> make(const Claim::Request& request) {
  Expected<std::optional<Claim>> claim = Claim::make(request);
  if (!claim) return std::move(claim).error();
  if (!*claim) return run_error("DST is said to hold the output");
  return **std::move(claim);
}

void expect_refused(const Claim::Request& request, const std::string& part, bool foreseen = true) {
  const Status checked = Claim::check(request);
  const auto claim = make(request);
  ASSERT_FALSE(claim);
  EXPECT_EQ(checked ? "" : checked.error().message, foreseen ? claim.error().message : "");
  EXPECT_EQ(claim.error().code, Code::usage);
  EXPECT_SAYS(claim.error().message, part);
}

// Inserts a text behind `after` in the record of the only part.
void edit_record(const std::string& dst, const std::string& after, const std::string& text) {
  const std::string path = dst + ".journal/part-00001-of-00001.json";
  std::string record = text_of(path);
  record.insert(record.find(after) + after.size(), text);
  test::put_file(path, record);
}

// Runs `body` in a process that then dies without a word.
void in_process_that_dies(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
}

class ClaimTest : public ::testing::Test {
 protected:
  test::TemporaryFolder folder_;
  std::string dst_ = folder_.path("dst");
};

TEST_F(ClaimTest, CommitsAFolder) {
  EXPECT_TRUE(Claim::check(request(dst_ + "/")));
  EXPECT_TRUE(names_in(folder_.path()).empty());
  auto claim = make(request(dst_ + "/"));
  ASSERT_TRUE(claim) << claim.error().message;
  EXPECT_EQ(claim->partial(), dst_ + ".partial");
  EXPECT_EQ(claim->journal(), dst_ + ".journal");
  EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"dst.journal", "dst.partial"}));
  const std::string owner = text_of(claim->journal() + "/owner");
  for (const std::string part : {"\"host\"", "\"job\": \"42\"", "\"plan\": \"0123\""}) EXPECT_SAYS(owner, part);
  EXPECT_SAYS(owner, std::to_string(::getpid()));
  test::put_file(claim->partial() + "/model/a", "new");
  ASSERT_TRUE(claim->commit());
  EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst"});
  EXPECT_EQ(text_of(dst_ + "/model/a"), "new");
}

TEST_F(ClaimTest, ReplacesAnEmptyFolder) {
  fs::create_directory(dst_);
  auto claim = make(request(dst_));
  ASSERT_TRUE(claim) << claim.error().message;
  test::put_file(claim->partial() + "/a", "new");
  ASSERT_TRUE(claim->commit());
  EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst"});
  EXPECT_EQ(text_of(dst_ + "/a"), "new");
}

TEST_F(ClaimTest, OverwritesOnlyWhenTold) {
  test::put_file(dst_ + "/a", "old");
  expect_refused(request(dst_), "say --overwrite");
  EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst"});
  auto asked = request(dst_);
  asked.overwrite = true;
  auto claim = make(asked);
  ASSERT_TRUE(claim) << claim.error().message;
  EXPECT_EQ(text_of(dst_ + "/a"), "old");
  test::put_file(claim->partial() + "/b", "new");
  ASSERT_TRUE(claim->commit());
  EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst"});
  EXPECT_EQ(names_in(dst_), std::vector<std::string>{"b"});
}

TEST_F(ClaimTest, CommitsOneFileAndReplacesIt) {
  for (const std::string content : {"first", "second"}) {
    auto asked = request(dst_ + ".h5");
    asked.one_file = true;
    asked.overwrite = content == "second";
    auto claim = make(asked);
    ASSERT_TRUE(claim) << claim.error().message;
    EXPECT_FALSE(fs::exists(claim->partial()));
    test::put_file(claim->partial(), content);
    ASSERT_TRUE(claim->commit());
    EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst.h5"});
    EXPECT_EQ(text_of(dst_ + ".h5"), content);
  }
}

TEST_F(ClaimTest, DiscardsWhatItMade) {
  test::put_file(dst_ + "/a", "old");
  auto asked = request(dst_);
  asked.overwrite = true;
  auto claim = make(asked);
  ASSERT_TRUE(claim);
  test::put_file(claim->partial() + "/b", "new");
  claim->discard();
  EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst"});
  EXPECT_EQ(text_of(dst_ + "/a"), "old");
}

TEST_F(ClaimTest, RefusesTargetsThatCannotBeMade) {
  expect_refused(request(folder_.path("no/such/dst")), "does not exist; make it first");
  for (const std::string path : {"", "/", ".", "..", "x/.."})
    expect_refused(request(path), "not a path that can be made");
  test::put_file(folder_.path("file"), "");
  expect_refused(request(folder_.path("file/dst")), folder_.path("file") + " is not a folder; choose another path");
  expect_refused(request(folder_.path("file/no/dst")), folder_.path("file") + " is not a folder");
  fs::create_directory(folder_.path("real"));
  fs::create_symlink(folder_.path("real"), dst_);
  auto asked = request(dst_);
  asked.overwrite = true;
  expect_refused(asked, "symbolic link");
  asked.target = "/proc";
  expect_refused(asked, "mount point");
  asked.target = "/proc/dst";
  expect_refused(asked, "choose a target in a folder that you may write to", false);
  asked.target = folder_.path("real");
  asked.one_file = true;
  expect_refused(asked, "is a folder, but this target is one file");
}

TEST_F(ClaimTest, LeavesNamesOfOthersAlone) {
  test::put_file(dst_ + ".partial/a", "mine");
  expect_refused(request(dst_), ".partial: is in the way");
  fs::remove_all(dst_ + ".partial");
  test::put_file(dst_ + ".journal/a", "mine");
  expect_refused(request(dst_), "not the claim of a job");
  fs::remove_all(dst_ + ".journal");
  test::put_file(dst_ + ".old/a", "mine");
  test::put_file(dst_ + "/a", "old");
  auto asked = request(dst_);
  asked.overwrite = true;
  expect_refused(asked, ".old: in the way");
  // Without a DST to replace, DST.old is nobody's business.
  fs::remove_all(dst_);
  auto claim = make(asked);
  ASSERT_TRUE(claim) << claim.error().message;
  ASSERT_TRUE(claim->commit());
  EXPECT_EQ(text_of(dst_ + ".old/a"), "mine");
}

TEST_F(ClaimTest, NoticesATargetThatAppearsMeanwhile) {
  auto claim = make(request(dst_));
  ASSERT_TRUE(claim);
  test::put_file(dst_ + "/a", "theirs");
  const Status status = claim->commit();
  ASSERT_FALSE(status);
  EXPECT_SAYS(status.error().message, "appeared while this job ran");
  EXPECT_EQ(text_of(dst_ + "/a"), "theirs");
}

TEST_F(ClaimTest, IsHeldByALivingProcess) {
  auto first = make(request(dst_));
  ASSERT_TRUE(first);
  expect_refused(request(dst_), fmt::format("is being written by process {}", ::getpid()));
  expect_refused(request(dst_), "job 42");
  EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"dst.journal", "dst.partial"}));
}

TEST_F(ClaimTest, IsTakenOverFromADeadProcessOfThisHost) {
  in_process_that_dies([&] {
    auto claim = make(request(dst_));
    test::put_file(claim->partial() + "/half", "written");
  });
  ASSERT_TRUE(fs::exists(dst_ + ".partial/half"));
  auto claim = make(request(dst_));
  ASSERT_TRUE(claim) << claim.error().message;
  EXPECT_TRUE(fs::is_empty(claim->partial()));
  ASSERT_TRUE(claim->commit());
  EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst"});
}

// In a container nobody may ever ask for a killed process's status.
TEST_F(ClaimTest, IsTakenOverFromAProcessThatEndedButIsStillListed) {
  const pid_t child = ::fork();
  if (child == 0) {
    static_cast<void>(make(request(dst_)));
    ::_exit(0);
  }
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_TRUE(make(request(dst_)));
  ::waitpid(child, nullptr, 0);
}

TEST_F(ClaimTest, IsNotTakenFromAnotherHost) {
  in_process_that_dies([&] { static_cast<void>(make(request(dst_))); });
  edit_record(dst_, "\"host\": \"", "other-");
  expect_refused(request(dst_), "on other-");
  expect_refused(request(dst_), "if that is no longer running, say --resume, or remove");
}

// A process number that was used again is not the owner.
TEST_F(ClaimTest, TellsALaterProcessOfTheSameNumber) {
  auto first = make(request(dst_));
  ASSERT_TRUE(first);
  edit_record(dst_, "\"start\": \"", "1");
  EXPECT_TRUE(make(request(dst_)));
}

// A crash after any step of a commit: the next run finishes it, and only then looks whether DST is in its way.
TEST_F(ClaimTest, FinishesACommitThatACrashCutInHalf) {
  for (const bool replaces : {false, true}) {
    for (int step = 0; step <= (replaces ? 3 : 2); ++step) {
      SCOPED_TRACE(fmt::format("replaces {} step {}", replaces, step));
      const test::TemporaryFolder folder;
      const std::string dst = folder.path("dst");
      if (replaces) test::put_file(dst + "/a", "old");
      in_process_that_dies([&] {
        auto asked = request(dst);
        asked.overwrite = replaces;
        auto claim = make(asked);
        test::put_file(claim->partial() + "/a", "new");
        test::put_file(claim->journal() + "/commit", replaces ? "replace\n" : "rename\n");
        if (replaces && step >= 1) fs::rename(dst, dst + ".old");
        if (step >= (replaces ? 2 : 1)) fs::rename(dst + ".partial", dst);
        if (replaces && step >= 3) fs::remove_all(dst + ".old");
      });
      expect_refused(request(dst), "say --overwrite");
      EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"dst"});
      EXPECT_EQ(text_of(dst + "/a"), "new");
    }
  }
}

// Many processes claim at once: one gets it.
TEST_F(ClaimTest, GoesToOneOfMany) {
  std::vector<pid_t> children;
  const std::string winners = folder_.path("winners");
  fs::create_directory(winners);
  for (int i = 0; i < 8; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      const auto claim = make(request(dst_));
      if (claim) test::put_file(fmt::format("{}/{}", winners, i), "");
      ::usleep(300000);  // the winner lives until all have tried
      ::_exit(claim ? 0 : claim.error().code == Code::usage ? 1 : 2);
    }
    children.push_back(child);
  }
  int won = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_LT(WEXITSTATUS(status), 2);
    won += WEXITSTATUS(status) == 0;
  }
  EXPECT_EQ(won, 1);
  EXPECT_EQ(names_in(winners).size(), 1u);
  EXPECT_EQ(names_in(folder_.path()), (std::vector<std::string>{"dst.journal", "dst.partial", "winners"}));
}

Claim::Request part_of(const std::string& target, int part, int parts) {
  Claim::Request asked = request(target);
  asked.parts = parts;
  asked.part = part;
  asked.sources = "files";
  return asked;
}

TEST_F(ClaimTest, IsSharedByPartsAndCommittedByTheLast) {
  for (const int part : {2, 0, 1}) {
    in_process_that_dies([&] {
      auto claim = make(part_of(dst_, part, 3));
      if (!claim) ::_exit(2);
      test::put_file(fmt::format("{}/{}", claim->partial(), part), "x");
      const auto last = claim->take_ticket();
      if (!last || *last != (part == 1)) ::_exit(3);
      if (*last && !claim->commit()) ::_exit(4);
    });
  }
  EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst"});
  EXPECT_EQ(names_in(dst_), (std::vector<std::string>{"0", "1", "2"}));
}

// A part that is run again has its ticket already; the holder of the last one is told so each time.
TEST_F(ClaimTest, GivesOneTicketToAPart) {
  const auto take = [&](int part, bool is_last) {
    in_process_that_dies([&] {
      auto claim = make(part_of(dst_, part, 2));
      const auto last = claim ? claim->take_ticket() : Expected<bool>(claim.error());
      ::_exit(last && *last == is_last ? 0 : 2);
    });
  };
  take(1, false);
  take(1, false);
  take(0, true);
  take(1, false);
  take(0, true);
}

// Any number of parts that finish at once: one gets the last ticket, and it gets it after all others have theirs.
TEST_F(ClaimTest, HasOneLastPartOfMany) {
  constexpr int kParts = 12;
  std::vector<pid_t> children;
  for (int part = 0; part < kParts; ++part) {
    const pid_t child = ::fork();
    if (child == 0) {
      auto claim = make(part_of(dst_, part, kParts));
      if (!claim) ::_exit(2);
      const auto last = claim->take_ticket();
      ::_exit(!last ? 3 : *last ? 1 : 0);
    }
    children.push_back(child);
  }
  int lasts = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_LT(WEXITSTATUS(status), 2);
    lasts += WEXITSTATUS(status);
  }
  EXPECT_EQ(lasts, 1);
}

TEST_F(ClaimTest, RefusesToJoinOtherWork) {
  in_process_that_dies([&] { static_cast<void>(make(part_of(dst_, 0, 2))); });
  auto other = part_of(dst_, 1, 2);
  other.plan_hash = "4567";
  expect_refused(other, "work on another conversion: its plan is 0123, this one's 4567");
  other = part_of(dst_, 1, 2);
  other.sources = "newer files";
  expect_refused(other, "begun from other source files");
  EXPECT_TRUE(make(part_of(dst_, 1, 2)));
}

TEST_F(ClaimTest, RefusesAPartThatIsAtWork) {
  const auto first = make(part_of(dst_, 0, 2));
  ASSERT_TRUE(first);
  EXPECT_SAYS(make(part_of(dst_, 0, 2)).error().message, "part 1/2 is being written by process");
  EXPECT_SAYS(make(part_of(dst_, 0, 3)).error().message, "part 1/2 is being written by process");
  auto whole = part_of(dst_, 0, 1);
  whole.resume = true;
  EXPECT_SAYS(make(whole).error().message, "part 1/2 is being written by process");
}

// With all its runners dead, a claim can be cut anew.
TEST_F(ClaimTest, IsResumedByAnyNumberOfParts) {
  in_process_that_dies([&] {
    auto claim = make(part_of(dst_, 0, 2));
    test::put_file(claim->partial() + "/half", "written");
    static_cast<void>(claim->take_ticket());
  });
  auto whole = part_of(dst_, 0, 1);
  whole.resume = true;
  auto claim = make(whole);
  ASSERT_TRUE(claim) << claim.error().message;
  EXPECT_TRUE(claim->resumed());
  EXPECT_EQ(text_of(claim->partial() + "/half"), "written");
  const auto last = claim->take_ticket();
  ASSERT_TRUE(last);
  EXPECT_TRUE(*last);
  ASSERT_TRUE(claim->commit());
  EXPECT_EQ(names_in(folder_.path()), std::vector<std::string>{"dst"});
}

TEST_F(ClaimTest, BelievesARecordOfAnotherHostThatDoesNotMoveToBeDead) {
  in_process_that_dies([&] { static_cast<void>(make(part_of(dst_, 0, 1))); });
  edit_record(dst_, "\"host\": \"", "other-");
  auto again = part_of(dst_, 0, 1);
  again.resume = true;
  const auto claim = make(again);
  ASSERT_TRUE(claim) << claim.error().message;
  EXPECT_TRUE(claim->resumed());
}

// Between one look and the next.
TEST_F(ClaimTest, JoinsAClaimThatAppearsMeanwhile) {
  const auto asked_while = [&](const std::function<void()>& others_work) {
    auto asked = part_of(dst_, 1, 2);
    asked.is_done = [&, others_work, worked = std::make_shared<bool>(false)] {
      if (!std::exchange(*worked, true)) others_work();
      return fs::exists(dst_);
    };
    return asked;
  };
  const auto begin = [&] { in_process_that_dies([&] { ::_exit(make(part_of(dst_, 0, 2)) ? 0 : 2); }); };
  EXPECT_TRUE(Claim::check(asked_while(begin)));
  fs::remove_all(dst_ + ".journal");
  fs::remove_all(dst_ + ".partial");
  const auto joined = make(asked_while(begin));
  EXPECT_TRUE(joined) << joined.error().message;

  fs::remove_all(dst_ + ".journal");
  fs::remove_all(dst_ + ".partial");
  const auto finish = [&] { fs::create_directories(dst_ + "/a"); };
  EXPECT_TRUE(Claim::check(asked_while(finish)));
  fs::remove_all(dst_);
  const auto done = Claim::make(asked_while(finish));
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_FALSE(done->has_value());
}

TEST_F(ClaimTest, IsNotMadeWhereTheOutputIsDone) {
  auto asked = part_of(dst_, 1, 2);
  asked.is_done = [] { return true; };
  const auto claim = Claim::make(asked);
  ASSERT_TRUE(claim);
  EXPECT_FALSE(claim->has_value());
  EXPECT_TRUE(names_in(folder_.path()).empty());
}

}  // namespace
}  // namespace reshard
