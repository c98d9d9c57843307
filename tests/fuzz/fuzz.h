// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "reshard/container/container.h"
#include "tests/support/files.h"

/// What libFuzzer calls, and replay.cpp for every seed.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace reshard::test {

inline MemorySource source_of(const std::uint8_t* data, std::size_t size) {
  return MemorySource(std::string(reinterpret_cast<const char*>(data), size));
}

/// Ends the program, so that the fuzzer keeps the input.
inline void require(bool holds) {
  if (!holds) __builtin_trap();
}

/// Every entry lies in the file, with as many bytes as its strides reach.
inline void require_inside(const container::FileDirectory& directory, Index size) {
  for (const container::Entry& entry : directory.entries) {
    require(entry.offset >= 0 && entry.length >= 0 && entry.length <= size && entry.offset <= size - entry.length);
    require(num_elements(entry.shape).has_value());
    require(entry.strides.empty() || entry.strides.size() == entry.shape.size());
    if (is_sub_byte(entry.dtype)) continue;
    Index reach = *num_elements(entry.shape);
    if (!entry.strides.empty() && reach > 0) {
      reach = 1;
      for (std::size_t d = 0; d < entry.shape.size(); ++d) reach += (entry.shape[d] - 1) * entry.strides[d];
    }
    require(reach * bytes_of(entry.dtype) == entry.length);
  }
  for (const auto& check : directory.checks) {
    require(check.offset >= 0 && check.length <= size && check.offset <= size - check.length);
  }
}

}  // namespace reshard::test
