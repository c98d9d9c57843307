// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "reshard/container/container.h"
#include "tests/support/files.h"
#include "tests/support/processor_time.h"

// Numbers are those of the list in README.md.

namespace reshard::container {
namespace {

using namespace std::string_literals;

std::string length_prefix(std::uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i));
  return bytes;
}

Expected<FileDirectory> read(const std::string& bytes, Index size = -1) {
  test::MemorySource source(bytes, size < 0 ? static_cast<Index>(bytes.size()) : size);
  return find("safetensors")->read_directory(source, "f.safetensors");
}

Expected<FileDirectory> read_header(const std::string& header, Index data_bytes = 0) {
  return read(length_prefix(header.size()) + header, 8 + static_cast<Index>(header.size()) + data_bytes);
}

/// What the reader says; "accepted" if it has nothing to say. One line that names the file, always.
std::string verdict(const Expected<FileDirectory>& result) {
  if (result) return "accepted";
  EXPECT_EQ(result.error().code, Code::input);
  EXPECT_EQ(result.error().message.find('\n'), std::string::npos) << result.error().message;
  EXPECT_EQ(result.error().message.rfind("f.safetensors: ", 0), 0u) << result.error().message;
  return result.error().message;
}

#define EXPECT_SAYS(result, text)                          \
  do {                                                     \
    const std::string said = verdict(result);              \
    EXPECT_NE(said.find(text), std::string::npos) << said; \
  } while (false)

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":{},"shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}
std::string object(const std::vector<std::string>& tensors) { return fmt::format("{{{}}}", fmt::join(tensors, ",")); }
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return object({tensor("x", dtype, shape, offsets)});
}

TEST(HostileSafetensors, C01_TooShort) {
  EXPECT_SAYS(read(""), "expected a safetensors file, found an empty file");
  EXPECT_SAYS(read("1234567"), "7 bytes, at least 8 are needed");
}

TEST(HostileSafetensors, C02_C03_C05_HeaderTooLong) {
  EXPECT_SAYS(read("\x3c\0\0\0\0\0\xff\xff{}"s), "byte 0: a header of");
  EXPECT_SAYS(read(length_prefix(100'000'001), 200'000'000), "100000001 bytes, at most 100000000 are allowed");
  // The size alone is fine: the zeros behind it are what is wrong.
  EXPECT_SAYS(read(length_prefix(100'000'000), 200'000'000), "invalid JSON");
  for (const std::uint64_t length : {~std::uint64_t{0}, ~std::uint64_t{0} - 7, std::uint64_t{1} << 63}) {
    EXPECT_SAYS(read(length_prefix(length) + "{}"), "at most 100000000 are allowed");
  }
}

TEST(HostileSafetensors, C04_HeaderLongerThanTheFile) {
  EXPECT_SAYS(read(length_prefix(60)), "a header of 60 bytes, but the file ends after 0; it is truncated");
}

TEST(HostileSafetensors, C06_NoJson) {
  EXPECT_SAYS(read_header("\xff"), "invalid JSON");
  EXPECT_SAYS(read_header("{"), "byte 9: invalid JSON");
  EXPECT_SAYS(read_header("[]"), "does not begin with '{'");
  EXPECT_SAYS(read_header(""), "found a file of zeros");
  EXPECT_SAYS(read_header("  "), "does not begin with '{'");
  EXPECT_SAYS(read_header("{\"\xff\":1}"), "invalid JSON");
  EXPECT_SAYS(read_header("\xef\xbb\xbf{}"), "does not begin with '{'");
}

