// SPDX-License-Identifier: Apache-2.0
#include "reshard/layout/view.h"

#include <fmt/format.h>

#include <cctype>

namespace reshard::layout {
namespace {

constexpr int kMaxDepth = 8;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Expected<View> whole() {
    View view;
    while (!done()) {
      Dim dim;
      if (take('(')) {
        while (!take(')')) {
          RESHARD_TRY(Factor factor, this->factor());
          dim.push_back(std::move(factor));
        }
        if (dim.empty()) return fail("empty product");
      } else {
        RESHARD_TRY(Factor factor, this->factor());
        dim.push_back(std::move(factor));
      }
      view.dims.push_back(std::move(dim));
    }
    return view;
  }

 private:
  Error fail(const std::string& what) const {
    return usage_error(fmt::format("view '{}': {} at column {}", text_, what, at_ + 1));
  }
  void skip_space() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool done() {
    skip_space();
    return at_ >= text_.size();
  }
  bool take(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Expected<std::string> name() {
    skip_space();
    const std::size_t start = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '_' ||
                                  text_[at_] == '.' || text_[at_] == '~')) {
      ++at_;
    }
    if (at_ == start) return fail("expected a name");
    return std::string(text_.substr(start, at_ - start));
  }

  Expected<Factor> factor() {
    Factor factor;
    if (!take('[')) {
      RESHARD_TRY(factor.axis, name());
      return factor;
    }
    if (++depth_ > kMaxDepth) return fail("sums nested too deeply");
    while (true) {
      RESHARD_TRY(Alternative alternative, this->alternative());
      factor.alternatives.push_back(std::move(alternative));
      if (take(']')) break;
      if (!take('|')) return fail("expected '|' or ']'");
    }
    --depth_;
    return factor;
  }

  Expected<Alternative> alternative() {
    Alternative alternative;
    const std::size_t start = at_;
    if (!done() && text_[at_] != '|' && text_[at_] != ']' && text_[at_] != '[') {
      RESHARD_TRY(std::string tensor, name());
      if (take(':')) {
        alternative.tensor = std::move(tensor);
      } else {
        at_ = start;
      }
    }
    while (!done() && text_[at_] != '|' && text_[at_] != ']') {
      RESHARD_TRY(Factor factor, this->factor());
      alternative.factors.push_back(std::move(factor));
    }
    return alternative;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

Error overflow() { return usage_error("array extents overflow 64 bits"); }

/// A list of factors laid out: its size in steps of the unit below it, and the terms it splits into.
struct Laid {
  Index size = 1;
  std::vector<Term> terms;
};

/// Lays `factors` of dimension `dim` out, innermost last, on top of `unit` elements. `tensor` fills parts that name
/// none.
Expected<Laid> lay(const std::vector<Factor>& factors, const std::string& tensor, Index unit, int dim,
                   const Extent& extent) {
  Laid laid;
  laid.terms.push_back({tensor, {}, 0});
  for (auto factor = factors.rbegin(); factor != factors.rend(); ++factor) {
    const auto here = checked_mul(unit, laid.size);
    if (!here) return overflow();
    Index size = 0;
    if (!factor->axis.empty()) {
      RESHARD_TRY(size, extent(factor->axis));
      for (Term& term : laid.terms) term.steps.insert(term.steps.begin(), {factor->axis, size, *here, dim});
    } else {
      std::vector<Term> sum;
      for (const Alternative& alternative : factor->alternatives) {
        RESHARD_TRY(const Laid part, lay(alternative.factors, alternative.tensor.empty() ? tensor : alternative.tensor,
                                         *here, dim, extent));
        const auto offset = checked_mul(size, *here);
        if (!offset) return overflow();
        for (const Term& outer : part.terms) {
          for (const Term& inner : laid.terms) {
            Term both = outer;
            if (inner.tensor != tensor) both.tensor = inner.tensor;
            both.steps.insert(both.steps.end(), inner.steps.begin(), inner.steps.end());
            both.offset += inner.offset + *offset;
            sum.push_back(std::move(both));
          }
        }
        const auto grown = checked_add(size, part.size);
        if (!grown) return overflow();
        size = *grown;
      }
      laid.terms = std::move(sum);
    }
    const auto grown = checked_mul(laid.size, size);
    if (!grown) return overflow();
    laid.size = *grown;
  }
  return laid;
}

}  // namespace

Expected<View> parse_view(std::string_view text) { return Parser(text).whole(); }

Expected<Expansion> expand(const View& view, const std::string& tensor, const Extent& extent,
                           const std::vector<Index>* strides) {
  Expansion expansion;
  const std::size_t rank = view.dims.size();
  expansion.shape.assign(rank, 1);
  std::vector<std::vector<Term>> parts(rank);
  Index unit = 1;
  for (std::size_t d = rank; d-- > 0;) {
    const Index step = strides != nullptr ? (*strides)[d] : unit;
    RESHARD_TRY(Laid laid, lay(view.dims[d], tensor, step, static_cast<int>(d), extent));
    expansion.shape[d] = laid.size;
    parts[d] = std::move(laid.terms);
    const auto grown = checked_mul(unit, laid.size);
    if (!grown) return overflow();
    unit = *grown;
  }
  expansion.terms.push_back({tensor, {}, 0});
  for (std::size_t d = 0; d < rank; ++d) {
    std::vector<Term> combined;
    for (const Term& left : expansion.terms) {
      for (const Term& right : parts[d]) {
        Term both = left;
        if (right.tensor != tensor) both.tensor = right.tensor;
        both.steps.insert(both.steps.end(), right.steps.begin(), right.steps.end());
        both.offset += right.offset;
        combined.push_back(std::move(both));
      }
    }
    expansion.terms = std::move(combined);
  }
  return expansion;
}

}  // namespace reshard::layout
