// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "configs.h"
#include "names.h"
#include "reshard/layout/table.h"

namespace reshard::model {

/// The settings of a format as a table without rules. Pure.
layout::Table make_empty_table(const Json& format);

/// Joins the rules of a cell. `names` are those of the family and the format. Errors (usage): see Library::load, with
/// the array. Local.
Expected<layout::Table> make_table(const Json& family, const Json& format, const Json& cell, const Names& names);

/// The first tensor that every model of the family has and no rule of the table names; empty if there is none. Pure.
std::string find_homeless(const Json& family, const layout::Table& table);

}  // namespace reshard::model
