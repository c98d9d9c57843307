// SPDX-License-Identifier: Apache-2.0
#include "extent_crcs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "reshard/base/crc32.h"

namespace reshard::app {
namespace {

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

void TargetCrcs::add(const std::vector<exec::DurableSpan>& spans) {
  for (const exec::DurableSpan& span : spans) {
    for (const auto& crc : span.crcs) parts_.push_back({span.file, crc.extent, span.span, crc.length, crc.crc});
  }
}

Expected<std::vector<std::vector<std::uint32_t>>> TargetCrcs::join(
    comm::Comm& comm, const std::vector<container::FileImage>& images) const {
  std::vector<std::vector<std::uint32_t>> crcs;
  for (const container::FileImage& image : images) crcs.emplace_back(image.checked.size(), 0);
  if (std::all_of(crcs.begin(), crcs.end(), [](const auto& file) { return file.empty(); })) return crcs;
  std::vector<Part> all = gather(comm, parts_);
  if (comm.rank() != 0) return crcs;
  std::sort(all.begin(), all.end(), [](const Part& a, const Part& b) {
    return std::tie(a.file, a.extent, a.span) < std::tie(b.file, b.extent, b.span);
  });
  auto part = all.begin();
  for (std::uint32_t f = 0; f < images.size(); ++f) {
    for (std::size_t e = 0; e < images[f].checked.size(); ++e) {
      Index length = 0;
      for (; part != all.end() && part->file == f && part->extent == static_cast<Index>(e); ++part) {
        crcs[f][e] = crc32_join(crcs[f][e], part->crc, part->length);
        length += part->length;
      }
      if (length != images[f].checked[e].length) {
        return run_error(fmt::format("target file {}: CRCs of {} of the {} bytes at byte {}: please report this", f,
                                     length, images[f].checked[e].length, images[f].checked[e].offset));
      }
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

Status SourceCrcs::compare(comm::Comm& comm) const {
  if (std::all_of(checks_.begin(), checks_.end(), [](const auto* checks) { return checks->empty(); })) return {};
  std::vector<Part> all = gather(comm, parts_);
  if (comm.rank() != 0) return comm::agree(comm, {});
  std::sort(all.begin(), all.end(), [](const Part& a, const Part& b) {
    return std::tie(a.file, a.check, a.begin, a.length) < std::tie(b.file, b.check, b.begin, b.length);
  });
  Status status;
  for (auto part = all.begin(); part != all.end() && status;) {
    const std::uint32_t file = part->file;
    const Index number = part->check;
    const container::FileDirectory::Check& check = (*checks_[file])[static_cast<std::size_t>(number)];
    Index at = check.offset;
    std::uint32_t crc = 0;
    // Bytes that were read twice begin where others ended before: they are passed over.
    for (; part != all.end() && part->file == file && part->check == number; ++part) {
      if (part->begin != at) continue;
      crc = crc32_join(crc, part->crc, part->length);
      at += part->length;
    }
    if (at == check.offset + check.length && crc != check.crc) {
      status = input_error(
          fmt::format("{}: bytes {} to {} have CRC-32 {:08x}, the file says {:08x}: it is damaged; fetch it again",
                      paths_[file], check.offset, at, crc, check.crc));
    }
  }
  return comm::agree(comm, std::move(status));
}

}  // namespace reshard::app
