// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/base/index.h"

namespace reshard::app {

std::string host_name();

/// Largest resident size that this process ever had (VmHWM); 0 where the system does not tell. Local.
Index peak_rss_bytes();

}  // namespace reshard::app
