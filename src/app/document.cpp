// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/document.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

/// No list or object, nor the table that stands for a list.
bool is_plain(const Json& value) { return !value.is_structured() && !value.is_binary(); }

/// An object whose lists hold plain values counts as a line of a table.
bool fits_a_line(const Json& value, bool in_object = false) {
  if (!value.is_structured()) return is_plain(value);
  if (in_object && !value.is_array()) return false;
  return std::all_of(value.begin(), value.end(), [&](const Json& member) {
    return value.is_object() ? fits_a_line(member, true) : is_plain(member);
  });
}

/// What value.dump() gives, without a serializer per value: tables have tens of thousands of lines.
void append_line(const Json& value, std::string& out) {
  const char* between = "";
  if (const auto* object = value.get_ptr<const Json::object_t*>()) {
    out += '{';
    for (const auto& [key, member] : *object) {
      out += std::exchange(between, ",");
      append_string(key, out);
      out += ':';
      append_line(member, out);
    }
    out += '}';
  } else if (const auto* list = value.get_ptr<const Json::array_t*>()) {
    out += '[';
    for (const Json& member : *list) {
      out += std::exchange(between, ",");
      append_line(member, out);
    }
    out += ']';
  } else if (const auto* text = value.get_ptr<const std::string*>()) {
    append_string(*text, out);
  } else if (value.is_number_integer()) {
    out += value.is_number_unsigned() ? std::to_string(value.get<std::uint64_t>())
                                      : std::to_string(value.get<std::int64_t>());
  } else {
    out += value.dump();
  }
}

void append(const Json& value, std::size_t indent, std::string& out) {
  if (fits_a_line(value)) {
    append_line(value, out);
    return;
  }
  const bool object = value.is_object();
  out += object ? '{' : '[';
  const char* between = "\n";
  const auto begin_line = [&] {
    out += std::exchange(between, ",\n");
    out.append(indent + 2, ' ');
  };
  if (const auto* table = value.get_ptr<const Json::binary_t*>()) {
    for (auto at = table->begin(); at != table->end();) {
      const auto end = std::find(at, table->end(), '\n');
      begin_line();
      out.append(at, end);
      at = end == table->end() ? end : end + 1;
    }
  } else {
    for (const auto& [key, member] : value.items()) {
      begin_line();
      if (object) {
        append_string(key, out);
        out += ": ";
      }
      append(member, indent + 2, out);
    }
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

Json make_table(std::string_view lines) {
  if (lines.empty()) return Json::array();
  return Json::binary({lines.begin(), lines.end()});
}

void append_string(std::string_view text, std::string& out) {
  const auto is_plain = [](unsigned char c) { return c >= ' ' && c < 0x7f && c != '"' && c != '\\'; };
  if (!std::all_of(text.begin(), text.end(), is_plain)) {
    out += Json(text).dump();
    return;
  }
  out += '"';
  out += text;
  out += '"';
}

}  // namespace reshard::app
