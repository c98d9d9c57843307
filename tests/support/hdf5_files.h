// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "reshard/container/container.h"

namespace reshard::test {

/// The byte that write_archive puts at `byte` of the data of item `item`.
inline char data_byte(std::size_t item, Index byte) {
  return static_cast<char>(static_cast<Index>(item) * 31 + byte * 7 + 1);
}

/// Lays an archive out, writes it as a job would (data and segments, then the finishing segments in order) and says how
/// it lies. Throws on errors. With `with_finish` false the job dies in time.
container::FileImage write_archive(const container::FileSpec& spec, const std::vector<std::string>& digests,
                                   const std::string& path, bool with_finish = true);

}  // namespace reshard::test
