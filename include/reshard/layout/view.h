// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::layout {

struct Alternative;

/// A factor of a dimension: an axis, or a sum of alternatives laid one after the other.
struct Factor {
  std::string axis;                       ///< empty for a sum
  std::vector<Alternative> alternatives;  ///< empty for an axis
};

/// One part of a sum. `tensor` says which canonical tensor fills it ("~": fill); empty: the rule's own.
struct Alternative {
  std::string tensor;
  std::vector<Factor> factors;  ///< none: one element
};

/// A dimension: a product of factors, outermost first.
using Dim = std::vector<Factor>;

/// The shape of a stored array as sums of products of named axes:
///   view := dim ...; dim := factor | "(" factor ... ")"; factor := axis | "[" alt "|" alt ... "]"; alt := [tensor ":"]
///   factor ...
struct View {
  std::vector<Dim> dims;
};

/// Errors: syntax, with the column. Local.
Expected<View> parse_view(std::string_view text);

inline constexpr std::string_view kFill = "~";

/// Where one canonical tensor lies in an array: element (i_a) of the axes below is at offset + sum i_a * stride_a.
struct Term {
  std::string tensor;  ///< kFill for padding
  struct Step {
    std::string axis;
    Index size;
    Index stride;
    int dim;  ///< dimension of the array that the axis belongs to
  };
  std::vector<Step> steps;  ///< in the order of the view
  Index offset = 0;
};

/// What a view means for given extents.
struct Expansion {
  Shape shape;
  std::vector<Term> terms;
};

/// Extent of an axis: the local one under axis sharding.
using Extent = std::function<Expected<Index>(const std::string& axis)>;

/// Lays the view out. `strides`, if given, are the strides of the array's dimensions in its storage (views of torch
/// storages); otherwise it is dense and row-major. `tensor` is the rule's own tensor, for parts that name none.
/// Errors: overflow, unknown axis (whatever `extent` returns). Local.
Expected<Expansion> expand(const View& view, const std::string& tensor, const Extent& extent,
                           const std::vector<Index>* strides = nullptr);

}  // namespace reshard::layout
