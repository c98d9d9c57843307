// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>

#include "reshard/format/format.h"

namespace reshard::format {

/// Do two entries hold the same array? Reads them, as far as they are equal, unless they are one extent; `bytes_read`
/// grows by what all ranks read. Errors (input). Collective.
Expected<bool> is_equal(const Directory& directory, const Directory::Entry& a, const Directory::Entry& b,
                        io::Follow follow, comm::Comm& comm, Index& bytes_read);

/// Settles whether arrays are tied, where the table knows other names for an array (alias rules) and both are stored:
/// if the side files say so, or do not say (Probe::ties_unknown), the data are asked. Names of equal content join
/// `dropped`; otherwise the model becomes untied. What is not as the side files say is noted, and the bytes read are
/// counted; two names of one extent cost nothing. Errors (input). Collective.
Status settle_ties(const layout::Table& table, io::Follow follow, comm::Comm& comm, Probe& probe,
                   std::set<std::uint32_t>& dropped);

}  // namespace reshard::format
