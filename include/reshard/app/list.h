// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/base/dtype.h"
#include "reshard/model/library.h"

namespace reshard::app {

/// Which families each format holds.
struct FormatList {
  struct Cell {
    std::string family;
    bool holds = false;
    std::string reason;  ///< why not
  };
  struct Format {
    std::string name, about;
    bool built_in = false;  ///< known by code, so that sources are detected
    std::vector<Cell> cells;
  };
  std::vector<std::string> families;
  std::vector<Format> formats;
};

/// A model that synthetic: can stand for.
struct ModelLine {
  std::string name, family;
  Index parameters = 0;
  Index layers = 0;
};

struct DTypeLine {
  std::string name, torch;
  int bits = 0;
  bool castable = false;
};

FormatList list_formats(const model::Library& library);
Expected<std::vector<ModelLine>> list_models(const model::Library& library);
std::vector<DTypeLine> list_dtypes();

nlohmann::ordered_json to_json(const FormatList& list);
nlohmann::ordered_json to_json(const std::vector<ModelLine>& models);
nlohmann::ordered_json to_json(const std::vector<DTypeLine>& dtypes);

}  // namespace reshard::app
