// SPDX-License-Identifier: Apache-2.0
#include "reshard/model/library.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "configs.h"
#include "names.h"
#include "reshard/base/text.h"
#include "reshard/io/file.h"
#include "tables.h"

namespace reshard::model {
namespace {

/// A kind of table: its folder in configs/, which is also its schema, the member that names it, and how children of
/// `extends` take over its members.
struct Kind {
  std::string folder, member;
  std::vector<std::string> merged;  ///< objects, merged name by name; null takes a name out
  std::vector<std::string> own;     ///< never inherited
};

const Kind kFamilies{"arch",
                     "family",
                     {"fields", "flags", "sets", "axes", "tensors", "formats"},
                     {"about", "model_types", "architectures"}};
const Kind kFormats{"format", "format", {"options", "numbers", "rules", "families"}, {"about"}};

template <class Map>
std::vector<std::string> keys_of(const Map& map) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  return keys;
}

void take_over(Json& target, const Json& members) {
  for (const auto& [name, value] : members.items()) {
    if (value.is_null()) {
      target.erase(name);
    } else {
      target[name] = value;
    }
  }
}

/// `child` on top of its resolved parent (an empty object if it extends nothing).
Json extend(const Kind& kind, Json parent, const Json& child) {
  for (const std::string& name : kind.own) parent.erase(name);
  for (const auto& [name, value] : child.items()) {
    const bool merged = std::find(kind.merged.begin(), kind.merged.end(), name) != kind.merged.end();
    if (merged) {
      if (!parent.contains(name)) parent[name] = Json::object();
      take_over(parent[name], value);
    } else if (name == "require" && parent.contains(name)) {
      for (const Json& requirement : value) parent[name].push_back(requirement);
    } else if (value.is_null()) {
      parent.erase(name);
    } else {
      parent[name] = value;
    }
  }
  return parent;
}

Error at_key(Status status, const std::string& key) { return std::move(status).error().at(key); }

}  // namespace

/// Builds a Library from texts.
class Loader {
 public:
  Status add_file(const std::string& relative, const std::string& path, std::string_view text) {
    for (const Kind* kind : {&kFamilies, &kFormats}) {
      if (!relative.starts_with(kind->folder + "/") || !relative.ends_with(".json")) continue;
      const std::string name = relative.substr(kind->folder.size() + 1, relative.size() - kind->folder.size() - 6);
      auto parsed = parse_object(text, path);
      if (!parsed) return usage_error(parsed.error().message);
      if (Status status = check_schema(*parsed, kind->folder); !status) return at_key(std::move(status), path);
      if (const std::string given = parsed->at(kind->member).get<std::string>(); given != name) {
        return usage_error(
            fmt::format("{}: \"{}\" is \"{}\", but the file's name says \"{}\"", path, kind->member, given, name));
      }
      if (name == kGeneric) return usage_error(path + ": the name generic is taken by the built-in family");
      raw_[kind->folder][name] = {path, *std::move(parsed)};
    }
    return {};
  }

  Expected<Library> finish() {
    for (const Kind* kind : {&kFamilies, &kFormats}) {
      for (const auto& [name, file] : raw_[kind->folder]) RESHARD_CHECK(resolve(*kind, name, {}));
    }
    RESHARD_CHECK(check_model_types());
    std::map<std::string, Names> names;
    for (const auto& [name, family] : library_.families_) {
      auto found = names_of(family);
      if (!found) return std::move(found).error().at(raw_["arch"][name].path);
      names[name] = *std::move(found);
    }
    for (const auto& [name, format] : library_.formats_) {
      for (const auto& [family_name, family] : library_.families_) {
        auto entry = make_entry(family, format, names[family_name]);
        if (!entry) {
          return std::move(entry).error().at(fmt::format("{}: family {}", raw_["format"][name].path, family_name));
        }
        library_.cells_[{family_name, name}] = *std::move(entry);
      }
    }
    return std::move(library_);
  }

 private:
  struct File {
    std::string path;
    Json json;
  };

  Status resolve(const Kind& kind, const std::string& name, std::set<std::string> children) {
    auto& resolved = &kind == &kFamilies ? library_.families_ : library_.formats_;
    if (resolved.contains(name)) return {};
    const File& file = raw_[kind.folder][name];
    if (!children.insert(name).second) return usage_error(file.path + ": extends: leads back to " + name);
    Json parent_table = Json::object();
    if (file.json.contains("extends")) {
      const std::string parent = file.json.at("extends").get<std::string>();
      if (!raw_[kind.folder].contains(parent)) {
        return usage_error(fmt::format("{}: extends: there is no {} \"{}\"; known are {}", file.path, kind.member,
                                       parent, join(keys_of(raw_[kind.folder]), ", ")));
      }
      RESHARD_CHECK(resolve(kind, parent, std::move(children)));
      parent_table = resolved.at(parent);
    }
    Json table = extend(kind, std::move(parent_table), file.json);
    for (const char* member : {"fields", "axes", "tensors"}) {
      if (&kind == &kFamilies && !table.contains(member)) {
        return usage_error(fmt::format("{}: the key \"{}\" is missing", file.path, member));
      }
    }
    if (&kind == &kFormats && !table.contains("container")) {
      return usage_error(file.path + ": the key \"container\" is missing");
    }
    resolved.emplace(name, std::move(table));
    return {};
  }

