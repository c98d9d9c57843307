// SPDX-License-Identifier: Apache-2.0
#include "reshard/job/journal.h"

#include <fcntl.h>
#include <fmt/compile.h>
#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "reshard/io/settings.h"

namespace reshard::job {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr const char* kSuffix = ".log";

std::uint32_t crc_of(std::string_view text) {
  return static_cast<std::uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<z_size_t>(text.size())));
}

// A line: length and CRC-32 of the text, then the text.
std::string frame(const std::string& text) { return fmt::format("{} {:08x} {}\n", text.size(), crc_of(text), text); }

std::optional<std::string> unframe(const std::string& line) {
  const std::size_t first = line.find(' ');
  if (first == std::string::npos) return std::nullopt;
  const std::size_t second = line.find(' ', first + 1);
  if (second == std::string::npos) return std::nullopt;
  std::string text = line.substr(second + 1);
  return frame(text) == line + "\n" ? std::optional(std::move(text)) : std::nullopt;
}

std::string header(const std::string& plan_hash) { return Json{{"journal", kVersion}, {"plan", plan_hash}}.dump(); }

// JSON, but never a value for each number: a job has a line digest for every tensor and span.
std::string to_text(const SpanRecord& record) {
  std::string text = fmt::format(R"({{"file":{},"span":{},"lines":[)", record.file, record.span);
  const char* between = "";
  for (const auto& line : record.lines) {
    text += fmt::format(FMT_COMPILE(R"({}[{},"{:016x}"])"), std::exchange(between, ","), line.line, line.digest);
  }
  text += ']';
  between = R"(,"crcs":[)";
  for (const auto& crc : record.crcs) {
    text += fmt::format("{}[{},{},{}]", std::exchange(between, ","), crc.extent, crc.length, crc.crc);
  }
  return text + (record.crcs.empty() ? "}" : "]}");
}

/// Walks a text of known form; `good` until it has another.
struct Walk {
  std::string_view left;
  bool good = true;

  void skip(std::string_view expected) {
    good = good && left.starts_with(expected);
    if (good) left.remove_prefix(expected.size());
  }
  template <class Number>
  Number number(int base = 10) {
    Number value = 0;
    const auto [end, error] = std::from_chars(left.data(), left.data() + left.size(), value, base);
    good = good && error == std::errc();
    left.remove_prefix(static_cast<std::size_t>(end - left.data()));
    return value;
  }
  /// A list of lists.
  template <class Take>
  void list(const Take& take) {
    skip("[");
    for (const char* between = ""; good && !left.starts_with(']');) {
      skip(std::exchange(between, ","));
      skip("[");
      take();
      skip("]");
    }
    skip("]");
  }
};

/// What to_text was given. Nothing if it did not make this very text.
std::optional<SpanRecord> parse_record(const std::string& text) {
  Walk walk{text};
  SpanRecord record;
  walk.skip(R"({"file":)");
  record.file = walk.number<std::uint32_t>();
  walk.skip(R"(,"span":)");
  record.span = walk.number<std::uint32_t>();
  walk.skip(R"(,"lines":)");
  walk.list([&] {
    SpanRecord::LineDigest& line = record.lines.emplace_back();
    line.line = walk.number<Index>();
    walk.skip(R"(,")");
    line.digest = walk.number<std::uint64_t>(16);
    walk.skip(R"(")");
  });
  if (walk.left.starts_with(',')) {
    walk.skip(R"(,"crcs":)");
    walk.list([&] {
      SpanRecord::ExtentCrc& crc = record.crcs.emplace_back();
      crc.extent = walk.number<Index>();
      walk.skip(",");
      crc.length = walk.number<Index>();
      walk.skip(",");
      crc.crc = walk.number<std::uint32_t>();
    });
  }
  walk.skip("}");
  if (!walk.good || to_text(record) != text) return std::nullopt;
  return record;
}

}  // namespace

Expected<Journal> Journal::create(const std::string& folder, const std::string& name, const std::string& plan_hash) {
  const std::string path = folder + "/" + name + kSuffix;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0) return run_error(fmt::format("{}: cannot create the journal: {}", path, std::strerror(errno)));
  Journal journal(fd, path);
  RESHARD_CHECK(journal.write(frame(header(plan_hash))));
  RESHARD_CHECK(journal.sync());
  return journal;
}

Status Journal::append(const std::vector<SpanRecord>& records) {
  std::string text;
  for (const SpanRecord& record : records) text += frame(to_text(record));
  // A line cut in two is what a crash may leave.
  const std::size_t half = text.size() / 2;
  RESHARD_CHECK(write(text.substr(0, half)));
  io::pass("journal");
  RESHARD_CHECK(write(text.substr(half)));
  return sync();
}

Status Journal::write(const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return run_error(fmt::format("{}: cannot write the journal: {}", path_, std::strerror(errno)));
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Status Journal::sync() {
  if (::fdatasync(fd_) == 0) return {};
  return run_error(fmt::format("{}: cannot sync the journal: {}", path_, std::strerror(errno)));
}

Expected<std::vector<SpanRecord>> Journal::read_all(const std::string& folder, const std::string& plan_hash) {
  std::vector<std::string> paths;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error); !error && it != std::filesystem::end(it);
       it.increment(error)) {
    if (it->path().extension() == kSuffix) paths.push_back(it->path().string());
  }
  if (error) return run_error(fmt::format("{}: cannot read the journals: {}", folder, error.message()));
  std::sort(paths.begin(), paths.end());
  std::vector<SpanRecord> records;
  for (const std::string& path : paths) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return run_error(fmt::format("{}: cannot read the journal", path));
    std::string line;
    bool first = true;
    while (std::getline(file, line)) {
      // A line without its end is torn even if all its bytes are there.
      const std::optional<std::string> text = file.eof() ? std::nullopt : unframe(line);
      if (!text || (first && *text != header(plan_hash))) break;
      if (!std::exchange(first, false)) {
        std::optional<SpanRecord> record = parse_record(*text);
        if (!record) break;
        records.push_back(*std::move(record));
      }
    }
  }
  return records;
}

Journal::Journal(Journal&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

Journal& Journal::operator=(Journal&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

Journal::~Journal() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace reshard::job
