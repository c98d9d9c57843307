// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "reshard/io/settings.h"

namespace reshard::io {

/// Makes throttle and faults of transfer() follow `settings`, counts from zero.
void apply(const Settings& settings);

}  // namespace reshard::io
