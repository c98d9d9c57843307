// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "reshard/comm/comm.h"

namespace reshard::format {

/// Appends values to a compact byte string, for tables that travel between the ranks of one job.
class Packer {
 public:
  void number(Index value);
  void text(std::string_view value);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// Reads back what a Packer of the same program wrote.
class Unpacker {
 public:
  explicit Unpacker(std::string_view bytes) : bytes_(bytes) {}
  Index number();
  std::string text();
  bool done() const { return at_ == bytes_.size(); }

 private:
  std::string_view bytes_;
  std::size_t at_ = 0;
};

/// Calls `produce` on rank 0 and gives its result, value or error, to all. Collective.
Expected<std::string> from_root(comm::Comm& comm, const std::function<Expected<std::string>()>& produce);

}  // namespace reshard::format
