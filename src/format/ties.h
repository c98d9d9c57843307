// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>

#include "reshard/format/format.h"

namespace reshard::format {

/// Settles whether arrays are tied, where the table knows other names for an array (alias rules) and both are stored:
/// if the side files say so, or do not say (Probe::ties_unknown), the data are asked. Names of equal content join
/// `dropped`; otherwise the model becomes untied. What is not as the side files say is noted, and the bytes read are
/// counted; two names of one extent cost nothing. Errors (input). Collective.
Status settle_ties(const layout::Table& table, io::Follow follow, comm::Comm& comm, Probe& probe,
                   std::set<std::uint32_t>& dropped);

}  // namespace reshard::format
