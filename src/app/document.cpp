// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/document.h"

#include <algorithm>

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

/// An object whose lists hold plain values counts as a line of a table.
bool fits_a_line(const Json& value, bool in_object = false) {
  if (!value.is_structured()) return true;
  if (in_object && !value.is_array()) return false;
  return std::all_of(value.begin(), value.end(), [&](const Json& member) {
    return value.is_object() ? fits_a_line(member, true) : !member.is_structured();
  });
}

void append(const Json& value, std::size_t indent, std::string& out) {
  if (fits_a_line(value)) {
    out += value.dump();
    return;
  }
  const bool object = value.is_object();
  out += object ? '{' : '[';
  bool first = true;
  for (const auto& [key, member] : value.items()) {
    out += first ? "\n" : ",\n";
    first = false;
    out.append(indent + 2, ' ');
    if (object) out += Json(key).dump() + ": ";
    append(member, indent + 2, out);
  }
  out += '\n';
  out.append(indent, ' ');
  out += object ? '}' : ']';
}

}  // namespace

std::string document_text(const Json& document) {
  std::string out;
  append(document, 0, out);
  out += '\n';
  return out;
}

}  // namespace reshard::app
