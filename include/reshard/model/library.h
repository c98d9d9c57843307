// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/layout/table.h"

namespace reshard::model {

/// The tables of configs/: families of models and formats. Compiled in; a folder given by --config-dir adds to them, a
/// file of the same name replaces one. `extends` is resolved. Immutable after load.
class Library {
 public:
  /// `config_dir` may be empty. Errors (usage): unreadable JSON, a file against its schema, a rule that cannot be parsed, an
  /// axis that no rule covers, naming file and key.
  static Expected<Library> load(const std::string& config_dir);

  std::vector<std::string> families() const;
  std::vector<std::string> formats() const;
  bool has_family(const std::string& family) const;
  const nlohmann::json& family(const std::string& family) const;  ///< resolved arch file
  const nlohmann::json& format(const std::string& format) const;

  /// Family whose `model_types` has this, or "".
  std::string family_of_model_type(const std::string& model_type) const;

  /// A cell of the table family x format. Holds: the format can hold the family. Otherwise `reason` names the field that
  /// it cannot hold.
  struct Cell {
    bool holds = false;
    std::string reason;
  };
  Cell cell(const std::string& family, const std::string& format) const;
  /// Rules of the cell. Errors (usage): the cell does not exist, with its reason.
  Expected<layout::Table> table(const std::string& family, const std::string& format) const;

 private:
  std::map<std::string, nlohmann::json> families_, formats_;
};

}  // namespace reshard::model
