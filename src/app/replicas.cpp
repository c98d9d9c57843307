// SPDX-License-Identifier: Apache-2.0
#include "replicas.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "reshard/exec/file_sink.h"

namespace reshard::app {
namespace {

/// The elements that a piece holds: its tensor, then begin and size of each axis.
std::vector<Index> box_of(const plan::PieceLine& line) {
  std::vector<Index> box = {static_cast<Index>(line.tensor)};
  for (int k = 0; k < line.piece.rank; ++k) {
    box.push_back(line.piece.begin[k]);
    box.push_back(line.piece.size[k]);
  }
  return box;
}

bool contains(const std::vector<Index>& outer, const std::vector<Index>& inner) {
  if (outer.size() != inner.size() || outer[0] != inner[0]) return false;
  for (std::size_t i = 1; i < outer.size(); i += 2) {
    if (inner[i] < outer[i] || inner[i] + inner[i + 1] > outer[i] + outer[i + 1]) return false;
  }
  return true;
}

Index volume(const std::vector<Index>& box) {
  Index elements = 1;
  for (std::size_t i = 2; i < box.size(); i += 2) elements *= box[i];
  return elements;
}

std::string place_text(const format::Checkpoint& checkpoint, const layout::Piece& piece) {
  const format::Directory& directory = checkpoint.probe.directory;
  const format::Directory::Entry& entry = directory.entries[checkpoint.locations[piece.array]];
  return fmt::format("{}: {}", directory.files[entry.file], entry.entry.name);
}

/// First pieces by their boxes; where a replica's box is cut otherwise in its first copies, their digests add up.
class FirstCopies {
 public:
  FirstCopies(const std::vector<plan::PieceLine>& lines, const std::vector<std::uint64_t>& digests) {
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (!lines[i].piece.replica) by_box_[box_of(lines[i])] = digests[i];
    }
  }

  /// Nothing if first copies do not tile the box.
  std::optional<std::uint64_t> digest_of(const std::vector<Index>& box) const {
    if (const auto same = by_box_.find(box); same != by_box_.end()) return same->second;
    std::uint64_t sum = 0;
    Index covered = 0;
    const auto end = by_box_.lower_bound({box[0] + 1});
    for (auto part = by_box_.lower_bound({box[0]}); part != end; ++part) {
      if (!contains(box, part->first)) continue;
      covered += volume(part->first);
      sum += part->second;
    }
    return covered == volume(box) ? std::optional(sum) : std::nullopt;
  }

 private:
  std::map<std::vector<Index>, std::uint64_t> by_box_;
};

}  // namespace

Expected<ReplicaResult> compare_replicas(Context& context, const format::Checkpoint& checkpoint,
                                         const Options& options) {
  const std::vector<plan::PieceLine> lines = plan::piece_lines(*checkpoint.layout);
  ReplicaResult result;
  result.replicas =
      std::count_if(lines.begin(), lines.end(), [](const plan::PieceLine& line) { return line.piece.replica; });
  if (result.replicas == 0) return result;

  plan::Transfer transfer{
      checkpoint.layout.get(), places_of(checkpoint), checkpoint.layout.get(), places_of(checkpoint), 0, true};
  std::vector<plan::TargetFile> files;
  for (const io::Fingerprint& fingerprint : checkpoint.probe.directory.fingerprints) {
    files.push_back({fingerprint.size, {}});
  }
  plan::Options how = plan_options(options, context.comm.size());
  how.table_bytes = table_bytes(checkpoint) + static_cast<Index>(lines.size() * sizeof(plan::PieceLine));
  RESHARD_TRY(const plan::Plan plan, make_plan(context, {std::move(transfer)}, std::move(files), how));
  exec::NullSink sink;
  RESHARD_TRY(const Streamed streamed, run_stream(context, plan, {&checkpoint}, sink));
  const FirstCopies first(lines, streamed.digests);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (!lines[i].piece.replica) continue;
    const std::optional<std::uint64_t> expected = first.digest_of(box_of(lines[i]));
    if (expected && *expected == streamed.digests[i]) continue;
    const std::string& tensor = checkpoint.canon->tensors()[lines[i].tensor].name;
    result.problems.push_back(
        fmt::format("{}: its copy of {} {}", place_text(checkpoint, lines[i].piece), tensor,
                    expected ? "is not equal to the first one" : "overlaps others in a way that cannot be compared"));
  }
  return result;
}

}  // namespace reshard::app
