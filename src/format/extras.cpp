// SPDX-License-Identifier: Apache-2.0
#include "extras.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>
#include <unordered_map>

#include "buffers.h"

namespace reshard::format {

namespace {

constexpr std::size_t kNoFile = ~std::size_t{0};

// File of each array, and of each path.
struct Places {
  std::vector<std::size_t> of_array;
  std::unordered_map<std::string, std::size_t> of_path;
};

Places find_places(const layout::Layout& layout, const std::vector<TargetFile>& files) {
  Places places;
  places.of_array.assign(layout.arrays().size(), kNoFile);
  for (std::size_t f = 0; f < files.size(); ++f) {
    places.of_path.emplace(files[f].path, f);
    for (const std::uint32_t array : files[f].arrays) places.of_array[array] = f;
  }
  return places;
}

// Buffers that have been made, by name, dtype and shape: layers share theirs.
using Buffers = std::map<std::tuple<std::string, DType, Shape>, std::shared_ptr<const std::string>>;

// One file's items with the extras among them.
Status merge(const layout::Layout& layout, const model::Spec& spec, const std::vector<std::uint32_t>& extras,
             Buffers& buffers, TargetFile& file) {
  TargetFile merged{file.path, {}, file.spec};
  merged.spec.items.clear();
  std::map<std::uint32_t, std::size_t> item_of_array;
  auto next = extras.begin();
  std::vector<std::pair<std::size_t, std::uint32_t>> aliases;  // item, array that it repeats
  const auto add_until = [&](std::size_t before) -> Status {
    for (; next != extras.end() && layout.extras()[*next].before <= before; ++next) {
      const layout::Extra& extra = layout.extras()[*next];
      const layout::Array& array = extra.array;
      container::FileSpec::Item item{layout.entry(array), array.dtype, layout.shape(array)};
      if (extra.repeats >= 0) {
        const auto repeated = static_cast<std::uint32_t>(extra.repeats);
        item.dtype = layout.arrays()[repeated].dtype;
        aliases.emplace_back(merged.arrays.size(), repeated);
      } else {
        std::shared_ptr<const std::string>& made = buffers[{layout.rule(array).buffer, item.dtype, item.shape}];
        if (!made) {
          RESHARD_TRY(made, make_buffer(layout.rule(array).buffer, spec, item.shape, item.dtype));
        }
        item.content = made;
      }
      merged.arrays.push_back(kExtra);
      merged.spec.items.push_back(std::move(item));
    }
    return {};
  };
  for (std::size_t i = 0; i < file.arrays.size(); ++i) {
    RESHARD_CHECK(add_until(file.arrays[i]));
    item_of_array[file.arrays[i]] = merged.arrays.size();
    merged.arrays.push_back(file.arrays[i]);
    merged.spec.items.push_back(std::move(file.spec.items[i]));
  }
  RESHARD_CHECK(add_until(layout.arrays().size()));
  for (const auto& [item, array] : aliases) {
    merged.spec.items[item].repeats = static_cast<std::int64_t>(item_of_array.at(array));
  }
  file = std::move(merged);
  return {};
}

}  // namespace

Status add_extras(const layout::Layout& layout, const model::Spec& spec, std::vector<TargetFile>& files) {
  if (layout.extras().empty() || !container::find(layout.table().container)->shares_extents()) return {};
  const Places places = find_places(layout, files);
  std::map<std::size_t, std::vector<std::uint32_t>> by_file;
  for (std::uint32_t e = 0; e < layout.extras().size(); ++e) {
    const layout::Extra& extra = layout.extras()[e];
    std::size_t file = files.size() == 1 ? 0 : kNoFile;
    if (extra.repeats >= 0) {
      file = places.of_array[static_cast<std::size_t>(extra.repeats)];
    } else if (const auto found = places.of_path.find(layout.file(extra.array)); found != places.of_path.end()) {
      file = found->second;
    }
    if (file == kNoFile) {
      return usage_error(fmt::format("format {}: array {} has no file among those of the weights",
                                     layout.table().format, layout.name(extra.array)));
    }
    by_file[file].push_back(e);
  }
  Buffers buffers;
  for (const auto& [file, extras] : by_file) RESHARD_CHECK(merge(layout, spec, extras, buffers, files[file]));
  return {};
}

}  // namespace reshard::format
