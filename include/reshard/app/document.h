// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace reshard::app {

/// A JSON document as text, ending in a newline: lists and objects that hold no others on a line of their own, so that
/// people can read it and tables of many lines stay small. Pure.
std::string document_text(const nlohmann::ordered_json& document);

}  // namespace reshard::app
