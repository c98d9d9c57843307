// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "reshard/base/expected.h"

namespace reshard::container {

/// Runs `work` in a child process and gives what it returns: whatever it does to memory stays there. For libraries that
/// crash on damaged files. The child has bounds on memory and time, may not use threads or MPI, and prints nothing.
/// Errors (input): it died, and how. Local.
Expected<std::string> run_in_child(const std::function<std::string()>& work);

/// Takes numbers and texts off the front of some bytes; once they run out, zeros.
class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : rest_(bytes) {}
  bool is_at_end() const { return rest_.empty(); }
  bool ran_out() const { return ran_out_; }
  std::string_view rest() const { return rest_; }

  std::string_view take(std::uint64_t num_bytes) {
    if (num_bytes > rest_.size()) {
      ran_out_ = true;
      rest_ = {};
      return {};
    }
    const auto taken = rest_.substr(0, num_bytes);
    rest_.remove_prefix(num_bytes);
    return taken;
  }
  /// Little-endian.
  std::uint64_t number(std::size_t num_bytes) {
    std::uint64_t value = 0;
    const auto bytes = take(num_bytes);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      value |= std::uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
    return value;
  }

 private:
  std::string_view rest_;
  bool ran_out_ = false;
};

}  // namespace reshard::container