// In the manner of JSONTestSuite's n_*: one fault each in a header that is fine but for it.
TEST(HostileSafetensors, C06_MalformedJson) {
  const std::string good = R"({"__metadata__":{"k":"v"},"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})";
  EXPECT_EQ(verdict(read_header(good, 8)), "accepted");
  const std::vector<std::pair<std::string, std::string>> faults = {
      // Commas, colons, brackets.
      {"[0,8]}}", "[0,8]},}"},
      {"[0,8]}}", "[0,8],}}"},
      {"[8]", "[8,]"},
      {"[8]", "[,8]"},
      {"[0,8]", "[0,,8]"},
      {"[0,8]", "[0 8]"},
      {"\"v\"}", "\"v\",}"},
      {"{\"k\"", "{,\"k\""},
      {"\"k\":", "\"k\""},
      {"\"k\":", "\"k\"::"},
      {"\"k\":", "\"k\","},
      {"\"k\":\"v\"", "\"k\":"},
      {"\"k\":\"v\"", "\"k\""},
      {"\"U8\",", "\"U8\" "},
      {"\"U8\",", "\"U8\";"},
      {"[8]", "[8}"},
      {"[8]", "[8"},
      {"[8]", "8]"},
      {"[8]", "[8]]"},
      {"[0,8]}}", "[0,8]}"},
      {"[0,8]}}", "[0,8]}}}"},
      {"[0,8]}}", "[0,8]}}{}"},
      {"[0,8]}}", "[0,8]}],"},
      // Strings: ends, escapes, surrogates, control characters, bytes that are no UTF-8.
      {"\"v\"", "\"v"},
      {"\"v\"", "v"},
      {"\"v\"", "'v'"},
      {"\"k\":", "k:"},
      {"\"v\"", "\"\\\""},
      {"\"v\"", R"("\x41")"},
      {"\"v\"", R"("\'")"},
      {"\"v\"", R"("\u12")"},
      {"\"v\"", R"("\u12g4")"},
      {"\"v\"", R"("\U0041")"},
      {"\"v\"", R"("\ud800")"},
      {"\"v\"", R"("\udc00")"},
      {"\"v\"", R"("\ud800\u0041")"},
      {"\"v\"", R"("\udc00\ud800")"},
      {"\"k\"", R"("\ud834")"},
      {"\"v\"", "\"\t\""},
      {"\"v\"", "\"\n\""},
      {"\"v\"", "\"\x01\""},
      {"\"v\"", "\"\0\""s},
      {"\"v\"", "\"\xc0\xaf\""},
      {"\"v\"", "\"\xed\xa0\x80\""},
      {"\"v\"", "\"\xf5\x80\x80\x80\""},
      {"\"v\"", "\"\xe2\x28\xa1\""},
      {"\"v\"", "\"\xe2\x82\""},
      {"\"v\"", "\"\xff\""},
      // Numbers and words.
      {"[8]", "[NaN]"},
      {"[8]", "[Infinity]"},
      {"[8]", "[-Infinity]"},
      {"[8]", "[08]"},
      {"[8]", "[+8]"},
      {"[8]", "[-]"},
      {"[8]", "[-8]"},
      {"[8]", "[--8]"},
      {"[8]", "[0x8]"},
      {"[8]", "[8.]"},
      {"[8]", "[.8]"},
      {"[8]", "[8e]"},
      {"[8]", "[8e+]"},
      {"[8]", "[8.0]"},
      {"[8]", "[8 8]"},
      {"[8]", "[8_0]"},
      {"[8]", "[8L]"},
      {"[8]", "[1e400]"},
      {"[8]", "[18446744073709551616]"},
      {"[8]", "[nul]"},
      {"[8]", "[True]"},
      {"[8]", "[true8]"},
      {"[8]", "[undefined]"},
      // What is no white space, comments, depth.
      {"[8]", "[\f8]"},
      {"[8]", "[\v8]"},
      {"[8]",
       "[\xc2\xa0"
       "8]"},
      {"[8]",
       "[\xef\xbb\xbf"
       "8]"},
      {"[8]", "[/*8*/]"},
      {"[8]", "[8//\n]"},
      {"[8]", "[8#\n]"},
      {"[8]", std::string(1000, '[') + "8" + std::string(1000, ']')},
      {"\"U8\"", std::string(1000, '[')},
      {"{\"k\"", std::string(1000, '{') + "\"k\""}};
  for (const auto& [what, fault] : faults) {
    std::string header = good;
    header.replace(header.find(what), what.size(), fault);
    EXPECT_NE(verdict(read_header(header, 8)), "accepted") << header.substr(0, 200);
  }
}

TEST(HostileSafetensors, C07_WhiteSpaceAround) {
  for (const char* header : {"{}      ", "\t\n{}", "{}\r\t\n", " { } "})
    EXPECT_EQ(verdict(read_header(header)), "accepted") << header;
}

