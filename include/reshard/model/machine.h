// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/base/expected.h"

namespace reshard::model {

/// Names of the descriptions in configs/machines, which are compiled in; sorted.
std::vector<std::string> machine_names();

/// The description of a machine: a compiled-in one by its name, or a file of the same form. Errors (usage), naming file
/// and key: no such name or file, with a guess; unreadable JSON; against configs/schema/machine.json. Local.
Expected<nlohmann::ordered_json> machine_description(const std::string& name_or_file);

}  // namespace reshard::model
