// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/plan/prediction.h"

namespace reshard::app {

/// The machine of --machine: a name of configs/machines, or a file. Errors (usage), naming file and key: as
/// model::machine_description; a rate of 0; GPUs without the figures that they need. Local.
Expected<plan::Machine> find_machine(const std::string& name_or_file);

/// A machine that --machine knows by name.
struct MachineLine {
  std::string name, about;
  plan::Machine machine;
};

Expected<std::vector<MachineLine>> list_machines();

nlohmann::ordered_json to_json(const plan::Prediction& prediction);
nlohmann::ordered_json to_json(const std::vector<MachineLine>& machines);

}  // namespace reshard::app
