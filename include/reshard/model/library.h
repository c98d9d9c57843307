// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/layout/expression.h"
#include "reshard/layout/table.h"

namespace reshard::model {

/// The family of models that no table describes: one canonical tensor per array (model/generic.h). It has no file in
/// configs/arch; formats whose file says "passthrough" hold it.
inline constexpr std::string_view kGeneric = "generic";

/// The tables of configs/: families of models and formats; configs/README.md is their reference. Compiled in; a folder
/// given by --config-dir adds to them, a file of the same name replaces one. `extends` is resolved. Immutable after
/// load.
class Library {
 public:
  /// `config_dir` may be empty. Every text of the tables is parsed here, and every name in it looked up, so that a
  /// mistake shows before any checkpoint is touched. Errors (usage), naming file and key: unreadable JSON, a file
  /// against its schema, an expression, condition or view that cannot be parsed, an unknown name, an axis that a rule
  /// does not cover, two families with one model_type. Local.
  static Expected<Library> load(const std::string& config_dir);

  std::vector<std::string> families() const;  ///< sorted, without generic
  std::vector<std::string> formats() const;   ///< sorted
  bool has_family(const std::string& family) const { return families_.contains(family); }
  bool has_format(const std::string& format) const { return formats_.contains(format); }
  const nlohmann::ordered_json& family(const std::string& family) const { return families_.at(family); }  ///< resolved
  const nlohmann::ordered_json& format(const std::string& format) const { return formats_.at(format); }   ///< resolved

  /// Family whose `model_types` (`architectures`) has this, or "".
  std::string family_of_model_type(const std::string& model_type) const;
  std::string family_of_architecture(const std::string& architecture) const;
  /// All model types, for messages.
  std::vector<std::string> model_types() const;

  /// A cell of the table family x format. Holds: the format can hold the family. Otherwise `reason` names the field
  /// that it cannot hold.
  struct Cell {
    bool holds = false;
    std::string reason;
    /// Beginning of array names that a checkpoint may leave out throughout ("transformer." of GPT-2).
    std::string optional_prefix;
  };
  Cell cell(const std::string& family, const std::string& format) const;
  /// Rules of the cell. Errors (usage): the cell does not exist, with its reason.
  Expected<layout::Table> table(const std::string& family, const std::string& format) const;
  /// The table of a format without any rule: container, file names' settings, requirements.
  layout::Table empty_table(const std::string& format) const;
  /// The numbers that a format's code may set for the table's conditions, at their defaults.
  layout::Scope options(const std::string& format) const;
  /// The same for a source, which sets those that a glob stands for: does it hold an array of such a name?
  layout::Scope options(const std::string& format, const std::function<bool(const std::string& glob)>& is_stored) const;

 private:
  friend class Loader;
  struct Entry {
    Cell cell;
    layout::Table table;
  };
  std::map<std::string, nlohmann::ordered_json> families_, formats_;
  std::map<std::pair<std::string, std::string>, Entry> cells_;  // family, format
};

}  // namespace reshard::model
