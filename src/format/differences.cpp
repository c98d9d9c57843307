// SPDX-License-Identifier: Apache-2.0
#include "differences.h"

#include <fmt/format.h>

#include "reshard/base/text.h"

namespace reshard::format {

namespace {

constexpr std::size_t kTold = 5;

}  // namespace

void Differences::add(std::string text) {
  if (told_.size() < kTold) told_.push_back(std::move(text));
  ++count_;
}

Status Differences::status(const std::string& where, const std::string& all) const {
  if (empty()) return {};
  const Index rest = count_ - static_cast<Index>(told_.size());
  return input_error(where + ": " + join(told_, "; ") + (rest > 0 ? fmt::format("; and {} more", rest) + all : ""));
}

}  // namespace reshard::format
