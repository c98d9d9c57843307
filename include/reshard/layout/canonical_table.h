// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "reshard/layout/canonical.h"
#include "reshard/layout/table.h"

namespace reshard::layout {

/// A layout without a format: each line of each canonical tensor is an array of its own, row-major in canonical order.
/// What digest, verify and diff convert to, and the order in which synthetic values are counted. Pure.
Table canonical_table(const Canon& canon);

}  // namespace reshard::layout
