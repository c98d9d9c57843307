// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>

#include "reshard/base/index.h"

namespace reshard::format {

/// What the side files of Meta and fairseq2 say in place of the size of a feed-forward layer.
struct FfnRule {
  double multiplier = 1;
  Index multiple_of = 256;
};

/// Meta's size: 4 * dim, two thirds of that, times the multiplier (each cut to an integer), rounded up. Nothing where
/// the numbers are no sizes. Pure.
std::optional<Index> meta_ffn_size(Index dim, const FfnRule& rule);

/// A rule by which `size_of` gives `size`: that of a released model where one fits, else one without a multiplier, else
/// the largest power of two with the multiplier that `size` needs. Nothing if none gives it. Pure.
std::optional<FfnRule> find_ffn_rule(Index dim, Index size,
                                     const std::function<std::optional<Index>(const FfnRule&)>& size_of);

}  // namespace reshard::format
