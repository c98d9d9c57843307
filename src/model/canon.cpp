// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <optional>

#include "configs.h"
#include "names.h"
#include "reshard/base/text.h"
#include "reshard/model/spec.h"
#include "values.h"

namespace reshard::model {
namespace {

/// No model has more; a file that says so would only exhaust memory.
constexpr Index kMaxLayers = 1 << 16, kMaxLines = 1 << 24;

Status add_flags(const Json& family, layout::Scope& scope) {
  if (!family.contains("flags")) return {};
  for (const auto& [name, value] : family.at("flags").items()) {
    bool on = value.is_boolean() && value.get<bool>();
    if (value.is_string()) {
      RESHARD_TRY(on, layout::holds(value.get<std::string>(), scope));
    }
    scope.numbers[name] = on ? 1 : 0;
  }
  return {};
}

Status check_requirements(const Json& family, const layout::Scope& scope) {
  if (!family.contains("require")) return {};
  const auto value_of = [&](std::string_view name) -> std::optional<Index> {
    const auto found = scope.numbers.find(name);
    if (found == scope.numbers.end()) return std::nullopt;
    return found->second;
  };
  for (const Json& requirement : family.at("require")) {
    RESHARD_TRY(const bool fulfilled, layout::holds(requirement.at("that").get<std::string>(), scope));
    if (fulfilled) continue;
    RESHARD_TRY(std::string message, layout::fill_in(requirement.at("message").get<std::string>(), value_of));
    return input_error(std::move(message));
  }
  return {};
}

Status add_axes(const Json& family, layout::Scope& scope) {
  for (const auto& [name, value] : family.at("axes").items()) {
    const std::string text = expression_text(value);
    RESHARD_TRY(const Index size, layout::evaluate(text, scope));
    scope.numbers[name] = size;
  }
  return {};
}

Status add_sets(const Json& family, layout::Scope& scope) {
  if (!family.contains("sets")) return {};
  layout::Scope here = scope;
  const Index layers = scope.numbers.at("layer");
  for (const auto& [name, condition] : family.at("sets").items()) {
    std::vector<Index> members;
    for (Index layer = 0; layer < layers; ++layer) {
      here.numbers["layer"] = layer;
      RESHARD_TRY(const bool inside, layout::holds(condition.get<std::string>(), here));
      if (inside) members.push_back(layer);
    }
    here.sets[name] = members;
    scope.sets[name] = std::move(members);
  }
  return {};
}

/// The tensor at the scope's extents; nothing if this model does not have it.
Expected<std::optional<layout::Tensor>> make_tensor(const std::string& name, const Json& json, const Json& family,
                                                    const layout::Scope& scope) {
  if (json.contains("if")) {
    RESHARD_TRY(const bool there, layout::holds(json.at("if").get<std::string>(), scope));
    if (!there) return std::optional<layout::Tensor>();
  }
  layout::Tensor tensor;
  tensor.name = name;
  if (json.contains("layers")) {
    tensor.layers = scope.sets.find(json.at("layers").get<std::string>())->second;
    if (tensor.layers.empty()) return std::optional<layout::Tensor>();
    if (std::ssize(tensor.layers) == scope.numbers.at("layer")) tensor.layers.clear();
  }
  Shape shape;
  for (const std::string& axis : split(json.at("axes").get<std::string>(), ' ')) {
    if (axis.empty()) continue;
    const Index size = scope.numbers.find(axis)->second;
    if (size < 1) {
      return input_error(fmt::format("{} must be at least 1 for the axis {} of {}, but is {}",
                                     expression_text(family.at("axes").at(axis)), axis, name, size));
    }
    tensor.axes.push_back({axis, size});
    shape.push_back(size);
  }
  if (!num_elements(shape)) return input_error(fmt::format("the extents of {} overflow 64 bits", name));
  return std::optional(std::move(tensor));
}

Expected<std::shared_ptr<const layout::Canon>> build(const Json& fields, const Json& family) {
  Json completed = fields;
  RESHARD_TRY(layout::Scope scope, complete_fields(completed, family));
  RESHARD_CHECK(add_flags(family, scope));
  RESHARD_CHECK(check_requirements(family, scope));
  RESHARD_CHECK(add_axes(family, scope));
  if (scope.has("layer") && scope.numbers.at("layer") > kMaxLayers) {
    return input_error(fmt::format("{} is {}, more than {}", expression_text(family.at("axes").at("layer")),
                                   scope.numbers.at("layer"), kMaxLayers));
  }
  RESHARD_CHECK(add_sets(family, scope));
  std::vector<layout::Tensor> tensors;
  Index lines = 0;
  for (const auto& [name, json] : family.at("tensors").items()) {
    RESHARD_TRY(std::optional<layout::Tensor> tensor, make_tensor(name, json, family, scope));
    if (!tensor) continue;
    Index here = 1;
    for (const layout::Axis& axis : tensor->axes) {
      if (layout::is_instance_axis(axis.name)) here *= axis.size;  // fits: the volume does
    }
    if (here > kMaxLines || (lines += here) > kMaxLines) {
      return input_error(
          fmt::format("layers and experts make more than {} tensors, counted up to {}", kMaxLines, name));
    }
    tensors.push_back(*std::move(tensor));
  }
  return std::make_shared<const layout::Canon>(std::move(tensors), std::move(scope));
}

}  // namespace

Expected<std::shared_ptr<const layout::Canon>> make_canon(const Spec& spec, const Library& library) {
  if (!library.has_family(spec.family)) return usage_error(fmt::format("there is no family \"{}\"", spec.family));
  auto canon = build(spec.fields, library.family(spec.family));
  if (!canon) return input_error(fmt::format("{} model: {}", spec.family, canon.error().message));
  return canon;
}

std::vector<Tie> find_ties(const std::string& family, const layout::Canon& canon, const Library& library) {
  std::vector<Tie> ties;
  if (!library.has_family(family)) return ties;
  for (const auto& [name, json] : library.family(family).at("tensors").items()) {
    if (!json.contains("else")) continue;
    const auto there = layout::holds(json.at("if").get<std::string>(), canon.scope());
    const std::string same = json.at("else").get<std::string>();
    if (there && !*there && canon.find(same) >= 0) ties.push_back({name, same});
  }
  return ties;
}

}  // namespace reshard::model
