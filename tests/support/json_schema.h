// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace reshard::test {

/// What is wrong with `document` under the schema `name`.json of a folder: the first place and reason, or "" if all is
/// well. Knows the keywords that configs/schema/output uses; another one is reported.
std::string schema_error(const nlohmann::json& document, const std::string& folder, const std::string& name);

}  // namespace reshard::test
