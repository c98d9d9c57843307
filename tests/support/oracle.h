// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "reshard/layout/layout.h"
#include "reshard/plan/plan.h"

namespace reshard::test {

/// What one element of a stored array is.
struct Element {
  int tensor = -1;              ///< -1: fill
  std::vector<Index> position;  ///< along the tensor's axes
};

/// Finds that by decoding the position of an element factor by factor: no strides, no boxes, no code shared with
/// src/layout but the parsed view.
class Decoder {
 public:
  /// For one array of a layout, which must outlive this. `options`: the numbers that the layout was predicted with.
  Decoder(const layout::Layout& layout, std::uint32_t array, const layout::Scope& options = {});
  Element at(Index element) const;

  /// Extents as seen by one mesh coordinate, and where they begin in the whole axes.
  struct Local {
    std::map<std::string, Index> size, begin;
  };

 private:
  struct Range {
    bool flat;
    std::size_t dim;
    Index begin;
    Shape before;
  };
  const layout::Layout& layout_;
  const layout::Array& array_;
  Local local_;
  std::vector<Range> ranges_;  // in the order of cutting
  Shape shape_;                // of the stored array
};

/// The value that every test puts at a canonical coordinate: 16 bits that depend on tensor and position.
std::uint16_t oracle_value(const layout::Canon& canon, const Element& element);

/// The bytes of one array (2-byte elements) as the oracle has them; fill is zero.
std::vector<std::byte> oracle_array(const layout::Layout& layout, std::uint32_t array);

/// Files of one side, in memory.
using Files = std::vector<std::vector<std::byte>>;

/// Puts the arrays of a layout one after the other into files, `per_file` arrays in each, with a header of `header`
/// bytes.
std::vector<plan::Place> place_arrays(const layout::Layout& layout, std::size_t per_file, Index header,
                                      std::vector<Index>& file_sizes);

/// Executes all rounds of all ranks in memory, one copy at a time, as the names of the parts say. Returns the target
/// files; counts what each rank moves; sums the digests of all ranks by line.
Files execute_naively(const plan::Plan& plan, const Files& sources, const std::vector<Index>& target_sizes,
                      std::vector<plan::Totals>& totals, std::vector<std::uint64_t>* digests = nullptr);

}  // namespace reshard::test
