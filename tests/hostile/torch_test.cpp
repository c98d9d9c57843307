// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>

#include "reshard/container/container.h"
#include "tests/support/files.h"
#include "tests/support/paths.h"
#include "tests/support/zip_files.h"

// Numbers are those of the list in README.md.

namespace reshard::container {
namespace {

using namespace std::string_literals;
using test::pickled;
using test::pickled_state;
using test::pickled_tensor;
using test::torch_entries;
using test::zip_file;
using test::ZipEntry;

const std::string kStorage(24, 'x');

/// What the reader says; "accepted" if it has nothing to say. One line that names the file, always.
std::string verdict(const std::string& bytes, Index size = -1) {
  test::MemorySource source(bytes, size < 0 ? static_cast<Index>(bytes.size()) : size);
  const auto result = find("torch")->read_directory(source, "f.pth");
  if (result) return "accepted";
  EXPECT_EQ(result.error().code, Code::input);
  EXPECT_EQ(result.error().message.find('\n'), std::string::npos) << result.error().message;
  EXPECT_EQ(result.error().message.rfind("f.pth: ", 0), 0u) << result.error().message;
  return result.error().message;
}

/// What is accepted lies in the file.
void expect_inside(const std::string& bytes) {
  test::MemorySource source(bytes);
  const auto result = find("torch")->read_directory(source, "f.pth");
  if (!result) return;
  for (const Entry& entry : result->entries) {
    EXPECT_GE(entry.offset, 0);
    EXPECT_LE(entry.offset + entry.length, source.size());
  }
}

void expect_says(const std::string& bytes, const std::string& part) {
  const std::string said = verdict(bytes);
  EXPECT_NE(said.find(part), std::string::npos) << said;
}

/// The usual file with one change.
std::string file_with(const std::function<void(std::vector<ZipEntry>&)>& change) {
  std::vector<ZipEntry> entries = torch_entries(pickled_state(), {kStorage});
  change(entries);
  return zip_file(entries);
}

/// The usual file with another pickle: the value that `code` leaves on the stack, under the key "w".
std::string file_of(const std::string& code, const std::vector<std::string>& storages = {kStorage}) {
  return zip_file(torch_entries("\x80\x02}(" + pickled("w") + code + "u.", storages));
}

std::string file_of_pickle(const std::string& pickle) { return zip_file(torch_entries(pickle, {kStorage})); }

TEST(HostileTorch, N27_ReadsTheUsualFileInEveryForm) {
  EXPECT_EQ(verdict(file_with([](auto&) {})), "accepted");
  EXPECT_EQ(verdict(zip_file(torch_entries(pickled_state(), {kStorage}), "a comment")), "accepted");
  EXPECT_EQ(verdict(file_with([](auto& entries) {
              for (ZipEntry& entry : entries) entry.alignment = 0;  // as other zip programs write it
            })),
            "accepted");
  EXPECT_EQ(verdict(file_with([](auto& entries) { std::swap(entries[1], entries[3]); })), "accepted");
  EXPECT_EQ(verdict(file_with([](auto& entries) { entries.erase(entries.begin() + 1); })), "accepted");
}

TEST(HostileTorch, N27_RefusesBrokenArchives) {
  expect_says(file_with([](auto& entries) { entries[2].method = 8; }), "is compressed (method 8)");
  expect_says(file_with([](auto& entries) { entries[2].flags = 1; }), "is encrypted");
  expect_says(file_with([](auto& entries) { entries[2].disk = 1; }), "join the parts first");
  expect_says(file_with([](auto& entries) { entries[2].packed = 5; }), "two sizes");
  expect_says(file_with([](auto& entries) { entries[2].size = 1'000'000; }), "do not fit");
  expect_says(file_with([](auto& entries) { entries[2].size = 23; }), "expect 24");
  expect_says(file_with([](auto& entries) { entries[2].header = 0; }), "overlaps");
  expect_says(file_with([](auto& entries) { entries[2].header = 100'000; }), "do not fit");
  expect_says(file_with([](auto& entries) {
                entries[2].alignment = 0;
                entries[2].local_name = "m/data/9";
              }),
              "another name");
  expect_says(file_with([](auto& entries) { entries.push_back(entries[2]); }), "occurs twice");
  expect_says(file_with([](auto& entries) {
                entries.push_back(entries[2]);
                entries.back().name = "M/DATA/0";
              }),
              "occurs twice");
  for (const char* name : {"m/../data/1", "/m/data/1", "m//data", "m/./x", "m/\x01"}) {
    const std::string said = verdict(file_with([&](auto& entries) { entries[1].name = name; }));
    EXPECT_NE(said, "accepted") << name;
  }
  expect_says(zip_file(torch_entries(pickled_state(), {kStorage}), "", 3), "belong to none of its 3 entries");
  expect_says(zip_file(torch_entries(pickled_state(), {kStorage}), "", 5000), "do not fit into a directory");
  expect_says(zip_file({}), "not a torch file");
}

TEST(HostileTorch, N28_RefusesWhatIsNoStateDict) {
  expect_says("", "an empty file");
  expect_says("PK\x03\x04", "too short");
  expect_says(file_with([](auto& entries) { entries.erase(entries.begin()); }), "without m/data.pkl");
  expect_says(file_with([](auto& entries) { entries.pop_back(); }), "no version");
  expect_says(file_with([](auto& entries) { entries.back().bytes = "99\n"; }), "unknown one");
  expect_says(file_with([](auto& entries) { entries[1].bytes = "middle"; }), "byte order");
  expect_says(file_with([](auto& entries) { entries[1].name = "n/byteorder"; }), "outside of the folder");
  expect_says(file_with([](auto& entries) { entries[1].name = "m/constants.pkl"; }), "TorchScript");
  expect_says(file_with([](auto& entries) { entries[2].name = "m/data/7"; }), "storage '0' is not in the archive");
  expect_says(file_with([](auto& entries) { entries[2].bytes.pop_back(); }), "its tensors expect 24");
}

TEST(HostileTorch, N29_NeverCallsAndNamesWhatItRefuses) {
  expect_says(file_of("cos\nsystem\n(" + pickled("true") + "tR"), "\"os system\"");
  expect_says(file_of("cbuiltins\neval\n(" + pickled("1") + "tR"), "\"builtins eval\"");
  expect_says(file_of("cargparse\nNamespace\n)\x81"), "\"argparse Namespace\"");
  expect_says(file_of("c" + std::string(5000, 'a')), "a name that is too long");
  expect_says(file_of("ctorch\nexec\n"), "\"torch exec\"");
}

TEST(HostileTorch, N29_LosesNoTensorInSilence) {
  const std::string tensor = pickled_tensor("0", 6, 0, {2}, {1});
  // Below a key that is no name, in an object, in one of Python 2's dictionaries.
  expect_says(file_of_pickle("\x80\x02}(N" + tensor + "u."), "a key that is neither text nor number");
  expect_says(file_of("ccollections\nCounter\n(" + tensor + "tR"), "an object of collections Counter");
  const std::string py2 = "ccollections\nOrderedDict\n(]](" + pickled("w") + tensor + "eatR";
  test::MemorySource source(file_of_pickle("\x80\x02" + py2 + "."));
  const auto directory = find("torch")->read_directory(source, "f.pth");
  ASSERT_TRUE(directory) << directory.error().message;
  ASSERT_EQ(directory->entries.size(), 1u);
  EXPECT_EQ(directory->entries[0].name, "w");
  expect_says(file_of("ctorch\nint_repr\n"), "\"torch int_repr\"");
  std::string two = pickled_tensor("0", 6, 0, {2}, {1});
  two.replace(two.find("FloatStorage"), 12, "IntStorage");
  expect_says(zip_file(torch_entries("\x80\x02}(" + pickled("a") + tensor + pickled("b") + two + "u.", {kStorage})),
              "in another");
}

TEST(HostileTorch, N29_BoundsNamesAndTexts) {
  // Two million names of 4,000 bytes from a few kilobytes.
  std::string inner = "}q\x01("s;
  for (int i = 0; i < 1000; ++i) inner += pickled(std::to_string(i)) + "h\x00"s;
  inner += "u";
  std::string list = "](";
  for (int i = 0; i < 2000; ++i) list += "h\x01";
  list += "e";
  const std::string file = file_of_pickle("\x80\x02}(" + pickled("t") + pickled_tensor("0", 6, 0, {1}, {1}) + "q\x00"s +
                                          pickled("d") + inner + pickled(std::string(4000, 'k')) + list + "u.");
  EXPECT_NE(verdict(file), "accepted");
  // A long text beside the tensors is left out.
  EXPECT_EQ(verdict(file_of_pickle("\x80\x02}(" + pickled("w") + pickled_tensor("0", 6, 0, {2}, {1}) + pickled("text") +
                                   pickled(std::string(4'000'000, '\xff')) + "u.")),
            "accepted");
}

TEST(HostileTorch, N30_BoundsStackAndMemo) {
  expect_says(file_of_pickle("\x80\x02."), "another stack");
  expect_says(file_of_pickle("\x80\x02NN."), "another stack");
  expect_says(file_of_pickle("\x80\x02(N."), "another stack");
  expect_says(file_of_pickle("\x80\x02R."), "the stack is empty");
  expect_says(file_of_pickle("\x80\x02}s."), "the stack is empty");
  expect_says(file_of_pickle("\x80\x02t."), "no mark");
  expect_says(file_of_pickle("\x80\x02}(Nu."), "not their list or dictionary");
  expect_says(file_of_pickle("\x80\x02](Nu."), "not their list or dictionary");
  expect_says(file_of_pickle("\x80\x02NNa."), "no list");
  expect_says(file_of_pickle("\x80\x02NNNs."), "no dictionary");
  expect_says(file_of_pickle("\x80\x02h\x05."), "never set");
  expect_says(file_of_pickle("\x80\x02Nr\xff\xff\xff\x7f."), "of a memo of 0");
  expect_says(file_of_pickle("\x80\x02Nb."), "the stack is empty");
  expect_says(file_of_pickle("\x80\x02NNb."), "a state for what has none");
  expect_says(file_of_pickle("\x80\x09N."), "protocol 9");
  expect_says(file_of_pickle("\x80\x02N"), "cut off");
  expect_says(file_of_pickle("\x80\x02X\xff\xff\xff\xff"), "cut off");
  expect_says(file_of_pickle("\x80\x02\x95"), "opcode 0x95");
  expect_says(file_of_pickle("\x80\x02N.N"), "bytes follow the pickle");
  expect_says(file_of("NQ"), "persistent id");
}

TEST(HostileTorch, N31_SurvivesCirclesAndLaughter) {
  // A dictionary inside itself.
  expect_says(file_of_pickle("\x80\x02}q\x00"s + pickled("a") + "h\x00s."s), "circle");
  // A list that holds a list twice that holds a list twice ...: 2^60 tensors in a few hundred bytes.
  std::string code = "(" + pickled_tensor("0", 6, 0, {2}, {1}) + "q\x00"s;
  for (int i = 0; i < 60; ++i) {
    const auto index = std::string(1, static_cast<char>(i + 1));
    const auto last = std::string(1, static_cast<char>(i));
    code += "](h" + last + "h" + last + "eq" + index;
  }
  EXPECT_NE(verdict(file_of(code + "t")), "accepted");
  // Deep nesting.
  expect_says(file_of(std::string(100'000, ']') + std::string(99'999, 'a')), "nested too deeply");
  // Marks without end.
  expect_says(file_of_pickle("\x80\x02" + std::string(100'000, '(')), "cut off");
}

TEST(HostileTorch, N32_ChecksEveryViewOfAStorage) {
  EXPECT_EQ(verdict(file_of(pickled_tensor("0", 6, 0, {2, 3}, {1, 2}))), "accepted");
  EXPECT_EQ(verdict(file_of(pickled_tensor("0", 6, 5, {}, {}))), "accepted");
  EXPECT_EQ(verdict(file_of(pickled_tensor("0", 6, 200, {0, 3}, {3, 1}))), "accepted");
  expect_says(file_of(pickled_tensor("0", 6, 1, {2, 3}, {3, 1})), "of storage '0', which has 24");
  expect_says(file_of(pickled_tensor("0", 6, 0, {2, 3}, {4, 1})), "of storage '0', which has 24");
  expect_says(file_of(pickled_tensor("0", 6, 6, {}, {})), "of storage '0', which has 24");
  expect_says(file_of(pickled_tensor("0", 6, 0, {2, 3}, {1})), "one stride per dimension");
  expect_says(file_of(pickled_tensor("1", 6, 0, {2}, {1})), "storage '1' is not in the archive");
  expect_says(file_of(pickled_tensor("../0", 6, 0, {2}, {1})), "storage '../0' is not in the archive");
  expect_says(file_of(pickled_tensor("0", 7, 0, {2}, {1})), "its tensors expect 28");
  // One element shown 2^40 times.
  const std::string million = "J\x00\x00\x10\x00"s;
  std::string code = pickled_tensor("0", 6, 0, {1, 1}, {0, 0});
  const std::string sizes = "(K\x01K\x01t"s;
  code.replace(code.find(sizes), sizes.size(), "(" + million + million + "t");
  expect_says(file_of(code), "too many to spell out");
  // Numbers that overflow.
  const std::string huge = "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"s;
  code = pickled_tensor("0", 6, 0, {1, 1}, {0, 0});
  code.replace(code.find(sizes), sizes.size(), "(" + huge + huge + "t");
  expect_says(file_of(code), "overflow");
  code = pickled_tensor("0", 6, 0, {1, 1}, {1, 1});
  code.replace(code.find(sizes), sizes.size(), "(\x8a\x01\xffK\x01t"s);
  expect_says(file_of(code), "negative");
}

TEST(HostileTorch, N33_RefusesTensorsWithoutPlainNumbers) {
  const auto rebuilt = [](const std::string& function) {
    return file_of("ctorch._utils\n" + function + "\n(N" + "tR");
  };
  expect_says(rebuilt("_rebuild_qtensor"), "quantised");
  expect_says(rebuilt("_rebuild_sparse_tensor"), "sparse");
  std::string quantised = pickled_tensor("0", 6, 0, {2}, {1});
  quantised.replace(quantised.find("FloatStorage"), 12, "QInt8Storage");
  expect_says(file_of(quantised), "holds no plain numbers");
}

TEST(HostileTorch, N34_RefusesNamesThatOccurTwice) {
  const std::string tensor = pickled_tensor("0", 6, 0, {2}, {1});
  expect_says(zip_file(torch_entries("\x80\x02}(" + pickled("w") + tensor + pickled("w") + tensor + "u.", {kStorage})),
              "occurs twice");
  const std::string nested = "}(" + pickled("b") + tensor + "u";
  expect_says(
      zip_file(torch_entries("\x80\x02}(" + pickled("a") + nested + pickled("a.b") + tensor + "u.", {kStorage})),
      "two tensors have this name");
}

TEST(HostileTorch, N35_RefusesOrReadsTheSameAtEveryTruncationAndBitFlip) {
  const std::string good = file_with([](auto&) {});
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(verdict(good.substr(0, size)), "accepted") << size;
  }
  for (std::size_t byte = 0; byte < good.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[byte] = static_cast<char>(bad[byte] ^ (1 << bit));
      expect_inside(bad);
    }
  }
}

TEST(HostileTorch, N36_ReadsTheOldFormStrictly) {
  const std::string good = test::file_bytes(test::source_dir() + "/tests/data/torch/legacy_plain.pth");
  EXPECT_EQ(verdict(good), "accepted");
  expect_says(good + "x", "1 bytes follow the last storage");
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(verdict(good.substr(0, size)), "accepted") << size;
  }
  for (std::size_t byte = 0; byte < good.size(); ++byte) {
    std::string bad = good;
    bad[byte] = static_cast<char>(bad[byte] ^ 0x55);
    expect_inside(bad);
  }
}

}  // namespace
}  // namespace reshard::container
