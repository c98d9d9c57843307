// SPDX-License-Identifier: Apache-2.0
#include "files.h"

#include <fmt/format.h>

#include <algorithm>

namespace reshard::plan {

Expected<FileMap> FileMap::make(std::span<const Transfer> transfers, Side side) {
  FileMap map;
  std::uint32_t files = 0;
  std::size_t arrays = 0;
  for (const Transfer& transfer : transfers) {
    const std::vector<Place>& places = side == Side::source ? transfer.src_places : transfer.dst_places;
    for (const Place& place : places) files = std::max(files, place.file + 1);
    arrays += places.size();
  }
  map.first_.assign(files + 1, 0);
  for (const Transfer& transfer : transfers) {
    for (const Place& place : side == Side::source ? transfer.src_places : transfer.dst_places)
      ++map.first_[place.file + 1];
  }
  for (std::size_t f = 0; f < files; ++f) map.first_[f + 1] += map.first_[f];
  std::vector<std::size_t> next(map.first_.begin(), map.first_.end());
  map.stored_.resize(arrays);
  for (std::uint32_t t = 0; t < transfers.size(); ++t) {
    const layout::Layout& layout = side == Side::source ? *transfers[t].src : *transfers[t].dst;
    const std::vector<Place>& places = side == Side::source ? transfers[t].src_places : transfers[t].dst_places;
    for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
      const layout::Array& array = layout.arrays()[a];
      if (is_sub_byte(array.dtype)) {
        return usage_error(
            fmt::format("array {}: dtype {} has less than a byte per element, which can only be copied with "
                        "--passthrough",
                        layout.name(array), to_string(array.dtype)));
      }
      const Index element = bytes_of(array.dtype);
      const auto length = checked_mul(layout.reach(array), element);
      if (!length) return usage_error(fmt::format("array {}: its size overflows 64 bits", layout.name(array)));
      map.stored_[next[places[a].file]++] = {t, a, places[a].offset, places[a].offset + *length, 0, element};
    }
  }
  for (std::uint32_t f = 0; f < files; ++f) {
    Stored *first = map.stored_.data() + map.first_[f], *last = map.stored_.data() + map.first_[f + 1];
    const auto by_place = [](const Stored& x, const Stored& y) {
      return x.begin != y.begin ? x.begin < y.begin : x.end < y.end;
    };
    if (!std::is_sorted(first, last, by_place)) std::sort(first, last, by_place);
    Index end = 0;
    for (Stored* stored = first; stored < last; ++stored) stored->end_so_far = end = std::max(end, stored->end);
    for (const Stored* stored = first; side == Side::target && stored + 1 < last; ++stored) {
      if (stored->end <= stored[1].begin) continue;
      const layout::Layout& layout = *transfers[stored->transfer].dst;
      return usage_error(fmt::format("array {}: overlaps its neighbour at byte {} of target file {}",
                                     layout.name(layout.arrays()[stored->array]), stored[1].begin, f));
    }
  }
  return map;
}

std::span<const FileMap::Stored> FileMap::in_file(std::uint32_t file) const {
  if (file + 1 >= first_.size()) return {};
  return std::span(stored_).subspan(first_[file], first_[file + 1] - first_[file]);
}

std::span<const FileMap::Stored> FileMap::touching(const Range& range) const {
  const std::span<const Stored> file = in_file(range.file);
  const auto first =
      std::partition_point(file.begin(), file.end(), [&](const Stored& s) { return s.end_so_far <= range.begin; });
  const auto last = std::partition_point(first, file.end(), [&](const Stored& s) { return s.begin < range.end; });
  return {first, last};
}

Index FileMap::snap(std::uint32_t file, Index at) const {
  for (const Stored& stored : touching({file, at, at + 1})) {
    if (stored.begin <= at && at < stored.end) at -= (at - stored.begin) % stored.element;
  }
  return at;
}

}  // namespace reshard::plan
