// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "configs.h"
#include "reshard/layout/expression.h"

namespace reshard::model {

/// Fills in the defaults of the declared fields, in the order of the family's file, and checks the types of all;
/// returns their numbers and sets. Errors (input): see complete(). Local.
Expected<layout::Scope> complete_fields(Json& fields, const Json& family);

}  // namespace reshard::model
