// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "reshard/base/dtype.h"
#include "reshard/base/expected.h"
#include "reshard/base/index.h"
#include "reshard/model/spec.h"

namespace reshard::format {

/// Content of an array that holds no weight but what a model's code computes, as the tables' key "buffer" names it:
///   causal_mask           [n, n], ones above the diagonal
///   rope_cos, rope_sin    [positions, head_dim], of the angles position * frequency, each frequency in both halves
///   rope_freqs            [head_dim / 2], the rotary frequencies without scaling
/// Computed as torch does it, in 32-bit floats. Errors (usage): no such name, a shape that does not fit, more than
/// 256 MiB, another dtype than F32 (rope_freqs: bf16 too). Pure.
Expected<std::shared_ptr<const std::string>> make_buffer(const std::string& name, const model::Spec& spec,
                                                         const Shape& shape, DType dtype);

}  // namespace reshard::format
