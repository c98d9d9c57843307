// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace reshard::app {

/// 64-bit FNV-1a over texts, each with an end: tells contents apart, guards against nobody.
class Fingerprint {
 public:
  void add(std::string_view text) {
    for (const char c : text) add(static_cast<unsigned char>(c));
    add(0xFF);
  }
  std::uint64_t value() const { return hash_; }

 private:
  void add(unsigned char byte) { hash_ = (hash_ ^ byte) * 1099511628211u; }

  std::uint64_t hash_ = 14695981039346656037u;
};

}  // namespace reshard::app
