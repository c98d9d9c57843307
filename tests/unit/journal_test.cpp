// SPDX-License-Identifier: Apache-2.0
#include "reshard/job/journal.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "tests/support/files.h"

namespace reshard {
namespace {

using job::Journal;
using job::SpanRecord;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

const std::vector<SpanRecord> kRecords = {{0, 0, {{3, 0xFFFFFFFFFFFFFFFFu}, {4, 7}}},
                                          {0, 1, {}},
                                          {70000, 65535, {{Index{1} << 40, 0x0123456789ABCDEFu}}},
                                          {1, 0, {{5, 1}}, {{2, 16, 0xFFFFFFFFu}, {Index{1} << 40, 0, 0}}}};

TEST(Journal, ReturnsWhatWasAppended) {
  const test::TemporaryFolder folder;
  auto first = Journal::create(folder.path(), "rank-1", "plan a");
  auto second = Journal::create(folder.path(), "rank-0", "plan a");
  auto foreign = Journal::create(folder.path(), "rank-2", "plan b");
  ASSERT_TRUE(first && second && foreign);
  ASSERT_TRUE(first->append({kRecords[0]}));
  ASSERT_TRUE(second->append({kRecords[1], kRecords[2], kRecords[3]}));
  ASSERT_TRUE(foreign->append({kRecords[0]}));
  ASSERT_TRUE(first->append({}));
  test::put_file(folder.path("owner"), "no journal");
  const auto all = Journal::read_all(folder.path(), "plan a");
  ASSERT_TRUE(all);
  EXPECT_EQ(*all, (std::vector<SpanRecord>{kRecords[1], kRecords[2], kRecords[3], kRecords[0]}));
}

// Journals outlive the program that wrote them: another version resumes what this one began.
TEST(Journal, KeepsItsForm) {
  const test::TemporaryFolder folder;
  auto journal = Journal::create(folder.path(), "a", "plan");
  ASSERT_TRUE(journal && journal->append(kRecords));
  EXPECT_EQ(contents(folder.path("a.log")), R"(27 cfbbbb9b {"journal":1,"plan":"plan"}
75 55585ac7 {"file":0,"span":0,"lines":[[3,"ffffffffffffffff"],[4,"0000000000000007"]]}
30 80d179fa {"file":0,"span":1,"lines":[]}
72 fc34d7b3 {"file":70000,"span":65535,"lines":[[1099511627776,"0123456789abcdef"]]}
99 9fe1ed3e {"file":1,"span":0,"lines":[[5,"0000000000000001"]],"crcs":[[2,16,4294967295],[1099511627776,0,0]]}
)");
}

TEST(Journal, StopsAtAFormThatIsNotItsOwn) {
  const test::TemporaryFolder folder;
  auto journal = Journal::create(folder.path(), "a", "plan");
  ASSERT_TRUE(journal && journal->append({kRecords[0]}));
  const std::string good = contents(folder.path("a.log"));
  for (const std::string text :
       {"", "{}", R"({"file":0,"span":0})", R"({"file":0,"span":0,"lines":[]}})", R"({"file":0,"span":0,"lines":[})",
        R"({"file":-1,"span":0,"lines":[]})", R"({"file":0,"span":4294967296,"lines":[]})",
        R"({"file":0,"span":0,"lines":[[1,"000000000000000g"]]})",
        R"({"file":0,"span":0,"lines":[[1,"0000000000000001"][2,"0000000000000001"]]})",
        R"({"file":0,"span":0,"lines":[],"crcs":[[1,2]]})", R"({"file":0,"span":0,"lines":[],"other":[]})",
        // The same numbers in other spellings, and a list that is left out where it is empty.
        R"({"file":0,"span":0,"lines":[[1,"1"]]})", R"({"file":0,"span":0,"lines":[[1,"00000000000000AB"]]})",
        R"({"file":0,"span":0,"lines":[[1,"00000000000000001"]]})", R"({"file":007,"span":0,"lines":[]})",
        R"({"file":0,"span":0,"lines":[],"crcs":[]})"}) {
    const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(text.data()), text.size());
    test::put_file(folder.path("a.log"), good + fmt::format("{} {:08x} {}\n", text.size(), crc, text));
    const auto read = Journal::read_all(folder.path(), "plan");
    ASSERT_TRUE(read);
    EXPECT_EQ(*read, std::vector<SpanRecord>{kRecords[0]}) << text;
  }
}

TEST(Journal, DropsATornTailAtEveryByte) {
  const test::TemporaryFolder folder;
  {
    auto journal = Journal::create(folder.path(), "a", "plan");
    ASSERT_TRUE(journal);
    ASSERT_TRUE(journal->append(kRecords));
  }
  const std::string path = folder.path("a.log"), whole = contents(path);
  std::size_t last = 0;
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    std::ofstream(path, std::ios::binary | std::ios::trunc).write(whole.data(), static_cast<std::streamsize>(length));
    const auto read = Journal::read_all(folder.path(), "plan");
    ASSERT_TRUE(read);
    ASSERT_GE(read->size(), last);
    last = read->size();
    const auto lines = std::count(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length), '\n');
    ASSERT_EQ(static_cast<std::ptrdiff_t>(last), std::max<std::ptrdiff_t>(lines - 1, 0));
    ASSERT_TRUE(std::equal(read->begin(), read->end(), kRecords.begin()));
  }
}

TEST(Journal, StopsAtDamage) {
  const test::TemporaryFolder folder;
  {
    auto journal = Journal::create(folder.path(), "a", "plan");
    ASSERT_TRUE(journal);
    ASSERT_TRUE(journal->append(kRecords));
  }
  const std::string path = folder.path("a.log"), whole = contents(path);
  const std::size_t header = whole.find('\n') + 1, second = whole.find('\n', header) + 1;
  for (std::size_t at = second; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    test::put_file(path, damaged);
    const auto read = Journal::read_all(folder.path(), "plan");
    ASSERT_TRUE(read);
    ASSERT_LT(read->size(), kRecords.size());
    ASSERT_GE(read->size(), 1u);
    ASSERT_TRUE(std::equal(read->begin(), read->end(), kRecords.begin()));
  }
}

TEST(Journal, RefusesANameThatIsTaken) {
  const test::TemporaryFolder folder;
  ASSERT_TRUE(Journal::create(folder.path(), "a", "plan"));
  const auto again = Journal::create(folder.path(), "a", "plan");
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::failed);
  EXPECT_FALSE(Journal::create(folder.path("missing"), "a", "plan"));
  EXPECT_FALSE(Journal::read_all(folder.path("missing"), "plan"));
}

}  // namespace
}  // namespace reshard
