// SPDX-License-Identifier: Apache-2.0
#include "files.h"

#include <fmt/format.h>

#include <algorithm>

namespace reshard::plan {

Expected<FileMap> FileMap::make(std::span<const Transfer> transfers, Side side) {
  FileMap map;
  struct Filed {
    std::uint32_t file;
    Stored stored;
  };
  std::vector<Filed> all;
  std::uint32_t files = 0;
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
      const auto elements = num_elements(layout.shape(array));
      const auto length = elements ? checked_mul(*elements, element) : std::nullopt;
      if (!length) return usage_error(fmt::format("array {}: its size overflows 64 bits", layout.name(array)));
      files = std::max(files, places[a].file + 1);
      if (*length > 0) all.push_back({places[a].file, {t, a, places[a].offset, places[a].offset + *length, element}});
    }
  }
  std::sort(all.begin(), all.end(), [](const Filed& a, const Filed& b) {
    return a.file != b.file ? a.file < b.file : a.stored.begin < b.stored.begin;
  });
  map.first_.assign(files + 1, 0);
  for (const Filed& filed : all) ++map.first_[filed.file + 1];
  for (std::size_t f = 0; f < files; ++f) map.first_[f + 1] += map.first_[f];
  map.stored_.reserve(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (side == Side::target && i > 0 && all[i - 1].file == all[i].file &&
        all[i - 1].stored.end > all[i].stored.begin) {
      const Stored& stored = all[i].stored;
      const layout::Layout& layout = *transfers[stored.transfer].dst;
      return usage_error(fmt::format("array {}: overlaps its neighbour at byte {} of target file {}",
                                     layout.name(layout.arrays()[stored.array]), stored.begin, all[i].file));
    }
    map.stored_.push_back(all[i].stored);
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
      std::partition_point(file.begin(), file.end(), [&](const Stored& s) { return s.end <= range.begin; });
  const auto last = std::partition_point(first, file.end(), [&](const Stored& s) { return s.begin < range.end; });
  return {first, last};
}

Index FileMap::snap(std::uint32_t file, Index at) const {
  for (const Stored& stored : touching({file, at, at + 1})) at -= (at - stored.begin) % stored.element;
  return at;
}

}  // namespace reshard::plan
