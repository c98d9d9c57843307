// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "reshard/format/format.h"

namespace reshard::format {

/// Checks that arrays hold zeros where the table says so (`zeros`: globs, and what the config then says): those of
/// `entries` that a glob matches. They are not converted, so that any other value would be lost. The bytes read are
/// counted. Errors (input). Collective.
Status check_zeros(const std::map<std::string, std::string>& zeros, const std::vector<std::uint32_t>& entries,
                   io::Follow follow, comm::Comm& comm, Probe& probe);

}  // namespace reshard::format