  Status check_model_types() {
    std::map<std::string, std::string> owner;
    for (const auto& [name, family] : library_.families_) {
      if (!family.contains("model_types")) continue;
      for (const Json& type : family.at("model_types")) {
        const auto [at, added] = owner.emplace(type.get<std::string>(), name);
        if (!added) {
          return usage_error(fmt::format("{}: model_types: \"{}\" belongs to the family {} already",
                                         raw_["arch"][name].path, at->first, at->second));
        }
      }
    }
    return {};
  }

  /// Checks the texts of a family in the order in which they get their values; returns all its names.
  static Expected<Names> names_of(const Json& family) {
    const auto each = [&](const char* section, const auto& check) -> Status {
      if (!family.contains(section)) return {};
      for (const auto& [name, value] : family.at(section).items()) {
        if (Status status = check(name, value); !status)
          return at_key(std::move(status), fmt::format("{}.{}", section, name));
      }
      return {};
    };
    Names names;
    for (const char* dim : {"tp", "pp", "ep", "dp"}) RESHARD_CHECK(names.add_number(dim));
    const auto check_field = [&](const std::string& name, const Json& field) -> Status {
      const std::string type = field.at("type").get<std::string>();
      for (const char* key : {"default", "null"}) {
        if (!field.contains(key)) continue;
        const Json& value = field.at(key);
        const bool fits = type == "integer"   ? value.is_number_integer() || value.is_string()
                          : type == "number"  ? value.is_number()
                          : type == "boolean" ? value.is_boolean()
                          : type == "text"    ? value.is_string()
                                              : value.is_array();
        if (!fits) return usage_error(fmt::format("{}: not of type {}", key, type));
        if (type == "integer") RESHARD_CHECK(names.check_expression(expression_text(value)));
      }
      if (type == "integer" || type == "boolean") return names.add_number(name);
      if (type == "integers") names.sets.insert(name);
      return {};
    };
    RESHARD_CHECK(each("fields", check_field));
    const auto check_flag = [&](const std::string& name, const Json& value) -> Status {
      if (value.is_string()) RESHARD_CHECK(names.check_condition(value.get<std::string>()));
      return names.add_number(name);
    };
    RESHARD_CHECK(each("flags", check_flag));
    const auto check_axis = [&](const std::string& name, const Json& value) -> Status {
      RESHARD_CHECK(names.check_expression(expression_text(value)));
      return names.add_number(name);
    };
    RESHARD_CHECK(each("axes", check_axis));
    const auto check_set = [&](const std::string& name, const Json& value) -> Status {
      RESHARD_CHECK(names.check_condition(value.get<std::string>()));
      if (!names.sets.insert(name).second) return usage_error(fmt::format("the name \"{}\" is taken", name));
      return {};
    };
    RESHARD_CHECK(each("sets", check_set));
    if (family.contains("require")) {
      for (const Json& one : family.at("require")) {
        if (Status status = names.check_condition(one.at("that").get<std::string>()); !status)
          return at_key(std::move(status), "require");
        if (Status status = names.check_pattern(one.at("message").get<std::string>()); !status)
          return at_key(std::move(status), "require");
      }
    }
    const auto check_tensor = [&](const std::string& name, const Json& tensor) -> Status {
      for (const std::string& axis : split(tensor.at("axes").get<std::string>(), ' ')) {
        if (!axis.empty() && !family.at("axes").contains(axis)) return usage_error("unknown axis " + axis);
      }
      if (tensor.contains("if")) RESHARD_CHECK(names.check_condition(tensor.at("if").get<std::string>()));
      if (tensor.contains("else")) {
        const std::string same = tensor.at("else").get<std::string>();
        const Json& tensors = family.at("tensors");
        if (!tensor.contains("if")) return usage_error("else: there is no \"if\"");
        if (same == name || !tensors.contains(same) || tensors.at(same).at("axes") != tensor.at("axes")) {
          return usage_error(fmt::format("else: there is no other tensor {} of the axes {}", same,
                                         tensor.at("axes").get<std::string>()));
        }
      }
      if (tensor.contains("layers") && !names.sets.contains(tensor.at("layers").get<std::string>())) {
        return usage_error("unknown set " + tensor.at("layers").get<std::string>());
      }
      return {};
    };
    RESHARD_CHECK(each("tensors", check_tensor));
    return names;
  }

  /// What is said of the family in the format: by the family itself, by the format, or by either of a parent.
  const Json* find_cell(const Json& family, const Json& format) const {
    const std::string format_name = format.at("format").get<std::string>();
    if (family.contains("formats") && family.at("formats").contains(format_name)) {
      return &family.at("formats").at(format_name);
    }
    const Json* at = &family;
    while (format.contains("families")) {
      const std::string name = at->at("family").get<std::string>();
      if (format.at("families").contains(name)) return &format.at("families").at(name);
      if (!at->contains("extends")) break;
      at = &library_.families_.at(at->at("extends").get<std::string>());
    }
    return nullptr;
  }

