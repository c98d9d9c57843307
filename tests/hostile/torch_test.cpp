// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "reshard/base/crc32.h"
#include "reshard/container/container.h"
#include "tests/support/files.h"
#include "tests/support/paths.h"
#include "tests/support/zip_files.h"

// Numbers are those of the list in README.md.

namespace reshard::container {
namespace {

using namespace std::string_literals;
using test::little_endian;
using test::pickled;
using test::pickled_state;
using test::pickled_tensor;
using test::torch_entries;
using test::zip_file;
using test::ZipEntry;

const std::string kStorage(24, 'x');

/// What a result says; "accepted" if it has nothing to say. One line that names the file, always.
template <class Result>
std::string text_of(const Result& result) {
  if (result) return "accepted";
  EXPECT_EQ(result.error().code, Code::input);
  EXPECT_EQ(result.error().message.find('\n'), std::string::npos) << result.error().message;
  EXPECT_EQ(result.error().message.rfind("f.pth: ", 0), 0u) << result.error().message;
  return result.error().message;
}

/// What the reader says.
std::string verdict(const std::string& bytes) {
  test::MemorySource source(bytes);
  return text_of(find("torch")->read_directory(source, "f.pth"));
}

/// What check_headers says.
std::string headers_verdict(const std::string& bytes) {
  test::MemorySource source(bytes);
  return text_of(find("torch")->check_headers(source, "f.pth"));
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

void expect_headers_say(const std::string& bytes, const std::string& part) {
  const std::string said = headers_verdict(bytes);
  EXPECT_NE(said.find(part), std::string::npos) << said;
}

/// The usual file with one change.
std::string file_with(const std::function<void(std::vector<ZipEntry>&)>& change) {
  std::vector<ZipEntry> entries = torch_entries(pickled_state(), {kStorage});
  change(entries);
  return zip_file(entries);
}

/// The usual file as other zip programs write it, so that all local headers are read.
std::string plain_file() {
  return file_with([](auto& entries) {
    for (ZipEntry& entry : entries) entry.alignment = 0;
  });
}

const std::string kLocal = "PK\x03\x04", kDescriptor = "PK\x07\x08", kListed = "PK\x01\x02", kEnd = "PK\x05\x06";
constexpr int kData = 2;  // which entry is m/data/0

/// Other bytes from byte `at` of a record on: the one of entry `n`, or the end record.
std::string patched(std::string file, const std::string& signature, int n, std::size_t at, const std::string& bytes) {
  std::size_t begin = file.find(signature);
  for (int i = 0; i < n; ++i) begin = file.find(signature, begin + 1);
  return file.replace(begin + at, bytes.size(), bytes);
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
  expect_says(file_with([](auto& entries) { entries[2].size = 23; }), "the 1 bytes behind it belong to no entry");
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

TEST(HostileTorch, N27_RefusesHeadersThatDisagree) {
  const std::string file = plain_file();
  EXPECT_EQ(verdict(file), "accepted");
  EXPECT_EQ(headers_verdict(file), "accepted");
  const auto u16 = [](std::uint64_t value) { return little_endian(value, 2); };
  const auto u32 = [](std::uint64_t value) { return little_endian(value, 4); };
  const std::size_t directory = file.find(kListed), end = file.find(kEnd);
  struct Patch {
    const std::string& record;
    std::size_t at;
    std::string bytes;
    const char* says;
  };
  const std::vector<Patch> patches = {
      // The end record: disks, counts, size and offset of the directory, length of the comment.
      {kEnd, 4, u16(1), "several parts"},
      {kEnd, 6, u16(1), "several parts"},
      {kEnd, 8, u16(3), "several parts"},
      {kEnd, 10, u16(5), "several parts"},
      {kEnd, 8, u16(0) + u16(0), "belong to none of its 0 entries"},
      {kEnd, 8, u16(3) + u16(3), "belong to none of its 3 entries"},
      {kEnd, 8, u16(5) + u16(5), "do not fit into a directory"},
      {kEnd, 12, u32(end - directory + 1), "does not reach"},
      {kEnd, 12, u32(0), "does not reach"},
      {kEnd, 12, u32(0xffffffff), "does not reach"},
      {kEnd, 16, u32(directory + 1), "does not reach"},
      {kEnd, 16, u32(0), "does not reach"},
      {kEnd, 16, u32(0xffffffff), "does not reach"},
      {kEnd, 12, u32(end) + u32(0), "expected an entry of the zip directory"},
      {kEnd, 20, u16(1), "no end of a zip directory"},
      // The directory's line of a storage.
      {kListed, 0, "PK\x01\x03", "expected an entry of the zip directory"},
      {kListed, 10, u16(8), "method 8"},
      {kListed, 10, u16(12), "method 12"},
      {kListed, 10, u16(99), "method 99"},
      {kListed, 12, u32(1), "disagree"},
      {kListed, 16, u32(1), "disagree"},
      {kListed, 20, u32(23), "two sizes"},
      {kListed, 24, u32(25), "two sizes"},
      {kListed, 20, u32(23) + u32(23), "disagree"},
      {kListed, 20, u32(25) + u32(25), "disagree"},
      {kListed, 20, u32(0) + u32(0), "disagree"},
      {kListed, 20, u32(0xffffffff) + u32(0xffffffff), "do not fit before the directory"},
      {kListed, 28, u16(7), "entry 'm/data/': "},
      {kListed, 28, u16(9), "expected an entry of the zip directory"},
      {kListed, 28, u16(0xffff), "reaches over the end of the zip directory"},
      {kListed, 30, u16(1), "expected an entry of the zip directory"},
      {kListed, 32, u16(1), "expected an entry of the zip directory"},
      {kListed, 34, u16(1), "join the parts first"},
      {kListed, 42, u32(0), "overlaps what follows"},
      {kListed, 42, u32(10), "overlaps what follows"},
      {kListed, 42, u32(directory), "do not fit before the directory"},
      {kListed, 42, u32(0x7fffffff), "do not fit before the directory"},
      {kListed, 46, "m/data/1", "another name"},
      // Its local header.
      {kLocal, 0, "PK\x03\x05", "no local header there"},
      {kLocal, 6, u16(8), "disagree"},
      {kLocal, 6, u16(1 << 11), "disagree"},
      {kLocal, 8, u16(8), "disagree"},
      {kLocal, 10, u32(1), "disagree"},
      {kLocal, 14, u32(1), "disagree"},
      {kLocal, 18, u32(23), "disagree"},
      {kLocal, 22, u32(23), "disagree"},
      {kLocal, 18, u32(0xffffffff) + u32(0xffffffff), "disagree"},
      {kLocal, 26, u16(7), "disagree"},
      {kLocal, 28, u16(1), "overlaps what follows"},
      {kLocal, 30, "m/data/1", "another name"}};
  for (const Patch& patch : patches) {
    const int n = patch.record == kEnd ? 0 : kData;
    const std::string said = verdict(patched(file, patch.record, n, patch.at, patch.bytes));
    EXPECT_NE(said.find(patch.says), std::string::npos) << patch.says << " expected at " << patch.at << ": " << said;
  }
}

TEST(HostileTorch, N28_RefusesWhatIsNoStateDict) {
  expect_says("", "an empty file");
  expect_says("PK\x03\x04", "too short");
  expect_says(file_with([](auto& entries) { entries.erase(entries.begin()); }), "without m/data.pkl");
  expect_says(file_with([](auto& entries) { entries.pop_back(); }), "no version");
  for (const char* version : {"0", "11", "99\n", "abc", "-3", "3.0", "3 ", "0x3", "\n", "", "33333333333333333333"}) {
    const std::string file = file_with([&](auto& entries) { entries.back().bytes = version; });
    EXPECT_NE(verdict(file).find("unknown one"), std::string::npos) << version << ": " << verdict(file);
  }
  for (const char* version : {"3", "3\n", "1", "10\n"}) {
    EXPECT_EQ(verdict(file_with([&](auto& entries) { entries.back().bytes = version; })), "accepted") << version;
  }
  for (const char* order : {"middle", "LITTLE", "little\n", "Little", "", " little", "littlelittle"}) {
    const std::string file = file_with([&](auto& entries) { entries[1].bytes = order; });
    EXPECT_NE(verdict(file).find("byte order"), std::string::npos) << order << ": " << verdict(file);
  }
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
  expect_says(file_of("ctorch\r\nFloatStorage\r\n"), R"("torch\r FloatStorage\r")");
  expect_says(file_of("ctorch\nFloatStorage\r\n"), R"("torch FloatStorage\r")");
  expect_says(file_of("ctorch\xff\xfe\nFloatStorage\n"), "which no checkpoint of weights needs");
  expect_says(file_of("ctorch FloatStorage\n\n"), "\"torch FloatStorage \"");
  expect_says(file_of("c\ntorch FloatStorage\n"), "\" torch FloatStorage\"");
  expect_says(file_of("c" + std::string(1'000'000, 'a') + "\nb\n"), "a name that is too long");
  expect_says(file_of("ctorch"), "cut off");
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
  expect_says(file_of_pickle("\x80\x02j\xff\xff\xff\xff."), "never set");
  expect_says(file_of_pickle("\x80\x02Nq\x00Nq\x00\x86."s), "entry 0 of the memo is set twice");
  expect_says(file_of_pickle("\x80\x02Nq\x00Nr\x00\x00\x00\x00\x86."s), "entry 0 of the memo is set twice");
  expect_says(file_of_pickle("\x80\x02Nq\x00q\x00."s), "entry 0 of the memo is set twice");
  expect_says(file_of_pickle("\x80\x09N."), "protocol 9");
  expect_says(file_of_pickle("N."), "does not begin with its protocol");
  expect_says(file_of_pickle("\x80\x02N\x80\x02."), "belongs to the beginning alone");
  expect_says(file_of_pickle("\x80\x02\x80\x02N."), "belongs to the beginning alone");
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

TEST(HostileTorch, N33_RefusesViewsThatChangeTheirNumbers) {
  const std::string tensor = pickled_tensor("0", 6, 0, {2}, {1});
  const std::string begin = tensor.substr(0, tensor.size() - 2);  // all but the tuple's end and the call
  EXPECT_EQ(verdict(file_of(begin + "}tR")), "accepted");
  EXPECT_EQ(verdict(file_of(begin + "NtR")), "accepted");
  expect_says(file_of(begin + "}" + pickled("conj") + "\x88stR"), "conjugated or negated");
  expect_says(file_of(begin + "}" + pickled("neg") + "\x88stR"), "conjugated or negated");
  expect_says(file_of(begin + "}" + pickled("conj") + "K\x01stR"), "conjugated or negated");
  expect_says(file_of(begin + "]tR"), "conjugated or negated");
  expect_says(file_of(begin + "}NtR"), "arguments that a tensor does not have");
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

/// A file of the form before torch 1.6, in its parts.
struct Legacy {
  std::string magic = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", protocol = "\x80\x02M\xe9\x03.";
  std::string system = "\x80\x02}(" + pickled("protocol_version") + "M\xe9\x03" + pickled("little_endian") + "\x88u.";
  std::string object = pickled_state(), keys = "\x80\x02](" + pickled("0") + "e.";
  std::string data = little_endian(6, 8) + kStorage;

  std::string file() const { return magic + protocol + system + object + keys + data; }
  std::string file_with(std::string Legacy::*part, const std::string& bytes) const {
    Legacy other = *this;
    other.*part = bytes;
    return other.file();
  }
};

TEST(HostileTorch, N37_ReadsTheOldFormPartByPart) {
  const Legacy good;
  EXPECT_EQ(verdict(good.file()), "accepted");
  const auto refuses = [&](std::string Legacy::*part, const std::string& bytes, const std::string& says) {
    expect_says(good.file_with(part, bytes), says);
  };
  // The same number, but by a call or in another spelling.
  refuses(&Legacy::magic,
          "\x80\x02"
          "cbuiltins\nint\n(" +
              pickled("119547037146038801333356") + "tR.",
          "a Python pickle");
  refuses(&Legacy::magic, "\x80\x03" + good.magic.substr(2), "a Python pickle");
  refuses(&Legacy::magic, "\x80\x02\x8a\x0b" + good.magic.substr(4, 10) + "\0."s, "a Python pickle");
  refuses(&Legacy::protocol, "\x80\x02M\xea\x03.", "another protocol than 1001");
  refuses(&Legacy::protocol, "\x80\x02N.", "another protocol than 1001");
  refuses(&Legacy::protocol,
          "\x80\x02"
          "cbuiltins\nint\n(M\xe9\x03tR.",
          "builtins int");
  refuses(&Legacy::protocol, "M\xe9\x03.", "does not begin with its protocol");
  refuses(&Legacy::system, "\x80\x02N.", "no description of its system");
  refuses(&Legacy::system, "\x80\x02}" + pickled("little_endian") + "Ns.", "byte order");
  refuses(&Legacy::keys, "\x80\x02}.", "no list of storages");
  refuses(&Legacy::keys,
          "\x80\x02](K\x00"
          "e."s,
          "is no text");
  refuses(&Legacy::keys, "\x80\x02](" + pickled("0") + pickled("7") + "e.", "storage '7' belongs to no tensor");
  refuses(&Legacy::keys, "\x80\x02](" + pickled("7") + "e.", "storage '7' belongs to no tensor");
  refuses(&Legacy::keys, "\x80\x02](" + pickled("0") + pickled("0") + "e.", "storage '0' is listed twice");
  refuses(&Legacy::keys, "\x80\x02].", "storage '0' is not in the file");
  refuses(&Legacy::data, little_endian(7, 8) + kStorage, "has 7 elements, its tensors expect 6");
  refuses(&Legacy::data, little_endian(~std::uint64_t{0}, 8) + kStorage, "its tensors expect 6");
  refuses(&Legacy::data, good.data + "x", "1 bytes follow the last storage");
  refuses(&Legacy::data, good.data.substr(0, good.data.size() - 1), "reaches over the end of the file");
  refuses(&Legacy::data, good.data.substr(0, 7), "reaches over the end of the file");

  test::MemorySource big(good.file_with(&Legacy::system, "\x80\x02}" + pickled("little_endian") + "\x89s."));
  const auto directory = find("torch")->read_directory(big, "f.pth");
  ASSERT_TRUE(directory) << directory.error().message;
  EXPECT_TRUE(directory->big_endian);
}

TEST(HostileTorch, N38_RefusesFlagsOfEntriesThatAreNotTheirData) {
  const std::string aligned = file_with([](auto&) {}), plain = plain_file();
  for (const auto& [flag, says] : {std::pair<std::uint16_t, const char*>{1 << 0, "is encrypted"},
                                   {1 << 5, "is a patch"},
                                   {1 << 6, "strong encryption"},
                                   {1 << 13, "encrypted directory"},
                                   {1 << 4, "flags 0x0010"},
                                   {1 << 15, "flags 0x8000"}}) {
    const std::string whole = std::string("entry 'm/data/0': ") + (flag == 1 << 4 || flag == 1 << 15 ? "has " : "");
    for (const std::string& file : {file_with([f = flag](auto& entries) { entries[kData].flags = f; }),
                                    patched(plain, kListed, kData, 8, little_endian(flag, 2)),
                                    patched(plain, kLocal, kData, 6, little_endian(flag, 2)),
                                    patched(aligned, kListed, kData, 8, little_endian(flag | 8U, 2))}) {
      expect_says(file, says);
      expect_says(file, whole);
    }
    expect_headers_say(patched(aligned, kLocal, kData, 6, little_endian(flag | 8U, 2)), says);
  }
  // How hard a packing program tried: nothing was packed.
  EXPECT_EQ(verdict(file_with([](auto& entries) { entries[kData].flags = 6; })), "accepted");
}

TEST(HostileTorch, N39_ChecksDescriptors) {
  const std::string file = file_with([](auto&) {});
  EXPECT_EQ(headers_verdict(file), "accepted");
  const std::string disagree = "its descriptor and the directory disagree";
  for (const std::size_t at : {4u, 8u, 12u}) {  // CRC, sizes
    const std::string damaged = patched(file, kDescriptor, kData, at, "\x17");
    EXPECT_EQ(verdict(damaged), "accepted");
    expect_headers_say(damaged, "entry 'm/data/0': " + disagree);
  }
  expect_headers_say(patched(file, kDescriptor, kData, 0, "pk"), "has no descriptor behind its data");
  expect_headers_say(patched(file, kListed, kData, 16, "\x17"), disagree);
  expect_headers_say(patched(file, kLocal, kData, 4, "\x2d"), "not as torch writes it");
  const std::size_t padding = file.find("ZZZ", file.find("m/data/0"));
  expect_headers_say(std::string(file).replace(padding, 1, "z"), "not as torch writes it");
  // Entries that no tensor lies in have CRCs too.
  expect_headers_say(std::string(file).replace(file.find("little"), 6, "LITTLE"), "byteorder at byte");

  const std::uint32_t crc = crc32(0, std::as_bytes(std::span(kStorage)));
  const auto with_behind = [](const std::string& behind) {
    return file_with([&](auto& entries) {
      entries[kData].alignment = 0;
      entries[kData].flags = 8;
      entries[kData].behind = behind;
    });
  };
  const std::string numbers = little_endian(crc, 4) + little_endian(24, 4) + little_endian(24, 4);
  EXPECT_EQ(verdict(with_behind(kDescriptor + numbers)), "accepted");
  EXPECT_EQ(headers_verdict(with_behind(kDescriptor + numbers)), "accepted");
  expect_says(with_behind(""), "leaves no room for its descriptor");
  expect_says(with_behind(numbers), "leaves no room for its descriptor");
  expect_says(with_behind(kDescriptor + little_endian(crc, 4) + little_endian(24, 8) + little_endian(24, 8)),
              "the 8 bytes behind it belong to no entry");
}

TEST(HostileTorch, N40_FindsOneArchiveInAFile) {
  const std::vector<ZipEntry> entries = torch_entries(pickled_state(), {kStorage});
  const std::string file = zip_file(entries);
  // Entries that the directory does not list: before, between and behind those that it does.
  for (std::size_t place = 0; place <= entries.size(); ++place) {
    const std::string hidden = file_with([&](auto& all) {
      ZipEntry more = all[0];
      more.is_listed = false;
      all.insert(all.begin() + static_cast<std::ptrdiff_t>(place), more);
    });
    expect_says(hidden, place == 0 ? "lie before the first entry" : "belong to no entry");
  }
  expect_says(file_with([](auto& all) { all[kData].behind = "x"; }), "the 1 bytes behind it belong to no entry");
  expect_says("junk" + file, "neither as a zip archive");
  expect_says(file + "x", "no end of a zip directory");
  expect_says(file + std::string(64, '\0'), "no end of a zip directory");
  const std::size_t directory = file.find(kListed), end = file.find(kEnd);
  expect_says(file + file.substr(end), "does not reach to its end record");

  // A comment is read over, as torch does it, but for a second end record: torch takes the last one, others the first.
  EXPECT_EQ(verdict(zip_file(entries, "PK, and more")), "accepted");
  expect_says(zip_file(entries, file.substr(end) + "yy"), "its comment holds another end record");
  expect_says(zip_file(entries, kEnd), "its comment holds another end record");
  expect_says(zip_file(entries, file), "does not reach to its end record");
  // A whole second directory in the comment, that fits.
  const std::string lines = file.substr(directory, end - directory);
  const std::string second = lines + kEnd + little_endian(0, 4) + little_endian(4, 2) + little_endian(4, 2) +
                             little_endian(lines.size(), 4) + little_endian(file.size(), 4) + little_endian(0, 2);
  expect_says(zip_file(entries, second), "belong to no entry");
}

// What verify does with a file, but for the values of weights: those are in the record of its making.
bool is_found_damaged(const std::string& bytes) {
  test::MemorySource source(bytes);
  const auto directory = find("torch")->read_directory(source, "f.pth");
  if (!directory || !find("torch")->check_headers(source, "f.pth")) return true;
  return std::any_of(directory->checks.begin(), directory->checks.end(), [&](const FileDirectory::Check& check) {
    const auto run = bytes.substr(static_cast<std::size_t>(check.offset), static_cast<std::size_t>(check.length));
    return crc32(0, std::as_bytes(std::span(run))) != check.crc;
  });
}

TEST(HostileTorch, N42_FindsAFlippedBitInEveryByte) {
  const std::string good = test::file_bytes(test::source_dir() + "/tests/data/torch/dtypes.pth");
  EXPECT_FALSE(is_found_damaged(good));
  // Who made it, attributes, versions: nothing depends on them.
  std::vector<bool> is_free(good.size());
  const auto free = [&](const std::string& record, std::size_t first, std::size_t end) {
    for (std::size_t at = good.find(record); at != std::string::npos; at = good.find(record, at + 1)) {
      for (std::size_t i = first; i < end; ++i) is_free[at + i] = true;
    }
  };
  free(kListed, 4, 6);
  free(kListed, 36, 42);
  free("PK\x06\x06", 12, 16);
  free("PK\x06\x07", 16, 20);
  for (std::size_t byte = 0; byte < good.size(); ++byte) {
    std::string bad = good;
    bad[byte] = static_cast<char>(bad[byte] ^ (1 << byte % 8));
    EXPECT_TRUE(is_free[byte] || is_found_damaged(bad)) << "byte " << byte;
  }
}

TEST(HostileTorch, N41_TakesBigNumbersFromTheirField) {
  const auto file = [](const std::string& numbers, bool of_size = true) {
    return file_with([&](auto& entries) {
      entries[kData].listed_extra = numbers;
      (of_size ? entries[kData].size : entries[kData].header) = 0xffffffff;
    });
  };
  const auto field = [](const std::string& bytes) { return "\1\0"s + little_endian(bytes.size(), 2) + bytes; };
  const std::string n24 = little_endian(24, 8);
  EXPECT_EQ(verdict(file(field(n24 + n24))), "accepted");
  EXPECT_EQ(verdict(file("UT\1\0x"s + field(n24 + n24))), "accepted");
  expect_says(file(""), "do not fit before the directory");
  expect_says(file(field("")), "64-bit numbers are missing");
  expect_says(file(field(n24)), "64-bit numbers are missing");
  expect_says(file(field(n24 + n24.substr(1))), "64-bit numbers are missing");
  expect_says(file(field(n24 + n24 + n24)), "64-bit numbers that nothing asks for");
  expect_says(file(field(n24 + n24) + field(n24 + n24)), "64-bit numbers twice");
  expect_says(file("\1\0\xff\0"s + n24 + n24), "its extra field reaches over its end");
  expect_says(file(field(n24 + little_endian(25, 8))), "two sizes");
  expect_says(file(field(little_endian(std::uint64_t{1} << 63, 8) + little_endian(std::uint64_t{1} << 63, 8))),
              "do not fit before the directory");
  for (const std::uint64_t header : {std::uint64_t{1} << 63, ~std::uint64_t{0}, std::uint64_t{1} << 40}) {
    expect_says(file(field(little_endian(header, 8)), false), "do not fit before the directory");
  }
}

}  // namespace
}  // namespace reshard::container