TEST(HostileSafetensors, C08_PaddedWithZeros) {
  EXPECT_SAYS(read_header("{}\0\0\0\0\0\0"s), "byte 10: invalid JSON: a NUL byte");
  EXPECT_SAYS(read_header("{} {}"), "invalid JSON");
}

TEST(HostileSafetensors, C09_TensorsOnTheSameBytes) {
  std::vector<std::string> tensors;
  for (int i = 0; i < 10; ++i) tensors.push_back(tensor(fmt::format("t{}", i), R"("F32")", "[2,2]", "[0,16]"));
  EXPECT_SAYS(read_header(object(tensors), 16),
              "tensor \"t1\": its data begins at byte 0 of the data, expected 16: it overlaps another tensor");
}

TEST(HostileSafetensors, C10_HolesAndOverlaps) {
  const auto two = [](const char* a, const char* b) {
    return object({tensor("a", R"("U8")", "[8]", a), tensor("b", R"("U8")", "[8]", b)});
  };
  EXPECT_EQ(verdict(read_header(two("[0,8]", "[8,16]"), 16)), "accepted");
  EXPECT_EQ(verdict(read_header(two("[8,16]", "[0,8]"), 16)), "accepted");
  EXPECT_SAYS(read_header(two("[0,8]", "[9,17]"), 17),
              "tensor \"b\": its data begins at byte 9 of the data, expected 8: a hole");
  EXPECT_SAYS(read_header(two("[8,16]", "[16,24]"), 24),
              "tensor \"a\": its data begins at byte 8 of the data, expected 0: a hole");
  EXPECT_SAYS(read_header(two("[0,8]", "[7,15]"), 15),
              "tensor \"b\": its data begins at byte 7 of the data, expected 8: it overlaps");
  EXPECT_SAYS(read_header(two("[0,8]", "[16,8]"), 16), "tensor \"b\": data_offsets [16, 8] end before they begin");
}

TEST(HostileSafetensors, C11_MoreOrLessThanTheTensors) {
  const std::string header = one(R"("U8")", "[8]", "[0,8]");
  EXPECT_EQ(verdict(read_header(header, 8)), "accepted");
  EXPECT_SAYS(read_header(header, 8 + 39),
              fmt::format("byte {}: 39 bytes behind the last tensor", 8 + header.size() + 8));
  EXPECT_SAYS(read_header(header, 6), "tensor \"x\": its data ends at byte 8 of the data, but the file holds 6");
  EXPECT_SAYS(read_header("{}", 1), "1 bytes behind the last tensor");
}

TEST(HostileSafetensors, C12_Overflow) {
  EXPECT_SAYS(read_header(one(R"("I32")", "[2,18446744073709551614]", "[0,16]"), 16),
              "tensor \"x\": number 18446744073709551614 is too large");
  EXPECT_SAYS(read_header(one(R"("I32")", "[2,9223372036854775807]", "[0,16]"), 16),
              "tensor \"x\": shape [2, 9223372036854775807] overflows");
  EXPECT_SAYS(read_header(one(R"("I64")", "[2305843009213693952]", "[0,16]"), 16),
              "overflows");  // the bits, not the elements
  EXPECT_SAYS(read_header(one(R"("U8")", "[9223372036854775807]", "[0,9223372036854775807]"), 16), "overflows");
  EXPECT_SAYS(read_header(one(R"("U8")", "[1152921504606846975]", "[0,1152921504606846975]"), 16),
              "the file is truncated");
}

TEST(HostileSafetensors, C13_ZeroExtentAmongHugeOnes) {
  // The reference reader accepts one order and not the other; a tensor without elements is harmless, so we accept both.
  EXPECT_EQ(verdict(read_header(one(R"("F32")", "[4294967296,4294967296,0]", "[0,0]"))), "accepted");
  EXPECT_EQ(verdict(read_header(one(R"("F32")", "[0,4294967296,4294967296]", "[0,0]"))), "accepted");
}

TEST(HostileSafetensors, C14_ShapeAgainstExtent) {
  EXPECT_SAYS(read_header(one(R"("I32")", "[2,2]", "[0,4]"), 4),
              "tensor \"x\": I32 of shape [2, 2] takes 16 bytes, but data_offsets hold 4");
}

