// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "reshard/io/file.h"
#include "reshard/io/settings.h"

namespace reshard::io {
namespace {

namespace fs = std::filesystem;

/// A folder that goes away, and settings that come back.
class IoTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "reshard-io-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    set_settings({});
    fs::remove_all(folder_);
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void put(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(path(name), std::ios::binary) << text;
  }
  static std::string contents(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  fs::path folder_;
};

std::string pattern(Index size) {
  std::string text(static_cast<std::size_t>(size), '\0');
  std::uint64_t x = 1;
  for (char& c : text) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    c = static_cast<char>(x >> 56);
  }
  return text;
}

struct Aligned {
  explicit Aligned(Index size)
      : base(static_cast<std::byte*>(std::aligned_alloc(kPage, static_cast<std::size_t>(round_up(size, kPage))))) {}
  ~Aligned() { std::free(base); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  std::byte* base;
};

Settings with_fault(Settings::Fault::Kind kind, bool on_write, Index after, int error = 0) {
  Settings settings;
  settings.fault = {kind, on_write, error, after, false};
  return settings;
}

using Kind = Settings::Fault::Kind;

TEST_F(IoTest, ReadsAnyRangeDirectAndBuffered) {
  constexpr Index kSize = 3 * kMiB + 1234;
  const std::string text = pattern(kSize);
  put("f", text);
  const Aligned buffer(kSize + 2 * kPage);
  for (bool direct : {false, true}) {
    auto source = open_source(path(""), "f", Follow::cache, {direct});
    ASSERT_TRUE(source) << source.error().message;
    EXPECT_EQ((*source)->size(), kSize);
    for (Index offset : {Index{0}, Index{1}, Index{4095}, Index{4096}, Index{100'000}, kSize - 1, kSize}) {
      for (Index length : {Index{0}, Index{1}, Index{5000}, Index{65536}, Index{200'000}, kSize}) {
        for (Index shift : {offset % kPage, (offset + 8) % kPage}) {  // as the executor places it, and badly placed
          const Index n = std::min(length, kSize - offset);
          const std::span into(buffer.base + shift, static_cast<std::size_t>(n));
          std::fill(into.begin(), into.end(), std::byte{0x55});
          const Status status = (*source)->read_at(into, offset);
          ASSERT_TRUE(status) << status.error().message;
          ASSERT_EQ(std::memcmp(into.data(), text.data() + offset, into.size()), 0)
              << direct << " " << offset << " " << n << " " << shift;
        }
      }
    }
  }
}

TEST_F(IoTest, WritesAnyRangeDirectAndBuffered) {
  constexpr Index kSize = 3 * kMiB + 1234;
  const std::string text = pattern(kSize);
  for (bool direct : {false, true}) {
    for (Index shift : {Index{0}, Index{8}}) {
      const std::string name = path("deep/er/t" + std::to_string(direct) + std::to_string(shift));
      const Aligned buffer(kSize + kPage);
      std::memcpy(buffer.base + shift, text.data(), text.size());
      ASSERT_TRUE(make_folders(path(""), name));
      auto target = open_target(name, kSize, {direct});
      ASSERT_TRUE(target) << target.error().message;
      EXPECT_EQ(fs::file_size(name), static_cast<std::uintmax_t>(kSize));
      Index at = 0;
      for (Index n : {Index{0}, Index{100}, Index{3996}, Index{1'000'001}, Index{kMiB}, kSize}) {
        n = std::min(n, kSize - at);
        ASSERT_TRUE((*target)->write_at({buffer.base + shift + at, static_cast<std::size_t>(n)}, at));
        at += n;
      }
      ASSERT_EQ(at, kSize);
      EXPECT_TRUE((*target)->sync());
      EXPECT_EQ(contents(name), text);
    }
  }
}

TEST_F(IoTest, BoundsDirtyPagesOfLongBufferedWrites) {
  constexpr Index kBlock = 4 * kMiB;
  const std::string block = pattern(kBlock);
  auto target = open_target(path("t"), 24 * kBlock, {});
  ASSERT_TRUE(target);
  for (Index i = 0; i < 24; ++i) ASSERT_TRUE((*target)->write_at(std::as_bytes(std::span(block)), i * kBlock));
  EXPECT_TRUE((*target)->sync());
  auto source = open_source(path("t"), "", Follow::cache, {});
  std::string back(static_cast<std::size_t>(kBlock), '\0');
  for (Index i = 0; i < 24; ++i) {
    ASSERT_TRUE((*source)->read_at(std::as_writable_bytes(std::span(back)), i * kBlock));
    ASSERT_EQ(back, block);
  }
}

TEST_F(IoTest, ManyThreadsWriteAndReadAtOnce) {
  constexpr Index kPart = 300'000;
  constexpr int kThreads = 8;
  const std::string text = pattern(kPart * kThreads);
  const auto each = [](auto&& body) {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) threads.emplace_back(body, t);
    for (auto& thread : threads) thread.join();
  };
  each([&](int t) {
    auto target = open_target(path("t"), kPart * kThreads, {true});  // every one opens, as processes do
    ASSERT_TRUE(target);
    ASSERT_TRUE((*target)->write_at(std::as_bytes(std::span(text)).subspan(static_cast<std::size_t>(kPart * t), kPart),
                                    kPart * t));
    ASSERT_TRUE((*target)->sync());
  });
  auto source = open_source(path("t"), "", Follow::cache, {});
  std::string back(text.size(), '\0');
  each([&](int t) {
    ASSERT_TRUE((*source)->read_at(
        std::as_writable_bytes(std::span(back)).subspan(static_cast<std::size_t>(kPart * t), kPart), kPart * t));
  });
  EXPECT_EQ(back, text);
}

TEST_F(IoTest, KeepsWhatATargetHoldsWhenOpenedAgain) {
  { ASSERT_TRUE((*open_target(path("t"), 10, {}))->write_at(std::as_bytes(std::span("0123456789", 10)), 0)); }
  { ASSERT_TRUE((*open_target(path("t"), 10, {}))->write_at(std::as_bytes(std::span("xy", 2)), 4)); }
  EXPECT_EQ(contents(path("t")), "0123xy6789");
  EXPECT_TRUE(open_target(path("empty"), 0, {}));
  EXPECT_EQ(fs::file_size(path("empty")), 0u);
}

TEST_F(IoTest, RefusesRangesOutsideTheFile) {
  put("f", "0123456789");
  auto source = open_source(path("f"), "", Follow::cache, {});
  std::byte bytes[20];
  EXPECT_FALSE((*source)->read_at({bytes, 11}, 0));
  EXPECT_FALSE((*source)->read_at({bytes, 1}, 10));
  EXPECT_FALSE((*source)->read_at({bytes, 1}, -1));
  EXPECT_FALSE((*source)->read_at({bytes, 1}, INT64_MAX));
  EXPECT_TRUE((*source)->read_at({bytes, 0}, 10));
  auto target = open_target(path("t"), 10, {});
  EXPECT_FALSE((*target)->write_at({bytes, 11}, 0));
  EXPECT_FALSE((*target)->write_at({bytes, 2}, 9));
  EXPECT_EQ(fs::file_size(path("t")), 10u);
}

TEST_F(IoTest, SaysWhatIsWrongWithASource) {
  fs::create_directory(path("folder"));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  put("f", "x");
  const auto error = [&](const std::string& root, const std::string& relative) {
    auto source = open_source(root, relative, Follow::all, {});
    return source ? std::string("opened") : source.error().message;
  };
  EXPECT_EQ(error(path("missing"), ""), path("missing") + ": No such file or directory");
  EXPECT_NE(error(path(""), "missing").find("missing: No such file"), std::string::npos);
  EXPECT_NE(error(path(""), "folder").find("is a folder"), std::string::npos);
  EXPECT_NE(error(path("pipe"), "").find("not a regular file"), std::string::npos);
  for (const char* bad : {"/etc/passwd", "../x", "folder/../f", "./f", "folder//f", ".."}) {
    EXPECT_NE(error(path(""), bad).find("no path inside the folder"), std::string::npos) << bad;
  }
  EXPECT_EQ(error(path(""), "f"), "opened");
}

TEST_F(IoTest, FollowsLinksOnlyInsideAndIntoTheCache) {
  put("outside", "o");
  put("hub/models--org--name/blobs/abc", "b");
  put("hub/models--org--name/other/abc", "n");
  put("hub/models--org--else/blobs/abc", "e");
  put("hub/models--org--name/snapshots/1/real", "r");
  const fs::path snapshot = folder_ / "hub/models--org--name/snapshots/1";
  fs::create_symlink("../../blobs/abc", snapshot / "blob");
  fs::create_directory(snapshot / "sub");
  fs::create_symlink("../../../blobs/abc", snapshot / "sub/blob");
  fs::create_symlink("real", snapshot / "inside");
  fs::create_symlink("../../../../outside", snapshot / "outside");
  fs::create_symlink("../../other/abc", snapshot / "other");
  fs::create_symlink("../../../models--org--else/blobs/abc", snapshot / "foreign");
  fs::create_symlink("nowhere", snapshot / "dangling");
  fs::create_symlink("loop", snapshot / "loop");
  fs::create_directory_symlink("../../other", snapshot / "folder");
  const std::string root = snapshot.string();
  for (const char* good : {"real", "blob", "inside", "sub/blob"}) {
    EXPECT_TRUE(open_source(root, good, Follow::cache, {true})) << good;
  }
  EXPECT_TRUE(open_source(root + "/sub", "blob", Follow::cache, {}));
  for (const char* bad : {"outside", "other", "foreign", "folder/abc"}) {
    auto refused = open_source(root, bad, Follow::cache, {});
    ASSERT_FALSE(refused) << bad;
    EXPECT_EQ(refused.error().code, Code::input);
    EXPECT_NE(refused.error().message.find("--follow-symlinks"), std::string::npos) << refused.error().message;
    EXPECT_TRUE(open_source(root, bad, Follow::all, {})) << bad;
  }
  auto dangling = open_source(root, "dangling", Follow::all, {});
  EXPECT_NE(dangling.error().message.find("a symlink to a file that does not exist"), std::string::npos);
  EXPECT_FALSE(open_source(root, "loop", Follow::all, {}));
  // The same tree outside of a cache: no blobs, no exception.
  fs::rename(folder_ / "hub/models--org--name", folder_ / "hub/plain");
  EXPECT_FALSE(open_source(path("hub/plain/snapshots/1"), "blob", Follow::cache, {}));
  // A file that the user names is the user's choice; its folder may be reached through a link, too.
  fs::create_symlink("outside", path("named"));
  EXPECT_TRUE(open_source(path("named"), "", Follow::cache, {}));
  fs::create_directory_symlink("hub/plain/snapshots/1", path("root"));
  EXPECT_TRUE(open_source(path("root"), "real", Follow::cache, {}));
}

TEST_F(IoTest, NoticesAFileThatShrinksOrChanges) {
  put("f", pattern(200'000));
  auto before = fingerprint(path("f"));
  ASSERT_TRUE(before);
  EXPECT_TRUE(check_unchanged(path("f"), *before));
  for (bool direct : {false, true}) {
    put("f", pattern(200'000));
    auto source = open_source(path(""), "f", Follow::cache, {direct});
    fs::resize_file(path("f"), 100'001);
    const Aligned buffer(200'000);
    const Status status = (*source)->read_at({buffer.base, 200'000}, 0);
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message.find("file truncated during read: it ends at byte 100001"), std::string::npos)
        << status.error().message;
  }
  const Status changed = check_unchanged(path("f"), *before);
  ASSERT_FALSE(changed);
  EXPECT_NE(changed.error().message.find("changed its size from 200000 to 100001"), std::string::npos);
  auto again = fingerprint(path("f"));
  put("g", pattern(100'001));
  fs::rename(path("g"), path("f"));
  EXPECT_NE(check_unchanged(path("f"), *again).error().message.find("replaced"), std::string::npos);
  fs::remove(path("f"));
  EXPECT_FALSE(check_unchanged(path("f"), *again));
  EXPECT_FALSE(fingerprint(path("f")));
}

TEST_F(IoTest, RepeatsInterruptedAndShortCalls) {
  const std::string text = pattern(300'000);
  put("f", text);
  for (Kind kind : {Kind::interrupt, Kind::shorten}) {
    for (bool direct : {false, true}) {
      const Aligned buffer(300'000);
      auto source = open_source(path(""), "f", Follow::cache, {direct});
      set_settings(with_fault(kind, false, 5000));
      ASSERT_TRUE((*source)->read_at({buffer.base, 300'000}, 0));
      EXPECT_EQ(std::memcmp(buffer.base, text.data(), text.size()), 0);
      set_settings(with_fault(kind, true, 5000));
      auto target = open_target(path("t"), 300'000, {direct});
      ASSERT_TRUE((*target)->write_at({buffer.base, 300'000}, 0));
      EXPECT_EQ(contents(path("t")), text);
      fs::remove(path("t"));
    }
  }
}

TEST_F(IoTest, ReportsAFullDiskWithTheByte) {
  set_settings(with_fault(Kind::fail, true, 70'000, ENOSPC));
  const std::string text = pattern(300'000);
  for (bool direct : {false, true}) {
    set_settings(with_fault(Kind::fail, true, 70'000, ENOSPC));
    auto target = open_target(path("t"), 300'000, {direct});
    const Aligned buffer(300'000);
    const Status status = (*target)->write_at({buffer.base, 300'000}, 0);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, Code::failed);
    EXPECT_NE(status.error().message.find("No space left on device"), std::string::npos);
    EXPECT_NE(status.error().message.find("at byte 70000 of 300000"), std::string::npos) << status.error().message;
  }
  set_settings(with_fault(Kind::fail, true, 2, EIO));
  EXPECT_FALSE(write_text(path("x"), "text"));
  EXPECT_FALSE(fs::exists(path("x")));
  set_settings({});
  EXPECT_TRUE(write_text(path("x"), "text"));
  EXPECT_EQ(contents(path("x")), "text");
  EXPECT_FALSE(fs::exists(path("x.tmp")));
}

TEST_F(IoTest, ReportsReadErrorsWithTheByte) {
  put("f", pattern(300'000));
  auto source = open_source(path(""), "f", Follow::cache, {});
  set_settings(with_fault(Kind::fail, false, 1000, EIO));
  const Aligned buffer(300'000);
  const Status status = (*source)->read_at({buffer.base, 2000}, 500);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("at byte 1500: Input/output error"), std::string::npos)
      << status.error().message;
}

TEST_F(IoTest, ReservesRoomEarly) {
  // More than any disk of today: the file system must say so before a byte is written.
  auto target = open_target(path("huge"), Index{1} << 53, {});
  ASSERT_FALSE(target);
  EXPECT_EQ(target.error().code, Code::failed);
  EXPECT_NE(target.error().message.find("cannot make room"), std::string::npos) << target.error().message;
}

TEST_F(IoTest, WritesThroughNoLink) {
  put("victim", "v");
  fs::create_symlink("victim", path("t"));
  EXPECT_FALSE(open_target(path("t"), 10, {}));
  fs::create_symlink("victim", path("x.tmp"));
  EXPECT_FALSE(write_text(path("x"), "text"));
  EXPECT_EQ(contents(path("victim")), "v");
  EXPECT_FALSE(open_target(path("victim/below"), 1, {}));
}

TEST_F(IoTest, ThrottlesEachWay) {
  Settings settings;
  settings.read_bytes_per_s = 10'000'000;
  set_settings(settings);
  put("f", pattern(1'000'000));
  auto source = open_source(path(""), "f", Follow::cache, {});
  std::string bytes(500'000, '\0');
  const auto start = std::chrono::steady_clock::now();
  std::thread other([&] {
    std::string more(500'000, '\0');
    EXPECT_TRUE((*source)->read_at(std::as_writable_bytes(std::span(more)), 0));
  });
  EXPECT_TRUE((*source)->read_at(std::as_writable_bytes(std::span(bytes)), 0));
  other.join();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_GE(elapsed.count(), 0.0999);
  EXPECT_LT(elapsed.count(), 0.5);
}

TEST(IoSettings, ParsesTheEnvironment) {
  auto none = parse_settings("", "", "", "", 1);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->io, Settings::Io::automatic);
  EXPECT_EQ(none->fault.kind, Kind::none);
  auto all = parse_settings("direct", "200MB,1GiB", "write:ENOSPC@5MB", "synced@2", 4);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->io, Settings::Io::direct);
  EXPECT_EQ(all->read_bytes_per_s, 50'000'000);
  EXPECT_EQ(all->write_bytes_per_s, kGiB / 4);
  EXPECT_EQ(all->fault.kind, Kind::fail);
  EXPECT_EQ(all->fault.error, ENOSPC);
  EXPECT_TRUE(all->fault.on_write);
  EXPECT_EQ(all->fault.after_bytes, 5'000'000);
  EXPECT_EQ(parse_settings("", "0,1", "", "", 4)->read_bytes_per_s, 0);
  EXPECT_EQ(parse_settings("", "0,1", "", "", 4)->write_bytes_per_s, 1);
  for (const char* io : {"Direct", "mmap"}) EXPECT_FALSE(parse_settings(io, "", "", "", 1)) << io;
  for (const char* throttle : {"200MB", "a,b", "1,2,3", ",1", "-1,2"})
    EXPECT_FALSE(parse_settings("", throttle, "", "", 1)) << throttle;
  for (const char* fault : {"read", "read:EIO", "EIO@1", "move:EIO@1", "read:EFOO@1", "read:EIO@x", "@read:EIO"}) {
    auto bad = parse_settings("", "", fault, "", 1);
    ASSERT_FALSE(bad) << fault;
    EXPECT_EQ(bad.error().code, Code::usage);
    EXPECT_NE(bad.error().message.find("RESHARD_IO_FAULT"), std::string::npos);
  }
}

TEST_F(IoTest, ProbesOrObeys) {
  put("f", pattern(10'000));
  for (auto io : {Settings::Io::direct, Settings::Io::buffered}) {
    Settings settings;
    settings.io = io;
    set_settings(settings);
    EXPECT_EQ(probe_source(path("f"))->direct, io == Settings::Io::direct);
    EXPECT_EQ(probe_target(path("new/folder"))->direct, io == Settings::Io::direct);
  }
  set_settings({});
  ASSERT_TRUE(probe_source(path("f")));
  ASSERT_TRUE(probe_target(path("new/folder")));
  EXPECT_EQ(list_files(folder_)->size(), 1u);  // the probe leaves nothing behind
  if (fs::is_directory("/dev/shm")) {
    EXPECT_FALSE(probe_target("/dev/shm")->direct);
  }
}

TEST(SyncTogether, CallsEachOnceAndKeepsAnError) {
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{500}}) {
    std::vector<std::atomic<int>> calls(count);
    const Status all = sync_together(count, [&](std::size_t i) {
      ++calls[i];
      return i % 5 == 3 ? Status(run_error("no")) : Status();
    });
    for (const auto& times : calls) EXPECT_EQ(times, 1);
    EXPECT_EQ(static_cast<bool>(all), count <= 3);
  }
}

TEST_F(IoTest, ListsFiles) {
  put("b", "");
  put("a/z", "");
  put("a/c/d", "");
  fs::create_symlink("b", path("link"));
  fs::create_symlink("nowhere", path("dangling"));
  fs::create_directory_symlink("c", path("a/e"));
  auto files = list_files(folder_);
  ASSERT_TRUE(files) << files.error().message;
  EXPECT_EQ(*files, (std::vector<std::string>{"a/c/d", "a/e/d", "a/z", "b", "link"}));
  EXPECT_FALSE(list_files(folder_, 1));
  EXPECT_TRUE(list_files(folder_, 2));
  fs::create_directory_symlink("..", path("a/up"));
  auto loop = list_files(folder_);
  ASSERT_FALSE(loop);
  EXPECT_NE(loop.error().message.find("leads back"), std::string::npos);
  EXPECT_FALSE(list_files(path("missing")));
}

TEST_F(IoTest, ReadsAndWritesTexts) {
  ASSERT_TRUE(write_text(path("new/t"), std::string("a\0b", 3)));
  EXPECT_EQ(*read_text(path("new/t")), std::string("a\0b", 3));
  ASSERT_TRUE(write_text(path("new/t"), ""));
  EXPECT_EQ(*read_text(path("new/t")), "");
  ASSERT_TRUE(write_text(path("big"), std::string(101, 'x')));
  EXPECT_TRUE(read_text(path("big"), 101));
  auto big = read_text(path("big"), 100);
  ASSERT_FALSE(big);
  EXPECT_NE(big.error().message.find("101 bytes long"), std::string::npos);
  EXPECT_FALSE(read_text(path("missing")));
  EXPECT_TRUE(sync_folder(path("new")));
  EXPECT_FALSE(sync_folder(path("missing")));
}

}  // namespace
}  // namespace reshard::io
