// SPDX-License-Identifier: Apache-2.0
#include "reshard/model/spec.h"

#include <fmt/format.h>

#include <filesystem>
#include <limits>

#include "configs.h"
#include "names.h"
#include "reshard/base/text.h"
#include "reshard/io/file.h"
#include "values.h"

namespace reshard::model {
namespace {

constexpr std::size_t kMaxListed = 1 << 16;

bool is_index(const Json& value) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned()) {
    return value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<Index>::max());
  }
  return value.get<Index>() >= 0;
}

/// What is wrong with the type of a field's value; empty if nothing.
std::string find_fault(const Json& value, const std::string& type) {
  const auto found = [&](const char* expected) {
    const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return fmt::format("expected {}, found {}", expected, text.size() > 80 ? text.substr(0, 80) + "..." : text);
  };
  if (type == "integer" && !is_index(value)) return found("a non-negative integer");
  if (type == "number" && !value.is_number()) return found("a number");
  if (type == "boolean" && !value.is_boolean()) return found("true or false");
  if (type == "text" && !value.is_string()) return found("a text");
  if (type == "integers") {
    if (!value.is_array() || value.size() > kMaxListed) return found("a list of integers");
    for (const Json& one : value) {
      if (!is_index(one)) return found("a list of non-negative integers");
    }
  }
  return {};
}

/// Numbers of the fields so far, for the defaults of later ones.
void add_to_scope(layout::Scope& scope, const std::string& name, const Json& value) {
  if (value.is_boolean()) scope.numbers[name] = value.get<bool>() ? 1 : 0;
  if (value.is_number_integer()) scope.numbers[name] = value.get<Index>();
  if (value.is_array()) {
    for (const Json& one : value) {
      if (is_index(one)) scope.sets[name].push_back(one.get<Index>());
    }
    scope.sets[name];
  }
}

/// The keys under which a config.json has the field.
std::vector<std::string> keys_of(const std::string& name, const Json& field) {
  if (!field.contains("keys")) return {name};
  return field.at("keys").get<std::vector<std::string>>();
}

}  // namespace

Index Spec::integer(const std::string& key) const {
  const auto found = fields.find(key);
  return found != fields.end() && is_index(*found) ? found->get<Index>() : 0;
}

bool Spec::flag(const std::string& key) const {
  const auto found = fields.find(key);
  return found != fields.end() && found->is_boolean() && found->get<bool>();
}

Expected<layout::Scope> complete_fields(Json& fields, const Json& family) {
  layout::Scope scope;
  for (const auto& [name, field] : family.at("fields").items()) {
    const std::string type = field.at("type").get<std::string>();
    const auto given = fields.find(name);
    if (given == fields.end() || given->is_null()) {
      const bool is_null = given != fields.end() && field.contains("null");
      if (!is_null && !field.contains("default")) return input_error(name + ": not given, and there is no default");
      Json value = field.at(is_null ? "null" : "default");
      if (type == "integer") {
        auto number = layout::evaluate(expression_text(value), scope);
        if (!number) {
          return input_error(fmt::format("{}: not given, and its default fails: {}", name, number.error().message));
        }
        value = *number;
      }
      fields[name] = std::move(value);
    }
    if (const std::string fault = find_fault(fields[name], type); !fault.empty())
      return input_error(name + ": " + fault);
    if (type == "integer" || type == "boolean" || type == "integers") add_to_scope(scope, name, fields[name]);
  }
  return scope;
}

Status complete(Spec& spec, const Library& library) {
  if (!library.has_family(spec.family)) return usage_error(fmt::format("there is no family \"{}\"", spec.family));
  const Json& family = library.family(spec.family);
  RESHARD_TRY([[maybe_unused]] const layout::Scope scope, complete_fields(spec.fields, family));
  if (family.contains("rope_theta") && !spec.fields.contains("rope")) {
    spec.fields["rope"] = {{"theta", family.at("rope_theta")}, {"type", "default"}};
  }
  return {};
}