TEST(HostileSafetensors, C15_PartsOfBytes) {
  EXPECT_SAYS(read_header(one(R"("F4")", "[1,3]", "[0,2]"), 2),
              "tensor \"x\": shape [1, 3] of F4 does not fill whole bytes");
  EXPECT_EQ(verdict(read_header(one(R"("F6_E2M3")", "[4]", "[0,3]"), 3)), "accepted");
  EXPECT_SAYS(read_header(one(R"("F6_E3M2")", "[3]", "[0,3]"), 3), "does not fill whole bytes");
}

TEST(HostileSafetensors, C16_EmptyTensors) {
  const std::string empty = R"("F32")";
  const std::string header = object({tensor("e1", empty, "[0]", "[0,0]"), tensor("a", R"("U8")", "[4]", "[0,4]"),
                                     tensor("e2", empty, "[0,3]", "[4,4]"), tensor("e3", empty, "[3,0]", "[4,4]"),
                                     tensor("b", R"("U8")", "[4]", "[4,8]"), tensor("e4", empty, "[0]", "[8,8]"),
                                     tensor("e5", empty, "[0]", "[8,8]"), tensor("e6", empty, "[0]", "[8,8]"),
                                     tensor("e7", empty, "[0]", "[8,8]"), tensor("e8", empty, "[0]", "[8,8]")});
  EXPECT_EQ(verdict(read_header(header, 8)), "accepted");
  EXPECT_SAYS(read_header(object({tensor("e", empty, "[0]", "[4,4]")})), "a hole");
}

TEST(HostileSafetensors, C17_Ranks) {
  const auto ones = [](int n) {
    std::string shape = "[";
    for (int i = 0; i < n; ++i) shape += i ? ",1" : "1";
    return shape + "]";
  };
  EXPECT_EQ(verdict(read_header(one(R"("U8")", "[]", "[0,1]"), 1)), "accepted");
  EXPECT_EQ(verdict(read_header(one(R"("U8")", ones(32), "[0,1]"), 1)), "accepted");
  EXPECT_SAYS(read_header(one(R"("U8")", ones(33), "[0,1]"), 1), "tensor \"x\": more than 32 dimensions");
}

TEST(HostileSafetensors, C18_Duplicates) {
  const auto two = [](const std::string& a, const std::string& b) { return object({a, b}); };
  const std::string x = tensor("x", R"("U8")", "[8]", "[0,8]");
  EXPECT_SAYS(read_header(two(x, x), 8), "duplicate key \"x\"");
  EXPECT_SAYS(read_header(two(x, tensor("x", R"("U8")", "[8]", "[8,16]")), 16), "duplicate key \"x\"");
  EXPECT_SAYS(read_header(two(x, tensor("\\u0078", R"("U8")", "[8]", "[8,16]")), 16), "duplicate key \"x\"");
  EXPECT_SAYS(read_header(R"({"x":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}})", 8),
              "tensor \"x\": duplicate key \"dtype\"");
  EXPECT_SAYS(read_header(R"({"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"sh\u0061pe":[8]}})", 8),
              "duplicate key \"shape\"");
  EXPECT_SAYS(read_header(R"({"__metadata__":{},"__metadata__":{}})"), "duplicate key \"__metadata__\"");
  EXPECT_SAYS(read_header(R"({"__metadata__":{"a":"1","a":"1"}})"), "duplicate key \"a\"");
}

TEST(HostileSafetensors, C19_Numbers) {
  for (const char* shape : {"[1.0]", "[1e0]", "[-1]", "[-0]", "[true]", "[\"1\"]", "[18446744073709551616]", "null",
                            "1", "{}", "[[1]]", "[null]"}) {
    EXPECT_SAYS(read_header(one(R"("U8")", shape, "[0,1]"), 1),
                "tensor \"x\": shape is not an array of non-negative integers");
  }
  EXPECT_SAYS(read_header(one(R"("U8")", "[01]", "[0,1]"), 1), "invalid JSON");
  EXPECT_SAYS(read_header(R"({"x":{"dtype":"U8","shape":[1]}})", 1),
              "tensor \"x\": lacks dtype, shape or data_offsets");
  EXPECT_SAYS(read_header(R"({"x":{}})"), "lacks");
  EXPECT_SAYS(read_header(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":1}})", 1),
              "tensor \"x\": unknown key \"extra\"");
  for (const char* value : {"1", "null", "\"U8\"", "[\"F32\",[2,2],[0,16]]"}) {
    EXPECT_SAYS(read_header(R"({"x":)"s + value + "}"), "tensor \"x\": is not an object");
  }
}

