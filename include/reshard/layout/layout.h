// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "reshard/base/dtype.h"
#include "reshard/base/expected.h"
#include "reshard/layout/canonical.h"
#include "reshard/layout/table.h"

namespace reshard::layout {

/// Sizes of a checkpoint's mesh. A format ignores the dims that it does not know.
struct Mesh {
  Index tp = 1, pp = 1, ep = 1, dp = 1;
  bool operator==(const Mesh&) const = default;
};

/// Which pipeline stage holds what.
struct Placement {
  std::vector<Index> layer_stage;            ///< stage of each layer
  std::map<std::string, Index> slot_stage;   ///< stage of each named slot
};

/// Layers in equal runs (the first ones one longer), slot "embed" first, every other slot last.
Placement place_evenly(Index layers, Index stages);

/// A stored array as a layout predicts it. Byte extents are not the layout's business: containers give them.
struct Array {
  std::uint32_t rule = 0;   ///< of the table
  std::uint32_t cut = 0;    ///< Layout::cut
  std::int32_t layer = -1, expert = -1;  ///< values of the axes that its name fixes
  DType dtype = DType::bf16;
};

/// How one mesh coordinate of one rule cuts its arrays: the same for all layers.
struct Cut {
  std::vector<Index> coords;  ///< one per mesh dim of the table
  Shape shape;                ///< of the stored array
  Shape whole;                ///< of the uncut array
  /// Part of the stored array along `dim` and where it lies in the uncut one; several where a sum is cut part by part.
  struct Slice {
    Index begin, end, whole_begin;
  };
  int dim = -1;               ///< the cut dimension, -1: none
  std::vector<Slice> slices;
  bool first_replica = true;  ///< false: another coordinate holds the same elements
};

/// Axes of one tensor that neither side of a conversion separates, fused into one. `first[k]` is the canonical axis that
/// fused axis k starts at.
struct Fusion {
  std::vector<int> first;
};

inline constexpr int kMaxAxes = 8;

/// A box of a canonical tensor (over fused axes) and where it lies in a stored array.
struct Piece {
  std::uint32_t array = 0;
  bool replica = false;
  int rank = 0;
  Index begin[kMaxAxes];
  Index size[kMaxAxes];
  Index stride[kMaxAxes];
  Index offset = 0;  ///< elements
};

/// All pieces of one checkpoint, kept as rules and cuts and spelt out tensor by tensor: a layout of a million arrays is a
/// few megabytes.
class Layout {
 public:
  /// Predicts the arrays of a checkpoint. Pure. Errors (usage): a requirement that fails, an extent that does not divide,
  /// a tensor that the table cannot hold, an axis that a rule does not cover.
  static Expected<Layout> predict(const Canon& canon, const Table& table, const Mesh& mesh, const Placement& placement,
                                  DType dtype, const Scope& options);

  const Canon& canon() const { return *canon_; }
  const Table& table() const { return table_; }
  const Mesh& mesh() const { return mesh_; }
  const std::vector<Array>& arrays() const { return arrays_; }
  std::vector<Array>& arrays() { return arrays_; }

  const ArrayRule& rule(const Array& array) const { return table_.rules[array.rule]; }
  const Cut& cut(const Array& array) const { return cuts_[array.rule][array.cut]; }
  const Shape& shape(const Array& array) const { return cut(array).shape; }
  std::string name(const Array& array) const;   ///< logical name: the same for all shards
  std::string file(const Array& array) const;   ///< relative path; empty: the container's writer decides
  std::string entry(const Array& array) const;  ///< name inside the file

  /// Axes that this layout keeps separate in `tensor`: may canonical axes k and k + 1 be fused?
  std::vector<bool> fusable(std::uint32_t tensor) const;
  /// All pieces of `tensor`, in array order.
  Expected<std::vector<Piece>> pieces(std::uint32_t tensor, const Fusion& fusion) const;
  /// Does any array hold (part of) `tensor`?
  bool holds(std::uint32_t tensor) const;
  /// Fill elements of one array, as pieces over no axis of any tensor.
  Expected<std::vector<Piece>> fills(const Array& array) const;
};

}  // namespace reshard::layout
