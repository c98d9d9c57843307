// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "reshard/comm/comm.h"

namespace reshard::test {

/// Checks every promise of comm::Comm but abort, with gtest expectations. Collective.
void check_comm(comm::Comm& comm);

}  // namespace reshard::test
