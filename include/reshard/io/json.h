// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::io {

/// Receives the tokens of a JSON text in order. A callback that returns false ends the walk; reject() does so with a
/// reason.
class JsonVisitor {
 public:
  virtual ~JsonVisitor() = default;
  virtual bool begin_object() { return true; }
  virtual bool key(std::string& /*name*/) { return true; }
  virtual bool end_object() { return true; }
  virtual bool begin_array() { return true; }
  virtual bool end_array() { return true; }
  virtual bool string(std::string& /*value*/) { return true; }
  virtual bool number(std::uint64_t /*value*/) {
    return true;
  }                                      ///< a non-negative integer without sign, point or exponent
  virtual bool other() { return true; }  ///< any other number, true, false, null

  const std::string& reason() const { return reason_; }

 protected:
  bool reject(std::string reason) {
    reason_ = std::move(reason);
    return false;
  }

 private:
  std::string reason_;
};

struct JsonLimits {
  int max_depth = 64;
  std::size_t max_string_bytes = 16 * kMiB;  ///< as written, escapes included
  Index first_byte = 0;                      ///< position of the text in its file, for messages
};

/// Walks a JSON text that nobody vouches for. Beyond the grammar it refuses: bytes that are no UTF-8, a byte-order
/// mark, NUL bytes, anything but white space behind the value, nesting beyond the limit, and an object with the same
/// key twice, escapes undone. Memory: 16 bytes per key of the objects that are open, and the longest string. Errors
/// (input): `path`, the byte and the reason. Local.
Status visit_json(std::string_view text, const std::string& path, const JsonLimits& limits, JsonVisitor& visitor);

/// Text from a file as part of a message: in quotes, one line, of bounded length.
std::string in_quotes(std::string_view text);

/// Parses a small JSON text (a configuration) as strictly as visit_json. Errors (input). Local.
Expected<nlohmann::json> parse_strict_json(std::string_view text, const std::string& path);

}  // namespace reshard::io
