// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::format {

/// Collects what is wrong with a checkpoint, so that one error tells all of it: the first few in words, the rest
/// counted.
class Differences {
 public:
  void add(std::string text);
  bool empty() const { return count_ == 0; }
  Index count() const { return count_; }
  /// An error (input) that begins with `where`, if there are differences; `all` says how to see those that are only
  /// counted.
  Status status(const std::string& where, const std::string& all = "") const;

 private:
  std::vector<std::string> told_;
  Index count_ = 0;
};

}  // namespace reshard::format
