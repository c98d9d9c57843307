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
  std::vector<Index> layer_stage;           ///< stage of each layer
  std::map<std::string, Index> slot_stage;  ///< stage of each named slot
};

/// Layers in equal runs (the first ones one longer), slot "embed" first, every other slot last.
Placement place_evenly(Index layers, Index stages);

/// A stored array as a layout predicts it. Byte extents are not the layout's business: containers give them.
struct Array {
  std::uint32_t rule = 0;                ///< of the table
  std::uint32_t cut = 0;                 ///< Layout::cut
  std::int32_t layer = -1, expert = -1;  ///< values of the axes that its name fixes
  DType dtype = DType::bf16;
};

/// An array that holds no weight of its own: another name for an array (tied weights), or a buffer of known content.
/// Written where the container has a place for it, not missed where it is absent.
struct Extra {
  Array array;
  std::size_t before = 0;     ///< array of the layout that follows it in writing order
  std::int64_t repeats = -1;  ///< array whose content it has; -1 for a buffer
};

/// How one mesh coordinate of one rule cuts its arrays: the same for all layers and experts.
struct Cut {
  std::vector<Index> coords;  ///< one per mesh dim of the table; 0 where the dim does not tell these arrays apart
  Shape shape;                ///< of the stored array
  Shape whole;                ///< of the uncut array
  /// Part of the stored array along `dim` and where it begins in the uncut one; several where a sum is cut part by
  /// part.
  struct Slice {
    Index begin, end, whole_begin;
  };
  int dim = -1;  ///< the (first) cut dimension; -1: the whole array is stored
  std::vector<Slice> slices;
};

/// Axes of one tensor that neither side of a conversion separates, fused into one. `first[k]` is the canonical axis
/// that fused axis k starts at.
struct Fusion {
  std::vector<int> first;
};

inline constexpr int kMaxAxes = 8;

/// A box of a canonical tensor (over fused axes) and where it lies in a stored array.
struct Piece {
  std::uint32_t array = 0;
  bool replica = false;  ///< another mesh coordinate holds the same elements and comes first
  int rank = 0;
  Index begin[kMaxAxes] = {};
  Index size[kMaxAxes] = {};
  Index stride[kMaxAxes] = {};
  Index offset = 0;  ///< elements
};

/// All pieces of one checkpoint, kept as rules and cuts and spelt out tensor by tensor: the layout of a million arrays
/// is a few tens of megabytes. Immutable but for dtypes and strides of its arrays.
class Layout {
 public:
  /// Predicts the arrays of a checkpoint, in writing order. `options` adds numbers to the scope of the table's
  /// conditions. A rule whose tensors the model does not have is left out. Pure. Errors (usage): a requirement that
  /// fails, an extent that does not divide, a tensor that the table has no place for, an axis that a rule does not
  /// cover, a mesh dim that the format does not know. Local.
  static Expected<Layout> predict(std::shared_ptr<const Canon> canon, Table table, const Mesh& mesh,
                                  Placement placement, DType dtype, const Scope& options);

  const Canon& canon() const { return *canon_; }
  const Table& table() const { return table_; }
  const Mesh& mesh() const { return mesh_; }
  const Placement& placement() const { return placement_; }
  const std::vector<Array>& arrays() const { return arrays_; }
  void set_dtype(std::uint32_t array, DType dtype) { arrays_[array].dtype = dtype; }
  /// The array is not dense: strides of its dimensions in its storage, in elements, not negative (a view that was
  /// saved). Sources only.
  void set_strides(std::uint32_t array, const std::vector<Index>& strides);
  const std::vector<Extra>& extras() const { return extras_; }  ///< in writing order

  const ArrayRule& rule(const Array& array) const { return table_.rules[array.rule]; }
  const Cut& cut(const Array& array) const { return rules_[array.rule].cuts[array.cut].cut; }
  const Shape& shape(const Array& array) const { return cut(array).shape; }
  /// Elements of the storage from the array's first to behind its last one: what it would hold if it were dense.
  Index reach(const Array& array) const;
  std::string name(const Array& array) const;   ///< logical name: the same for all shards
  std::string file(const Array& array) const;   ///< relative path; empty: the container's writer decides
  std::string entry(const Array& array) const;  ///< name inside the file
  /// Canonical tensors that (parts of) the array hold, without fill.
  const std::vector<std::uint32_t>& tensors(const Array& array) const { return rules_[array.rule].tensors; }

  /// May canonical axes k and k + 1 of `tensor` be fused as far as this layout goes?
  std::vector<bool> fusable(std::uint32_t tensor) const;
  /// Puts all pieces of `tensor` into `pieces`, rule by rule. The buffer is the caller's, to be used again.
  void pieces(std::uint32_t tensor, const Fusion& fusion, std::vector<Piece>& pieces) const;
  /// Fill (padding) elements of one array; begin is not used.
  std::vector<Piece> fills(std::uint32_t array) const;

 private:
  struct CutTerm {    // one part of the stored array, before dims and flat ranges are cut
    int tensor = -1;  // -1: fill
    bool replica = false;
    struct Step {
      int axis;  // of the canonical tensor; -1 in fill
      Index begin, size, stride;
    };
    std::vector<Step> steps;
    Index offset = 0;
  };
  struct RangeCut {  // keep positions [low, high) of each block of `modulus` elements
    Index modulus, low, high;
  };
  struct CutData {
    Cut cut;
    std::vector<CutTerm> terms;
    std::vector<RangeCut> ranges;
    std::vector<Index> strides;  // of the stored dimensions; empty: dense
  };
  struct RuleData {
    std::vector<std::uint32_t> tensors;
    int beside = -1;  // the tensor that an array of zeros alone stands beside
    std::vector<CutData> cuts;
    std::vector<std::uint32_t> arrays;
    std::vector<int> cut_dims;  // dims that dim shards cut
    std::vector<std::string> sharded_axes;
    bool fixes_layer = false, fixes_expert = false;
  };

  Status prepare_rule(std::uint32_t rule);
  Expected<CutData> make_cut(const ArrayRule& rule, const std::vector<Index>& coords) const;
  Status find_repeated();
  /// `here`: the layout's scope, to be written to.
  Status enumerate(std::uint32_t first, std::uint32_t last, std::int32_t layer, std::int32_t expert, DType dtype,
                   Scope& here);
  std::string filled(const std::string& pattern, const Array& array) const;
  static void cut_ranges(const std::vector<RangeCut>& ranges, std::vector<Piece>& pieces);
  static void stretch(const CutData& cut, std::vector<Piece>& pieces);
  std::vector<Piece> fused_pieces(const CutData& cut, std::uint32_t tensor, const Fusion& fusion) const;

  std::shared_ptr<const Canon> canon_;
  Table table_;
  Mesh mesh_;
  Placement placement_;
  Scope scope_;                    // canon's numbers, options, table's numbers, mesh sizes
  std::vector<Index> mesh_sizes_;  // of table_.mesh_dims
  std::vector<RuleData> rules_;
  std::vector<Array> arrays_;
  std::vector<Extra> extras_;
};

}  // namespace reshard::layout
