// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "reshard/plan/operations.h"
#include "reshard/plan/plan.h"

namespace reshard::plan {

/// Bytes [begin, end) of a file.
struct Range {
  std::uint32_t file;
  Index begin, end;
  Index size() const { return end - begin; }
};

/// Which arrays lie where in the files of one side, by rising offset.
class FileMap {
 public:
  struct Stored {
    std::uint32_t transfer, array;
    Index begin, end;  ///< bytes
    Index end_so_far;  ///< largest end of this one and those before it, which may reach over it in a source
    Index element;     ///< bytes of one
  };

  enum class Side { source, target };
  FileMap() = default;
  /// Errors (usage): a sub-byte dtype, arrays that overlap in a target.
  static Expected<FileMap> make(std::span<const Transfer> transfers, Side side);

  /// Arrays that share a byte with the range; of a source, some beside it too.
  std::span<const Stored> touching(const Range& range) const;
  std::span<const Stored> in_file(std::uint32_t file) const;
  /// The largest position <= `at` that does not split an element.
  Index snap(std::uint32_t file, Index at) const;
  Index memory_bytes() const { return static_cast<Index>(stored_.capacity() * sizeof(Stored)); }

 private:
  std::vector<Stored> stored_;
  std::vector<std::size_t> first_;  // per file, and the total
};

}  // namespace reshard::plan
