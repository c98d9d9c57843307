// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "reshard/plan/round.h"

namespace reshard::repack {

/// Executes one copy between two buffers on the CPU: `src`, `dst` point at the slots, the copy's byte positions are
/// added. If `copy.line` is set, the digest of the values as stored at the destination is added to `*digest` (modulo
/// 2^64). Casts (bf16, f16, f32): round to nearest even by integer rules; NaN keeps its sign and top payload bits with
/// the quiet bit set; infinities stay. Other dtypes are copied as bits. Loops may come in any order; no two elements
/// share a destination. Sub-byte types are copied in whole bytes: their one loop of stride 1 covers whole bytes and all
/// other strides are whole bytes, on every side; the digest is over bytes. Local, thread-safe.
void run(const plan::Copy& copy, const std::byte* src, std::byte* dst, std::uint64_t* digest);

/// Cuts a copy along one loop into at most `parts` copies of nearly the same size that together do the same; their
/// digests add up. Pure.
std::vector<plan::Copy> split(const plan::Copy& copy, int parts);

/// Bytes that a copy moves, counted at its destination.
Index moved_bytes(const plan::Copy& copy);

}  // namespace reshard::repack