namespace {

/// Takes the three spellings of the rotary embedding out of `config`. rope_parameters wins, as in the library that
/// introduced it; theta and type go by their neutral names, what else the scaling has is carried.
Status take_rope(Json& config, const Json& family, Spec& spec) {
  Json rope = {{"theta", family.at("rope_theta")}, {"type", "default"}};
  const auto take = [&](const char* key, const char* kind) -> Expected<Json> {
    const auto found = config.find(key);
    Json value = found == config.end() ? Json() : *found;
    config.erase(key);
    const bool fits = value.is_null() || (kind == std::string("object") ? value.is_object() : value.is_number());
    if (!fits) return input_error(fmt::format("{}: expected a{} {}", key, kind[0] == 'o' ? "n" : "", kind));
    return value;
  };
  RESHARD_TRY(const Json theta, take("rope_theta", "number"));
  RESHARD_TRY(const Json scaling, take("rope_scaling", "object"));
  RESHARD_TRY(const Json parameters, take("rope_parameters", "object"));
  if (!theta.is_null()) rope["theta"] = theta;
  if (scaling.is_object()) {
    Json spellings = Json::array();
    for (const char* key : {"rope_type", "type"}) {
      if (scaling.contains(key)) spellings.push_back(key);
    }
    spec.facts["hf"]["rope_type_keys"] = std::move(spellings);
  }
  const bool is_new = parameters.is_object();
  const Json& source = is_new ? parameters : scaling;
  if (source.is_null()) {
    spec.fields["rope"] = std::move(rope);
    return {};
  }
  const std::string where = is_new ? "rope_parameters" : "rope_scaling";
  for (const auto& [key, value] : source.items()) {
    if (key == "rope_theta") {
      if (!value.is_number()) return input_error(where + ".rope_theta: expected a number");
      rope["theta"] = value;
    } else if (key == "rope_type" || key == "type") {
      if (!value.is_string()) return input_error(fmt::format("{}.{}: expected a text", where, key));
      if (key == "rope_type" || !source.contains("rope_type")) rope["type"] = value;
    } else if (value.is_object()) {
      return input_error(
          fmt::format("{}.{}: rotary settings that differ between layers are not understood", where, key));
    } else {
      rope[key] = value;
    }
  }
  spec.fields["rope"] = std::move(rope);
  return {};
}

/// Takes dtype (new spelling) or torch_dtype (old) out of `config`.
Status take_dtype(Json& config, Spec& spec) {
  for (const char* key : {"torch_dtype", "dtype"}) {
    const auto found = config.find(key);
    if (found == config.end()) continue;
    const Json value = *found;
    config.erase(key);
    if (value.is_null() || value == "auto") continue;
    if (!value.is_string()) return input_error(std::string(key) + ": expected a text");
    std::string name = value.get<std::string>();
    if (name.starts_with("torch.")) name.erase(0, 6);
    const auto dtype = parse_user_dtype(name);
    if (!dtype) return input_error(fmt::format("{}: unknown dtype \"{}\"", key, name));
    spec.dtype = *dtype;
  }
  return {};
}

/// Moves the declared fields from `config` into the spec, each from whichever spelling is there.
Status take_fields(Json& config, const Json& family, Spec& spec) {
  for (const auto& [name, field] : family.at("fields").items()) {
    std::vector<std::string> keys = keys_of(name, field);
    keys.push_back(name);
    std::string from;
    for (const std::string& key : keys) {
      const auto found = config.find(key);
      if (found == config.end()) continue;
      const Json value = *found;
      config.erase(key);
      if (!value.is_null()) {
        if (const std::string fault = find_fault(value, field.at("type").get<std::string>()); !fault.empty()) {
          return input_error(key + ": " + fault);
        }
      }
      if (from.empty()) {
        spec.fields[name] = value;
        from = key;
      } else if (spec.fields[name] != value) {
        return input_error(fmt::format("{} ({}) and {} ({}) are two spellings of one field and disagree", from,
                                       spec.fields[name].dump(), key, value.dump()));
      }
    }
  }
  return {};
}

Expected<std::string> find_family(const Json& config, const Library& library) {
  const auto text = [](const Json& value) { return value.is_string() ? value.get<std::string>() : std::string(); };
  const std::string advice = fmt::format("known are {}; a model of another kind converts as the family generic",
                                         join(library.model_types(), ", "));
  if (config.contains("model_type")) {
    const std::string type = text(config.at("model_type"));
    std::string family = library.family_of_model_type(type);
    if (family.empty()) return input_error(fmt::format("model_type: \"{}\" is not known; {}", type, advice));
    return family;
  }
  if (config.contains("architectures") && config.at("architectures").is_array()) {
    for (const Json& one : config.at("architectures")) {
      if (std::string family = library.family_of_architecture(text(one)); !family.empty()) return family;
    }
  }
  return input_error("model_type: missing; " + advice);
}

}  // namespace