TEST(HostileSafetensors, C20_Offsets) {
  EXPECT_SAYS(read_header(one(R"("U8")", "[1]", "[0]"), 1), "less than two numbers");
  EXPECT_SAYS(read_header(one(R"("U8")", "[1]", "[]"), 1), "less than two numbers");
  EXPECT_SAYS(read_header(one(R"("U8")", "[1]", "[0,1,2]"), 1), "more than two numbers");
  EXPECT_SAYS(read_header(one(R"("U8")", "[1]", "[1,0]"), 1), "end before they begin");
  for (const char* offsets : {"[\"0\",\"1\"]", "null", "\"0,1\"", "[0.0,1]", "[-1,0]", "{}"}) {
    EXPECT_SAYS(read_header(one(R"("U8")", "[1]", offsets), 1),
                "data_offsets is not an array of two non-negative integers");
  }
}

TEST(HostileSafetensors, C21_DTypes) {
  EXPECT_EQ(verdict(read_header(one(R"("F8_E4M3FNUZ")", "[1]", "[0,1]"), 1)), "accepted");
  EXPECT_SAYS(read_header(one(R"("BF16 ")", "[1]", "[0,2]"), 2), "tensor \"x\": unknown dtype \"BF16 \"");
  EXPECT_SAYS(read_header(one(R"("bf16")", "[1]", "[0,2]"), 2), "unknown dtype \"bf16\"");
  EXPECT_SAYS(read_header(one(R"({"F32":null})", "[1]", "[0,4]"), 4), "tensor \"x\": dtype is not a string");
  EXPECT_SAYS(read_header(one("3", "[1]", "[0,4]"), 4), "dtype is not a string");
}

