// SPDX-License-Identifier: Apache-2.0
#include "tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "reshard/base/dtype.h"
#include "reshard/base/text.h"
#include "reshard/layout/expression.h"

namespace reshard::model {
namespace {

std::string text_of(const Json& object, const char* key) {
  return object.contains(key) ? object.at(key).get<std::string>() : std::string();
}

std::vector<std::string> texts_of(const Json& value) {
  if (value.is_string()) return {value.get<std::string>()};
  return value.get<std::vector<std::string>>();
}

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> parts = split(text, ' ');
  std::erase(parts, "");
  return parts;
}

/// Puts the parts of an array name into a file pattern: {array.leaf} is what follows the last dot, {array.path} the
/// rest as folders. Dots inside braces do not count.
std::string file_pattern(std::string pattern, const std::string& array) {
  std::string path;
  std::size_t leaf = 0;
  bool inside = false;
  for (std::size_t i = 0; i < array.size(); ++i) {
    if (array[i] == '{') inside = true;
    if (array[i] == '}') inside = false;
    const bool dot = array[i] == '.' && !inside;
    path += dot ? '/' : array[i];
    if (dot) leaf = i + 1;
  }
  path.resize(leaf == 0 ? 0 : leaf - 1);
  const std::map<std::string, std::string> parts = {{"{array.path}", path}, {"{array.leaf}", array.substr(leaf)}};
  for (const auto& [name, part] : parts) {
    for (std::size_t at; (at = pattern.find(name)) != std::string::npos;) pattern.replace(at, name.size(), part);
  }
  return pattern;
}

layout::ShardRule make_shard(const std::string& mesh_dim, const Json& value) {
  layout::ShardRule shard;
  shard.mesh_dim = mesh_dim;
  if (value.is_number()) {
    shard.kind = layout::ShardRule::Kind::dim;
    shard.dim = value.get<int>();
  } else if (value == "flat") {
    shard.kind = layout::ShardRule::Kind::flat;
  } else {
    shard.axes = texts_of(value);
  }
  return shard;
}

/// Each axis of each tensor must be in the view or fixed by the array's name, exactly once, and no other.
Status check_axes(const layout::ArrayRule& rule, const Json& family, const Names& names) {
  const auto known = [&](const std::string& axis) -> Expected<Index> {
    if (!names.numbers.contains(axis)) {
      return usage_error(fmt::format("view '{}' names the unknown axis {}", rule.view_text, axis));
    }
    return 1;
  };
  RESHARD_TRY(const layout::Expansion expansion, layout::expand(rule.view, rule.tensor, known));
  if (!rule.buffer.empty()) return {};  // no tensor to cover
  const bool is_zeros = std::all_of(expansion.terms.begin(), expansion.terms.end(),
                                    [](const layout::Term& term) { return term.tensor == layout::kFill; });
  if (is_zeros && !family.at("tensors").contains(rule.tensor)) {
    return usage_error(
        fmt::format("view '{}' is of zeros alone: \"tensor\" must name what they stand beside, not \"{}\"",
                    rule.view_text, rule.tensor));
  }
  std::set<std::string> fixed;
  for (const std::string& name : layout::names_in(rule.array)) fixed.insert(name.substr(0, name.find('.')));
  for (const layout::Term& term : expansion.terms) {
    if (term.tensor == layout::kFill) continue;
    if (term.tensor.empty()) {
      return usage_error(
          fmt::format("view '{}' has a part without a tensor; name it in the part or by \"tensor\"", rule.view_text));
    }
    if (!family.at("tensors").contains(term.tensor)) {
      return usage_error(
          fmt::format("the family {} has no tensor {}", family.at("family").get<std::string>(), term.tensor));
    }
    const std::vector<std::string> axes = words(family.at("tensors").at(term.tensor).at("axes").get<std::string>());
    for (const layout::Term::Step& step : term.steps) {
      if (std::find(axes.begin(), axes.end(), step.axis) == axes.end()) {
        return usage_error(fmt::format("view '{}' names axis {}, which tensor {} does not have", rule.view_text,
                                       step.axis, term.tensor));
      }
    }
    for (const std::string& axis : axes) {
      const auto covered =
          std::count_if(term.steps.begin(), term.steps.end(), [&](const auto& s) { return s.axis == axis; });
      if (covered + (fixed.contains(axis) ? 1 : 0) != 1) {
        return usage_error(
            fmt::format("axis {} of tensor {} is covered {} times by view '{}' and the array's name, expected once",
                        axis, term.tensor, covered + (fixed.contains(axis) ? 1 : 0), rule.view_text));
      }
    }
  }
  return {};
}

Status check_shards(const layout::ArrayRule& rule, const layout::Table& table, const Names& names) {
  for (const layout::ShardRule& shard : rule.shards) {
    if (std::find(table.mesh_dims.begin(), table.mesh_dims.end(), shard.mesh_dim) == table.mesh_dims.end()) {
      return usage_error(fmt::format("shards by {}, which \"mesh\" of the format does not list", shard.mesh_dim));
    }
    for (const std::string& axis : shard.axes) {
      if (!names.numbers.contains(axis)) return usage_error(fmt::format("shards the unknown axis {}", axis));
    }
    if (shard.kind == layout::ShardRule::Kind::dim && shard.dim >= std::ssize(rule.view.dims)) {
      return usage_error(
          fmt::format("shards dimension {}, but view '{}' has {}", shard.dim, rule.view_text, rule.view.dims.size()));
    }
  }
  return {};
}

// Number of the rule that an alias names.
Expected<int> find_rule(const layout::Table& table, const std::string& array) {
  const auto& rules = table.rules;
  const auto found = std::find_if(rules.begin(), rules.end(), [&](const auto& rule) { return rule.array == array; });
  if (found == rules.end()) return usage_error(fmt::format("alias: there is no array {} above", array));
  return static_cast<int>(found - rules.begin());
}

Expected<layout::ArrayRule> make_rule(Json json, const Json& family, const Json& format, const layout::Table& table,
                                      const Names& names) {
  layout::ArrayRule rule;
  rule.array = json.at("array").get<std::string>();
  rule.buffer = text_of(json, "buffer");
  rule.apart = json.contains("apart") && json.at("apart").get<bool>();
  if (json.contains("alias")) {
    RESHARD_TRY(rule.alias, find_rule(table, text_of(json, "alias")));
    const layout::ArrayRule& repeated = table.rules[static_cast<std::size_t>(rule.alias)];
    rule.copied = json.contains("copied") && json.at("copied").get<bool>();
    rule.shards = repeated.shards;
    json["tensor"] = repeated.tensor;
    json["view"] = repeated.view_text;
    json["stage"] = repeated.stage;
    json["dtype"] = repeated.dtype;
  }
  rule.entry = json.contains("entry") ? text_of(json, "entry") : text_of(format, "entry");
  rule.tensor = text_of(json, "tensor");
  rule.view_text = json.at("view").get<std::string>();
  rule.stage = text_of(json, "stage");
  rule.dtype = text_of(json, "dtype");
  if (json.contains("where")) rule.where = texts_of(json.at("where"));
  if (json.contains("shard")) {
    for (const auto& [mesh_dim, value] : json.at("shard").items()) rule.shards.push_back(make_shard(mesh_dim, value));
  }
  if (json.contains("file")) {
    rule.file = text_of(json, "file");
  } else if (format.contains("file")) {
    const Json& file = format.at("file");
    rule.file =
        file.is_string() ? file.get<std::string>() : text_of(file, rule.shards.empty() ? "replicated" : "sharded");
  }
  rule.file = file_pattern(rule.file, rule.array);

  RESHARD_TRY(rule.view, layout::parse_view(rule.view_text));
  RESHARD_CHECK(check_axes(rule, family, names));
  RESHARD_CHECK(check_shards(rule, table, names));
  if (!rule.dtype.empty() && !parse_dtype(rule.dtype)) {
    return usage_error(fmt::format("\"{}\" is not a safetensors dtype", rule.dtype));
  }
  for (const std::string& condition : rule.where) RESHARD_CHECK(names.check_condition(condition));
  Names places = names;
  places.numbers.insert({"layer", "layer.local", "expert", "expert.local"});
  for (const std::string& dim : table.mesh_dims) places.numbers.insert(dim + ".size");
  for (const std::string* pattern : {&rule.array, &rule.file, &rule.entry})
    RESHARD_CHECK(places.check_pattern(*pattern));
  return rule;
}

}  // namespace

