// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/io/file.h"
#include "reshard/layout/layout.h"
#include "reshard/layout/strided.h"

namespace reshard::format {

/// The synthetic value of element `index` of the line called `line_name`, as the bits of a bfloat16: a normal number
/// with magnitude in [2^-7, 2), from a hash of both. It is also exact in f16, f32 and f64, so that a cast loses
/// nothing. Pure.
std::uint16_t synthetic_bf16(std::string_view line_name, Index index);

/// Fills arrays of any layout with synthetic values: the same real value for the same canonical element everywhere (for
/// dtypes that hold it; others get bits of the hash, finite for fp8). Padding is zero. Thread-safe.
class Generator {
 public:
  explicit Generator(std::shared_ptr<const layout::Layout> layout);

  /// Elements [begin, end) of array `array` (in row-major order), of the array's dtype; sub-byte dtypes in whole bytes,
  /// which then are the elements. `into` holds exactly these. Local.
  void fill(std::uint32_t array, Index begin, Index end, std::span<std::byte> into) const;

  const layout::Layout& layout() const { return *layout_; }

 private:
  struct Part {  // of an array, inside one line
    std::uint64_t seed;
    layout::StridedCopy place;  // dst: elements of the array
  };

  std::shared_ptr<const layout::Layout> layout_;
  std::vector<std::vector<Part>> parts_;  // of each array
};

/// An array's place in a file.
struct SyntheticExtent {
  std::uint32_t array;
  Index offset;  ///< bytes
  Index length;
};

/// A file that exists only as what `generator` makes of its extents; all other bytes are zero. Thread-safe.
std::unique_ptr<io::Source> make_synthetic_source(std::shared_ptr<const Generator> generator,
                                                  std::vector<SyntheticExtent> extents, Index size);

}  // namespace reshard::format