  Expected<Library::Entry> make_entry(const Json& family, const Json& format, Names names) const {
    const std::string family_name = family.at("family").get<std::string>();
    const std::string format_name = format.at("format").get<std::string>();
    Library::Entry entry;
    const Json* cell = find_cell(family, format);
    if (cell == nullptr) {
      entry.cell.reason = fmt::format("no table says how {} stores the family {}", format_name, family_name);
      return entry;
    }
    if (cell->contains("refuse")) {
      entry.cell.reason = cell->at("refuse").get<std::string>();
      return entry;
    }
    for (const char* section : {"options", "numbers"}) {
      if (!format.contains(section)) continue;
      for (const auto& [name, value] : format.at(section).items()) {
        const bool glob = section == std::string_view("options") && value.is_string();
        if (Status status = glob ? Status() : names.check_expression(expression_text(value)); !status)
          return at_key(std::move(status), name);
        if (Status status = names.add_number(name); !status) return at_key(std::move(status), section);
      }
    }
    RESHARD_TRY(entry.table, make_table(family, format, *cell, names));
    if (cell->contains("optional_prefix")) entry.cell.optional_prefix = cell->at("optional_prefix").get<std::string>();
    if (const std::string tensor = find_homeless(family, entry.table); !tensor.empty()) {
      entry.cell.reason =
          fmt::format("{} has no array for the tensor {} of the family {}", format_name, tensor, family_name);
      return entry;
    }
    entry.cell.holds = true;
    return entry;
  }

  std::map<std::string, std::map<std::string, File>> raw_;  // folder, name
  Library library_;
};

Expected<Library> Library::load(const std::string& config_dir) {
  Loader loader;
  for (const auto& [relative, text] : embedded_configs()) {
    RESHARD_CHECK(loader.add_file(relative, "configs/" + relative, text));
  }
  if (!config_dir.empty()) {
    auto files = io::list_files(config_dir, 2);
    if (!files) return usage_error(std::move(files).error().at("--config-dir").message);
    for (const std::string& relative : *files) {
      if (!relative.starts_with("arch/") && !relative.starts_with("format/")) continue;
      const std::string path = config_dir + "/" + relative;
      auto text = io::read_text(path);
      if (!text) return usage_error(text.error().message);
      RESHARD_CHECK(loader.add_file(relative, path, *text));
    }
  }
  return loader.finish();
}

std::vector<std::string> Library::families() const { return keys_of(families_); }
std::vector<std::string> Library::formats() const { return keys_of(formats_); }

namespace {

std::string find_family(const std::map<std::string, Json>& families, const char* member, const std::string& value) {
  for (const auto& [name, family] : families) {
    if (!family.contains(member)) continue;
    const Json& values = family.at(member);
    if (std::find(values.begin(), values.end(), value) != values.end()) return name;
  }
  return {};
}

}  // namespace

std::string Library::family_of_model_type(const std::string& model_type) const {
  return find_family(families_, "model_types", model_type);
}
std::string Library::family_of_architecture(const std::string& architecture) const {
  return find_family(families_, "architectures", architecture);
}

std::vector<std::string> Library::model_types() const {
  std::vector<std::string> types;
  for (const auto& [name, family] : families_) {
    if (!family.contains("model_types")) continue;
    for (const Json& type : family.at("model_types")) types.push_back(type.get<std::string>());
  }
  std::sort(types.begin(), types.end());
  return types;
}

Library::Cell Library::cell(const std::string& family, const std::string& format) const {
  Cell cell;
  if (!has_format(format)) {
    cell.reason = fmt::format("there is no format \"{}\"; known are {}", format, join(formats(), ", "));
  } else if (family == kGeneric) {
    cell.holds = empty_table(format).passthrough;
    if (!cell.holds) cell.reason = fmt::format("{} cannot hold arrays of any name", format);
  } else if (!has_family(family)) {
    cell.reason = fmt::format("there is no family \"{}\"; known are {}", family, join(families(), ", "));
  } else {
    cell = cells_.at({family, format}).cell;
  }
  return cell;
}

Expected<layout::Table> Library::table(const std::string& family, const std::string& format) const {
  const Cell found = cell(family, format);
  if (!found.holds) return usage_error(fmt::format("{} cannot hold a {} model: {}", format, family, found.reason));
  if (family == kGeneric) return empty_table(format);
  return cells_.at({family, format}).table;
}

layout::Table Library::empty_table(const std::string& format) const { return make_empty_table(formats_.at(format)); }

layout::Scope Library::options(const std::string& format,
                               const std::function<bool(const std::string& glob)>& is_stored) const {
  layout::Scope scope;
  const Json& json = formats_.at(format);
  if (!json.contains("options")) return scope;
  for (const auto& [name, value] : json.at("options").items()) {
    scope.numbers[name] = value.is_string() ? is_stored(value.get<std::string>()) : value.get<Index>();
  }
  return scope;
}

layout::Scope Library::options(const std::string& format) const {
  return options(format, [](const std::string&) { return false; });
}

}  // namespace reshard::model
