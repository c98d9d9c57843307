// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "reshard/base/index.h"

namespace reshard {

/// 64-bit FNV-1a, step by step: tells contents apart, guards against nobody.
class Hasher {
 public:
  /// One step. FNV-1a takes a byte at each; a whole word is good enough for tables in memory, and quicker.
  void step(std::uint64_t value) { hash_ = (hash_ ^ value) * 1099511628211u; }
  void bytes(std::string_view bytes) {
    for (const char byte : bytes) step(static_cast<unsigned char>(byte));
  }
  /// Eight bytes, the lowest first.
  void word(std::uint64_t word) {
    for (int byte = 0; byte < 8; ++byte, word >>= 8) step(word & 0xFF);
  }
  void word(Index value) { word(static_cast<std::uint64_t>(value)); }
  /// Bytes and an end that UTF-8 has nowhere, so that texts in a row are told apart.
  void text(std::string_view text) {
    bytes(text);
    step(0xFF);
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 14695981039346656037u;
};

}  // namespace reshard
