// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/base/index.h"

namespace reshard::app {

/// What the scheduler calls this job ("1234", "1234_7" for a task of an array); empty without one. Local.
std::string scheduler_job();

/// Largest resident size that this process ever had (VmHWM); 0 where the system does not tell. Local.
Index peak_rss_bytes();

}  // namespace reshard::app
