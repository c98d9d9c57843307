// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "reshard/app/convert.h"
#include "reshard/app/diff.h"
#include "reshard/app/digest.h"
#include "reshard/app/inspect.h"
#include "reshard/app/jobs.h"
#include "reshard/app/list.h"
#include "reshard/app/machine.h"
#include "reshard/app/plan_report.h"
#include "reshard/app/status.h"
#include "reshard/app/verify.h"

namespace reshard::cli {

/// Results for people, ending in a newline. Pure.
std::string describe(const app::InspectResult& result);
std::string describe(const app::PlanReport& report);
std::string describe(const app::ConvertResult& result);
std::string describe(const app::VerifyResult& result);
std::string describe(const app::StatusResult& result);
std::string describe(const app::JobList& list);  ///< a job a line
std::string describe(const app::DiffResult& result);
std::string describe(const app::DigestResult& result);
std::string describe(const app::FormatList& list);
std::string describe(const std::vector<app::ModelLine>& models);
std::string describe(const std::vector<app::DTypeLine>& dtypes);
std::string describe(const std::vector<app::MachineLine>& machines);

}  // namespace reshard::cli