layout::Table make_empty_table(const Json& format) {
  layout::Table table;
  table.format = format.at("format").get<std::string>();
  table.container = text_of(format, "container");
  table.placement = text_of(format, "placement");
  if (format.contains("mesh")) table.mesh_dims = texts_of(format.at("mesh"));
  if (format.contains("ignore")) table.ignore = texts_of(format.at("ignore"));
  if (format.contains("zeros")) table.zeros = format.at("zeros").get<std::map<std::string, std::string>>();
  if (format.contains("passthrough")) table.passthrough = format.at("passthrough").get<bool>();
  const std::string split = text_of(format, "split");
  if (split == "ceil") table.split = layout::Split::ceil;
  if (split == "balanced") table.split = layout::Split::balanced;
  if (format.contains("numbers")) {
    for (const auto& [name, value] : format.at("numbers").items()) {
      table.numbers[name] = expression_text(value);
      table.number_order.emplace_back(name, expression_text(value));
    }
  }
  return table;
}

Expected<layout::Table> make_table(const Json& family, const Json& format, const Json& cell, const Names& names) {
  layout::Table table = make_empty_table(format);
  for (const Json* owner : {&format, &cell}) {
    if (!owner->contains("require")) continue;
    for (const Json& one : owner->at("require")) {
      layout::Requirement requirement{text_of(one, "that"), text_of(one, "message")};
      RESHARD_CHECK(names.check_condition(requirement.condition));
      RESHARD_CHECK(names.check_pattern(requirement.message));
      table.require.push_back(std::move(requirement));
    }
  }
  const auto add = [&](const Json& json) -> Status {
    auto rule = make_rule(json, family, format, table, names);
    if (!rule) return std::move(rule).error().at("array " + json.at("array").get<std::string>());
    table.rules.push_back(*std::move(rule));
    return {};
  };
  if (!cell.contains("rules")) return table;
  for (const Json& entry : cell.at("rules")) {
    if (entry.is_object()) {
      RESHARD_CHECK(add(entry));
      continue;
    }
    const std::string set = entry.get<std::string>();
    if (!format.contains("rules") || !format.at("rules").contains(set)) {
      return usage_error(fmt::format("the format {} has no rule set \"{}\"", table.format, set));
    }
    for (const Json& rule : format.at("rules").at(set)) RESHARD_CHECK(add(rule));
  }
  return table;
}

std::string find_homeless(const Json& family, const layout::Table& table) {
  std::set<std::string> held;
  for (const layout::ArrayRule& rule : table.rules) {
    if (rule.alias >= 0 || !rule.buffer.empty()) continue;
    const auto expansion =
        layout::expand(rule.view, rule.tensor, [](const std::string&) -> Expected<Index> { return 1; });
    for (const layout::Term& term : expansion->terms) held.insert(term.tensor);
  }
  for (const auto& [name, tensor] : family.at("tensors").items()) {
    if (!tensor.contains("if") && !held.contains(name)) return name;
  }
  return {};
}

}  // namespace reshard::model
