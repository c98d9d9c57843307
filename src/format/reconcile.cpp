// SPDX-License-Identifier: Apache-2.0
#include "reconcile.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "reshard/base/text.h"
#include "reshard/layout/expression.h"

namespace reshard::format {

namespace {

std::string key(const std::string& file_key, const std::string& entry) { return file_key + '\n' + entry; }

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool is_float(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::f32:
    case DType::f16:
    case DType::bf16:
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::f8_e4m3fnuz:
    case DType::f8_e5m2fnuz:
      return true;
    default:
      return false;
  }
}

// An array that another name would replace: a wrong flag about ties is what explains its absence.
std::string advice(const layout::Layout& layout, const layout::Array& array) {
  for (const layout::ArrayRule& rule : layout.table().rules) {
    if (rule.alias >= 0 && rule.array == layout.rule(array).array) {
      return " (tie_word_embeddings is false or absent, so it is not tied silently; if the model is tied, say so "
             "there)";
    }
  }
  return "";
}

// Why a tensor that is stored is not known to the model, and what to do.
std::string explain_unknown(const layout::Layout& layout, const std::string& name) {
  const auto& arrays = layout.arrays();
  if (std::any_of(arrays.begin(), arrays.end(), [&](const auto& array) { return layout.name(array) == name; })) {
    return "is not expected in this file";
  }
  const auto& sizes = layout.canon().scope().numbers;
  bool is_known = false;
  for (const layout::ArrayRule& rule : layout.table().rules) {
    const auto numbers = layout::read_off(rule.array, name);
    is_known = is_known || numbers;
    if (!numbers) continue;
    for (const std::string axis : {"layer", "expert"}) {
      const auto number = numbers->find(axis);
      const auto size = sizes.find(axis);
      if (number == numbers->end() || size == sizes.end() || number->second < size->second) continue;
      return fmt::format("is of {0} {1} (counted from 0), but the configuration's number of {0}s is {2}", axis,
                         number->second, size->second);
    }
  }
  // --passthrough would carry a weight of the model as a foreign one.
  if (is_known) return "is known to the family, but a model of this configuration does not have it";
  if (!layout.table().passthrough)
    return "is not known to the model; convert, verify and diff leave it out with --exclude";
  return "is not known to the model; --passthrough carries it unchanged";
}

bool is_empty(const Shape& shape) { return num_elements(shape) == Index{0}; }

std::string prefix(const std::string& file) { return file.empty() ? "" : file + ": "; }

}  // namespace

Match match(const layout::Layout& layout, const Directory& directory, const Format& format,
            const std::set<std::uint32_t>& dropped) {
  Match match;
  std::vector<std::string> file_keys;
  // Where the table names no files, an array may lie in any.
  const auto& rules = layout.table().rules;
  const bool by_file = std::any_of(rules.begin(), rules.end(), [](const auto& rule) { return !rule.file.empty(); });
  for (const std::string& file : directory.files) file_keys.push_back(by_file ? format.file_key(file) : "");
  std::unordered_map<std::string, std::uint32_t> entries;
  for (std::uint32_t e = 0; e < directory.entries.size(); ++e) {
    if (dropped.count(e) != 0) continue;
    const Directory::Entry& entry = directory.entries[e];
    const auto [other, fresh] = entries.emplace(key(file_keys[entry.file], entry.entry.name), e);
    if (!fresh) {
      match.twice.add(fmt::format("tensor {} is stored twice, in {} and {}",
                                  format.array_name(directory.files[entry.file], entry.entry.name),
                                  directory.files[directory.entries[other->second].file], directory.files[entry.file]));
    }
  }
  for (const layout::Array& array : layout.arrays()) {
    const auto found = entries.find(key(by_file ? format.file_key(layout.file(array)) : "", layout.entry(array)));
    match.locations.push_back(found == entries.end() ? Match::kMissing : found->second);
    if (found != entries.end()) entries.erase(found);
  }
  std::vector<std::string> ignore = layout.table().ignore;
  for (const auto& [glob, reason] : layout.table().zeros) ignore.push_back(glob);
  std::set<std::string> extras;
  for (const layout::Extra& extra : layout.extras()) extras.insert(layout.entry(extra.array));
  for (const auto& [name, e] : entries) {
    const bool ignored = extras.contains(directory.entries[e].entry.name) ||
                         std::any_of(ignore.begin(), ignore.end(), [&, entry = e](const std::string& glob) {
                           return matches_glob(glob, directory.entries[entry].entry.name);
                         });
    (ignored ? match.ignored : match.unexpected).push_back(e);
  }
  std::sort(match.unexpected.begin(), match.unexpected.end());
  std::sort(match.ignored.begin(), match.ignored.end());
  return match;
}

void add_empty_parts(const layout::Layout& layout, Match& match, Directory& directory) {
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const layout::Array& array = layout.arrays()[a];
    if (match.locations[a] != Match::kMissing || !is_empty(layout.shape(array))) continue;
    match.locations[a] = static_cast<std::uint32_t>(directory.entries.size());
    directory.entries.push_back({{layout.entry(array), array.dtype, layout.shape(array), 0, 0, {}}, 0});
  }
}

Status compare(const Match& match, const Directory& directory, const Format& format, const std::string& config_path,
               layout::Layout& layout) {
  Differences differences = match.twice;
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    const layout::Array& array = layout.arrays()[a];
    if (match.locations[a] == Match::kMissing) {
      differences.add(fmt::format("{}tensor {} is missing, expected {} {}{}", prefix(layout.file(array)),
                                  layout.name(array), to_string(array.dtype), shape_text(layout.shape(array)),
                                  advice(layout, array)));
      continue;
    }
    const Directory::Entry& found = directory.entries[match.locations[a]];
    if (!found.entry.strides.empty() && found.entry.shape == layout.shape(array)) {
      layout.set_strides(a, found.entry.strides);
    }
    const std::string where = prefix(directory.files[found.file]);
    if (is_empty(found.entry.shape) && is_empty(layout.shape(array))) continue;  // stored as [0] of any dtype
    if (found.entry.shape != layout.shape(array)) {
      differences.add(fmt::format("{}tensor {} has shape {}, expected {}", where, layout.name(array),
                                  shape_text(found.entry.shape), shape_text(layout.shape(array))));
    } else if (found.entry.dtype != array.dtype) {
      if (is_float(found.entry.dtype)) {
        layout.set_dtype(a, found.entry.dtype);
      } else {
        differences.add(fmt::format("{}tensor {} is {}, expected {}", where, layout.name(array),
                                    to_string(found.entry.dtype), to_string(array.dtype)));
      }
    }
  }
  for (const std::uint32_t e : match.unexpected) {
    const Directory::Entry& entry = directory.entries[e];
    const std::string& file = directory.files[entry.file];
    const std::string name = format.array_name(file, entry.entry.name);
    differences.add(fmt::format("{}tensor {} {} {}", prefix(file), name, shape_text(entry.entry.shape),
                                explain_unknown(layout, name)));
  }
  // Unknown tensors alone can be looked at.
  const bool only_unknown = layout.table().passthrough && differences.count() == std::ssize(match.unexpected);
  return differences.status(directory.root + " does not hold what " + config_path + " says",
                            only_unknown ? " (reshard inspect --passthrough '*' lists all tensors)" : "");
}

}  // namespace reshard::format