Expected<Spec> parse_hf_config(const nlohmann::json& parsed, const Library& library, const std::string& path) {
  const auto read = [&]() -> Expected<Spec> {
    if (!parsed.is_object()) return input_error("expected a JSON object");
    Json config = parsed;
    Spec spec;
    RESHARD_TRY(spec.family, find_family(config, library));
    const Json& family = library.family(spec.family);
    Json& hf = spec.facts["hf"] = Json::object();
    for (const char* key : {"model_type", "architectures", "transformers_version"}) {
      if (config.contains(key) && !config.at(key).empty()) hf[key] = config.at(key);
      config.erase(key);
    }
    RESHARD_CHECK(take_dtype(config, spec));
    RESHARD_CHECK(take_fields(config, family, spec));
    if (family.contains("rope_theta")) RESHARD_CHECK(take_rope(config, family, spec));
    for (const auto& [key, value] : config.items()) spec.fields[key] = value;

    const Json stated = spec.fields;
    RESHARD_CHECK(complete(spec, library));
    for (const auto& [name, field] : family.at("fields").items()) {
      if (!stated.contains(name)) {
        hf["absent"][name] = spec.fields[name];
      } else if (stated.at(name).is_null()) {
        hf["null"][name] = spec.fields[name];
      }
    }
    return spec;
  };
  auto spec = read();
  if (!spec) return std::move(spec).error().at(path);
  return spec;
}

Spec make_generic_spec(const nlohmann::json& config) {
  Spec spec;
  spec.family = kGeneric;
  spec.fields = config;
  return spec;
}

std::string write_hf_config(const Spec& spec, const Library& library) {
  nlohmann::json config = nlohmann::json::object();  // sorts its keys
  const auto text = [&] { return config.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) + "\n"; };
  if (!library.has_family(spec.family)) {
    config = spec.fields;
    return text();
  }
  const Json& family = library.family(spec.family);
  const Json hf = spec.facts.value("hf", Json::object());
  // What the source left to the default stays so, unless it was changed since.
  const auto implied = [&](const char* how, const std::string& name) {
    return hf.contains(how) && hf.at(how).contains(name) && hf.at(how).at(name) == spec.fields.at(name);
  };
  for (const auto& [name, value] : spec.fields.items()) {
    if (name == "rope" && family.contains("rope_theta")) continue;
    if (!family.at("fields").contains(name)) {
      config[name] = value;
      continue;
    }
    if (implied("absent", name)) continue;
    for (const std::string& key : keys_of(name, family.at("fields").at(name))) {
      config[key] = implied("null", name) ? Json() : value;
    }
  }
  if (family.contains("rope_theta") && spec.fields.contains("rope")) {
    nlohmann::json scaling = spec.fields.at("rope");
    const nlohmann::json theta = scaling.at("theta"), type = scaling.at("type");
    scaling.erase("theta");
    scaling.erase("type");
    nlohmann::json parameters = scaling;
    parameters["rope_theta"] = theta;
    parameters["rope_type"] = type;
    config["rope_parameters"] = std::move(parameters);
    config["rope_theta"] = theta;
    config["rope_scaling"] = nullptr;
    if (type != "default" || hf.contains("rope_type_keys")) {
      const Json spellings = hf.value("rope_type_keys", Json::array({"rope_type"}));
      for (const Json& key : spellings) scaling[key.get<std::string>()] = type;
      config["rope_scaling"] = std::move(scaling);
    }
  }
  for (const char* key : {"model_type", "architectures", "transformers_version"}) {
    if (hf.contains(key)) config[key] = hf.at(key);
  }
  if (!config.contains("architectures") && family.contains("architectures")) {
    config["architectures"] = family.at("architectures");
  }
  if (!config.contains("model_type") && family.contains("model_types")) {
    config["model_type"] = family.at("model_types").front();
  }
  if (const std::string_view dtype = torch_name(spec.dtype); !dtype.empty()) {
    config["dtype"] = dtype;
    config["torch_dtype"] = dtype;
  }
  return text();
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& [path, unused] : embedded_configs()) {
    if (path.starts_with("model/")) names.push_back(path.substr(6, path.size() - 11));
  }
  return names;
}

std::optional<std::string> find_model(const std::string& name) {
  const auto plain = [](const std::string& text) {
    std::string letters;
    for (const char c : text) {
      if (c != '-' && c != '_' && c != '.') letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    return letters;
  };
  for (const std::string& known : model_names()) {
    if (plain(known) == plain(name)) return known;
  }
  return std::nullopt;
}

Expected<Spec> named_model(const std::string& name, const Library& library) {
  std::string text;
  if (const auto known = find_model(name)) {
    text = embedded_configs().at("model/" + *known + ".json");
  } else {
    std::error_code ignored;
    if (!std::filesystem::exists(name, ignored)) {
      const auto meant = did_you_mean(name, model_names());
      return usage_error(
          fmt::format("there is no model \"{}\" and no file of that name; {}", name,
                      meant ? "did you mean " + *meant + "?" : "known are " + join(model_names(), ", ")));
    }
    RESHARD_TRY(text, io::read_text(name));
  }
  RESHARD_TRY(const Json config, parse_object(text, name));
  return parse_hf_config(config, library, name);
}

}  // namespace reshard::model
