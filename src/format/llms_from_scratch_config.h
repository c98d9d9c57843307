// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/format/format.h"

namespace reshard::format {

/// The same as a Hugging Face config.json, from the config dictionary of one of the book's models, whose kind the
/// weights tell. Errors (input): fields that are missing, of a wrong type, or that no family has. What had to be
/// assumed becomes notes. Pure.
Expected<nlohmann::json> read_book_config(const nlohmann::json& config, const Directory& directory,
                                          const std::string& path, std::vector<std::string>& notes);

/// The config dictionary of the book's class for the model, as JSON. Fields of the model that have no place become
/// notes. Pure.
std::string write_book_config(const model::Spec& spec, std::vector<std::string>& notes);

}  // namespace reshard::format
