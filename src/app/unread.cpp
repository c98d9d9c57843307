// SPDX-License-Identifier: Apache-2.0
#include "unread.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "reshard/base/crc32.h"
#include "reshard/base/text.h"
#include "reshard/comm/comm.h"
#include "reshard/container/container.h"

namespace reshard::app {
namespace {

constexpr Index kBlock = 4 * kMiB;

/// The whole storages that weights lie in, by file and offset: streams read and check them.
std::set<std::pair<std::uint32_t, Index>> streamed_storages(const format::Checkpoint& checkpoint) {
  const format::Directory& directory = checkpoint.probe.directory;
  std::set<std::pair<std::uint32_t, Index>> streamed;
  for (const std::uint32_t location : checkpoint.locations) {
    const format::Directory::Entry& entry = directory.entries[location];
    const auto& checks = directory.checks[entry.file];
    const auto check = std::lower_bound(checks.begin(), checks.end(), entry.entry.offset,
                                        [](const auto& one, Index offset) { return one.offset < offset; });
    const bool is_whole = check != checks.end() && check->offset == entry.entry.offset &&
                          check->length == entry.entry.length && entry.entry.strides.empty();
    if (is_whole) streamed.emplace(entry.file, check->offset);
  }
  return streamed;
}

Expected<std::uint32_t> crc_of(Context& context, io::Source& source, const container::FileDirectory::Check& check,
                               std::vector<std::byte>& block) {
  std::uint32_t crc = 0;
  for (Index at = 0; at < check.length; at += kBlock) {
    if (const std::string why = context.interruption ? context.interruption() : ""; !why.empty()) return run_error(why);
    block.resize(static_cast<std::size_t>(std::min(kBlock, check.length - at)));
    RESHARD_CHECK(source.read_at(block, check.offset + at));
    crc = crc32(crc, block);
  }
  return crc;
}

/// This rank's share: every so-many-th storage, the headers of every so-many-th file.
Status check_share(Context& context, const format::Checkpoint& checkpoint, UnreadResult& result) {
  const format::Directory& directory = checkpoint.probe.directory;
  const container::Container* container = container::find(checkpoint.layout->table().container);
  const auto streamed = streamed_storages(checkpoint);
  const Index ranks = context.comm.size(), rank = context.comm.rank();
  std::vector<std::byte> block;
  Index turn = 0;
  for (std::uint32_t f = 0; f < directory.files.size(); ++f) {
    const std::string& relative = directory.files[f];
    const std::string path = relative.empty() ? directory.root : directory.root + "/" + relative;
    std::unique_ptr<io::Source> source;
    const auto open = [&]() -> Status {
      if (source != nullptr) return {};
      RESHARD_TRY(source, format::open_source_file(checkpoint, f, {}));
      return {};
    };
    if (f % ranks == rank) {
      RESHARD_CHECK(open());
      if (Status headers = container->check_headers(*source, path); !headers) {
        result.problems.push_back(headers.error().message);
      }
    }
    for (const container::FileDirectory::Check& check : directory.checks[f]) {
      if (streamed.contains({f, check.offset})) continue;
      ++result.storages;
      result.bytes += check.length;
      if (turn++ % ranks != rank) continue;
      RESHARD_CHECK(open());
      RESHARD_TRY(const std::uint32_t crc, crc_of(context, *source, check, block));
      if (crc == check.crc) continue;
      result.problems.push_back(fmt::format("{}: bytes {} to {} have CRC-32 {:08x}, the file says {:08x}", path,
                                            check.offset, check.offset + check.length, crc, check.crc));
    }
  }
  return {};
}

}  // namespace

Expected<UnreadResult> check_unread(Context& context, const format::Checkpoint& checkpoint) {
  UnreadResult result;
  const auto& checks = checkpoint.probe.directory.checks;
  result.files = std::count_if(checks.begin(), checks.end(), [](const auto& of_file) { return !of_file.empty(); });
  if (result.files == 0) return result;
  RESHARD_CHECK(comm::agree(context.comm, check_share(context, checkpoint, result)));
  std::string mine;
  for (const std::string& problem : result.problems) mine += problem + "\n";
  result.problems.clear();
  for (const std::string& lines : context.comm.all_gather(mine)) {
    for (std::string& problem : split(lines, '\n')) {
      if (!problem.empty()) result.problems.push_back(std::move(problem));
    }
  }
  return result;
}

}  // namespace reshard::app
