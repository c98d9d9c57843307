// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace reshard::app {

/// A JSON document as text, ending in a newline: lists and objects that hold no others on a line of their own, so that
/// people can read it and tables of many lines stay small. Pure.
std::string document_text(const nlohmann::ordered_json& document);

/// A list for a document that has its text already, a line with a JSON value for each member: tens of thousands of
/// lines cost more as values than all else that a command says. For document_text alone: to all others it is a binary
/// value. Pure.
nlohmann::ordered_json make_table(std::string_view lines);
/// Appends a text as a JSON string. Pure.
void append_string(std::string_view text, std::string& out);

}  // namespace reshard::app
