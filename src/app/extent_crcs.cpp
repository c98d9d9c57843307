// SPDX-License-Identifier: Apache-2.0
#include "extent_crcs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "reshard/base/crc32.h"

namespace reshard::app {
namespace {

constexpr Index kMostReadAgain = 64 * kMiB;  // rows at the edge of two rounds, not a second reading of the file

// All ranks' parts. They are plain numbers: ranks run the same program.
template <class Part>
std::vector<Part> gather(comm::Comm& comm, const std::vector<Part>& mine) {
  const std::string packed(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(Part));
  std::vector<Part> all;
  for (const std::string& theirs : comm.all_gather(packed)) {
    const std::size_t before = all.size();
    all.resize(before + theirs.size() / sizeof(Part));
    if (!theirs.empty()) std::memcpy(all.data() + before, theirs.data(), theirs.size());
  }
  return all;
}

}  // namespace

Expected<std::vector<std::vector<std::uint32_t>>> join_crcs(const std::vector<job::SpanRecord>& records,
                                                            const std::vector<container::FileImage>& images) {
  std::vector<std::vector<std::uint32_t>> crcs;
  std::vector<std::vector<Index>> lengths;
  for (const container::FileImage& image : images) {
    crcs.emplace_back(image.checked.size(), 0);
    lengths.emplace_back(image.checked.size(), 0);
  }
  for (const job::SpanRecord& record : records) {
    for (const auto& part : record.crcs) {
      const auto extent = static_cast<std::size_t>(part.extent);
      std::uint32_t& crc = crcs.at(record.file).at(extent);
      crc = crc32_join(crc, part.crc, part.length);
      lengths[record.file][extent] += part.length;
    }
  }
  for (std::uint32_t f = 0; f < images.size(); ++f) {
    for (std::size_t e = 0; e < images[f].checked.size(); ++e) {
      const container::Extent& extent = images[f].checked[e];
      if (lengths[f][e] == extent.length) continue;
      return run_error(fmt::format("target file {}: CRCs of {} of the {} bytes at byte {}: please report this", f,
                                   lengths[f][e], extent.length, extent.offset));
    }
  }
  return crcs;
}

SourceCrcs::SourceCrcs(const std::vector<const format::Checkpoint*>& checkpoints) {
  static const std::vector<container::FileDirectory::Check> kNone;
  for (const format::Checkpoint* checkpoint : checkpoints) {
    const format::Directory& directory = checkpoint->probe.directory;
    for (std::size_t f = 0; f < directory.files.size(); ++f) {
      checks_.push_back(f < directory.checks.size() ? &directory.checks[f] : &kNone);
      paths_.push_back(directory.files[f].empty() ? directory.root : directory.root + "/" + directory.files[f]);
    }
  }
}

void SourceCrcs::add(std::uint32_t file, Index offset, std::span<const std::byte> bytes) {
  const auto& checks = *checks_[file];
  const Index end = offset + static_cast<Index>(bytes.size());
  auto check =
      std::partition_point(checks.begin(), checks.end(), [&](const auto& c) { return c.offset + c.length <= offset; });
  std::vector<Part> parts;
  for (; check != checks.end() && check->offset < end; ++check) {
    const Index first = std::max(offset, check->offset), last = std::min(end, check->offset + check->length);
    const auto run = bytes.subspan(static_cast<std::size_t>(first - offset), static_cast<std::size_t>(last - first));
    parts.push_back({file, check - checks.begin(), first, last - first, crc32(0, run)});
  }
  const std::lock_guard lock(mutex_);
  parts_.insert(parts_.end(), parts.begin(), parts.end());
}

bool SourceCrcs::comes_before(const Part& a, const Part& b) {
  return std::tie(a.file, a.check, a.begin, b.length) < std::tie(b.file, b.check, b.begin, a.length);
}

// Reads of one rank that follow each other are one part: a large file has many reads and few tensors.
void SourceCrcs::join_neighbours() {
  std::sort(parts_.begin(), parts_.end(), comes_before);
  std::vector<Part> joined;
  for (const Part& part : parts_) {
    Part* last = joined.empty() ? nullptr : &joined.back();
    if (last != nullptr && last->file == part.file && last->check == part.check && last->end() == part.begin) {
      last->crc = crc32_join(last->crc, part.crc, part.length);
      last->length += part.length;
    } else {
      joined.push_back(part);
    }
  }
  parts_ = std::move(joined);
}

Expected<Index> SourceCrcs::compare(comm::Comm& comm, const std::vector<const format::Checkpoint*>& checkpoints) {
  if (std::all_of(checks_.begin(), checks_.end(), [](const auto* checks) { return checks->empty(); })) return Index{0};
  join_neighbours();
  std::vector<Part> all = gather(comm, parts_);
  std::int64_t skipped[] = {0};
  Status status;
  if (comm.rank() == 0) {
    std::sort(all.begin(), all.end(), comes_before);
    for (auto part = all.begin(); part != all.end() && status;) {
      const auto end = std::find_if(
          part, all.end(), [&](const Part& other) { return other.file != part->file || other.check != part->check; });
      const auto whole = join(checkpoints, std::span(part, end));
      const container::FileDirectory::Check& check = (*checks_[part->file])[static_cast<std::size_t>(part->check)];
      if (!whole) {
        status = whole.error();
      } else if (!*whole) {
        ++skipped[0];
      } else if (**whole != check.crc) {
        status = input_error(
            fmt::format("{}: bytes {} to {} have CRC-32 {:08x}, the file says {:08x}: it is damaged; fetch it again",
                        paths_[part->file], check.offset, check.offset + check.length, **whole, check.crc));
      }
      part = end;
    }
  }
  RESHARD_CHECK(comm::agree(comm, std::move(status)));
  comm.maximum(skipped);
  return skipped[0];
}

Expected<std::optional<std::uint32_t>> SourceCrcs::join(const std::vector<const format::Checkpoint*>& checkpoints,
                                                        std::span<const Part> parts) const {
  const container::FileDirectory::Check& check =
      (*checks_[parts.front().file])[static_cast<std::size_t>(parts.front().check)];
  Index at = check.offset;
  std::uint32_t crc = 0;
  for (const Part& part : parts) {
    if (part.end() <= at) continue;  // read before
    if (part.begin > at) return std::optional<std::uint32_t>();
    // CRC of the part from `at` on: that of all of it, less what comes before.
    std::uint32_t rest = part.crc;
    if (part.begin < at) {
      if (at - part.begin > kMostReadAgain) return std::optional<std::uint32_t>();
      RESHARD_TRY(const std::uint32_t before, crc_of(checkpoints, part.file, part.begin, at - part.begin));
      rest ^= crc32_join(before, 0, part.end() - at);
    }
    crc = crc32_join(crc, rest, part.end() - at);
    at = part.end();
  }
  if (at != check.offset + check.length) return std::optional<std::uint32_t>();
  return std::optional(crc);
}

Expected<std::uint32_t> SourceCrcs::crc_of(const std::vector<const format::Checkpoint*>& checkpoints,
                                           std::uint32_t file, Index begin, Index length) const {
  for (const format::Checkpoint* checkpoint : checkpoints) {
    const auto files = static_cast<std::uint32_t>(checkpoint->probe.directory.files.size());
    if (file >= files) {
      file -= files;
      continue;
    }
    std::vector<std::byte> bytes(static_cast<std::size_t>(length));
    RESHARD_TRY(const auto source, format::open_source_file(*checkpoint, file, {}));
    RESHARD_CHECK(source->read_at(bytes, begin));
    return crc32(0, bytes);
  }
  return run_error("there is no such source file");
}

}  // namespace reshard::app
