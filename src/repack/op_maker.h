// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "reshard/repack/op_table.h"

namespace reshard::repack {

/// Requires 0 < divisor < 2^32. Pure.
Divider make_divider(Index divisor);

/// Appends the ops of one copy; what it counts goes to digest number `digest`. A copy becomes one op, or several where
/// its ends are not aligned as its middle is. Pure.
void append_ops(const plan::Copy& copy, std::uint32_t digest, std::vector<Op>& ops);

/// Appends the ops that fill `length` bytes of the output slot with zeros. Pure.
void append_zeros(Index slot_offset, Index length, std::vector<Op>& ops);

}  // namespace reshard::repack
