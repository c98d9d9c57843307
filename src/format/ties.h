// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>

#include "reshard/format/format.h"

namespace reshard::format {

/// Asks the data where the config says that the head is tied to the embedding and a head is stored as well: an equal
/// one joins `dropped`, a different one makes the model untied. Either is noted, and the bytes read are counted. Errors
/// (input). Collective.
Status settle_ties(const layout::Table& table, io::Follow follow, comm::Comm& comm, Probe& probe,
                   std::set<std::uint32_t>& dropped);

}  // namespace reshard::format