TEST(HostileSafetensors, C22_Metadata) {
  for (const char* value : {"1", "null", "{}", "[]", "true"}) {
    EXPECT_SAYS(read_header(R"({"__metadata__":{"k":)"s + value + "}}"),
                "__metadata__: the value of \"k\" is not a string");
  }
  EXPECT_SAYS(read_header(R"({"__metadata__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
              "the value of \"shape\" is not a string");
  for (const char* value : {"1", "null", "\"a\"", "[]"})
    EXPECT_SAYS(read_header(R"({"__metadata__":)"s + value + "}"), "__metadata__ is not an object");
  EXPECT_SAYS(read_header(fmt::format(R"({{"__metadata__":{{"k":"{}"}}}})", std::string(kMiB, 'a'))),
              "__metadata__ of more than 1048576 bytes");
}

TEST(HostileSafetensors, C23_BigHeaders) {
  constexpr std::size_t kLimit = 100'000'000;
  const auto filled = [](std::string begin, std::string_view more) {
    begin.reserve(kLimit);
    while (begin.size() + more.size() <= kLimit) begin += more;
    return begin;
  };
  for (const auto& [begin, more] : std::vector<std::pair<std::string, std::string>>{{"", "["},
                                                                                    {R"({"a":)", "["},
                                                                                    {R"({")", "a"},
                                                                                    {R"({"a":{"shape":[)", "0,"},
                                                                                    {R"({"__metadata__":{"a":")", "a"},
                                                                                    {"{", R"("i":[],)"}}) {
    const std::string header = filled(begin, more);
    EXPECT_LT(test::processor_seconds([&] { EXPECT_NE(verdict(read_header(header)), "accepted"); }), 1.0)
        << begin << more;
  }
  std::string header = "{";
  Index n = 0;
  for (; header.size() + 80 < kLimit / 4; ++n) {
    fmt::format_to(std::back_inserter(header), R"({}"{:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                   n > 0 ? "," : "", n);
  }
  header += '}';
  ASSERT_GT(n, 400'000);
  EXPECT_LT(test::processor_seconds([&] { EXPECT_EQ(verdict(read_header(header)), "accepted"); }), 2.0);
}

TEST(HostileSafetensors, C24_Names) {
  // A name is a name: it never becomes a path.
  for (const char* name : {"../../etc/passwd", "/etc/passwd", "", "\\ud83d\\ude00", "\xf0\x9f\x98\x80",
                           "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d", "a b", "."}) {
    EXPECT_EQ(verdict(read_header(object({tensor(name, R"("U8")", "[1]", "[0,1]")}), 1)), "accepted") << name;
  }
  EXPECT_EQ(verdict(read_header(object({tensor(std::string(4096, 'n'), R"("U8")", "[1]", "[0,1]")}), 1)), "accepted");
  EXPECT_SAYS(read_header(object({tensor(std::string(4097, 'n'), R"("U8")", "[1]", "[0,1]")}), 1),
              "a name of 4097 bytes");
  for (const char* name : {"\\u0000", "a\\nb", "\\u001b[31m", "\x7f"}) {
    EXPECT_SAYS(read_header(object({tensor(name, R"("U8")", "[1]", "[0,1]")}), 1), "a control character in the name");
  }
  EXPECT_SAYS(read_header(object({tensor("\\ud800", R"("U8")", "[1]", "[0,1]")}), 1), "invalid JSON");
}

TEST(HostileSafetensors, C25_FileThatShrinksOrGrowsMeanwhile) {
  const test::TemporaryFolder folder;
  const std::string header = one(R"("U8")", "[100000]", "[0,100000]");
  const std::string bytes = length_prefix(header.size()) + header + std::string(100'000, 'd');
  test::put_file(folder.path("f"), bytes);
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (int i = 0; !stop; ++i) std::filesystem::resize_file(folder.path("f"), i % 2 == 0 ? 40 : bytes.size() + 10);
  });
  for (int i = 0; i < 500; ++i) {
    auto source = io::open_source(folder.path("f"), "", io::Follow::cache, {});
    ASSERT_TRUE(source);
    auto directory = find("safetensors")->read_directory(**source, "f");
    std::string data(100, '\0');
    (void)(*source)->read_at(std::as_writable_bytes(std::span(data)), std::min<Index>((*source)->size(), 50'000));
  }
  stop = true;
  writer.join();
}

TEST(HostileSafetensors, C26_TruncationsAndFlippedBits) {
  FileSpec spec;
  spec.items = {{"model.norm.weight", DType::bf16, {8}}, {"q", DType::f32, {2, 3}}, {"s", DType::u8, {}}};
  spec.metadata = {{"format", "pt"}};
  auto image = find("safetensors")->lay_out(spec);
  ASSERT_TRUE(image);
  const std::string& header = image->segments[0].bytes;
  const std::string file = header + std::string(static_cast<std::size_t>(image->size) - header.size(), 'd');
  const auto original = read(file);
  ASSERT_TRUE(original);
  for (std::size_t n = 0; n < file.size(); ++n) EXPECT_NE(verdict(read(file.substr(0, n))), "accepted") << n;
  for (std::size_t n = 0; n < header.size(); ++n) {
    // One byte gone from the middle, with and without the rest moving up.
    EXPECT_NE(verdict(read(file.substr(0, n) + file.substr(n + 1))), "accepted") << n;
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = file;
      damaged[n] = static_cast<char>(damaged[n] ^ (1 << bit));
      const auto result = read(damaged);
      if (verdict(result) != "accepted") continue;
      // Names and metadata may be other names and metadata: no reader can tell. What they stand for may not change.
      ASSERT_EQ(result->entries.size(), original->entries.size());
      for (std::size_t i = 0; i < original->entries.size(); ++i) {
        EXPECT_EQ(result->entries[i].dtype, original->entries[i].dtype) << n << " " << bit;
        EXPECT_EQ(result->entries[i].shape, original->entries[i].shape) << n << " " << bit;
        EXPECT_EQ(result->entries[i].offset, original->entries[i].offset) << n << " " << bit;
      }
    }
  }
}

}  // namespace
}  // namespace reshard::container
