// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>

#include "reshard/base/index.h"
#include "reshard/model/spec.h"

namespace reshard::format {

/// What the side files of Meta and fairseq2 say in place of the size of a feed-forward layer.
struct FfnRule {
  double multiplier = 1;
  Index multiple_of = 256;
};

/// Meta's size: 4 * dim, two thirds of that, times the multiplier (each cut to an integer), rounded up. Nothing where
/// the numbers are no sizes. Pure.
std::optional<Index> meta_ffn_size(Index dim, const FfnRule& rule);

/// fairseq2's: `inner` times the multiplier, times `scale`, rounded up. It multiplies before it takes two thirds, which
/// may make a difference of one before rounding. Pure.
std::optional<Index> fairseq2_ffn_size(Index inner, double scale, const FfnRule& rule);

/// A rule by which `size_of` gives `size`: that of a released model where one fits, else one without a multiplier, else
/// the largest power of two with the multiplier that `size` needs. Nothing if none gives it. Pure.
std::optional<FfnRule> find_ffn_rule(Index dim, Index size,
                                     const std::function<std::optional<Index>(const FfnRule&)>& size_of);

/// The same for a model, whose source may have said it in its own way (keep_ffn_rule). Pure.
std::optional<FfnRule> find_ffn_rule(const model::Spec& spec,
                                     const std::function<std::optional<Index>(const FfnRule&)>& size_of);
void keep_ffn_rule(const FfnRule& rule, model::Spec& spec);

}  // namespace reshard::format
