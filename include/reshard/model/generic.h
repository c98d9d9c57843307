// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "reshard/base/dtype.h"
#include "reshard/base/expected.h"
#include "reshard/base/index.h"
#include "reshard/layout/canonical.h"
#include "reshard/layout/table.h"
#include "reshard/model/library.h"

namespace reshard::model {

/// An array that no family describes, as a source's directory has it.
struct NamedArray {
  std::string name;
  DType dtype = DType::bf16;
  Shape shape;
};

/// Canonical tensors of the family generic: one per array, of its name, with an axis per dimension. Axis names are
/// unique in the whole canon (a0.d0, a0.d1, a1.d0, ...), as extents go by name. Errors (input): a name with braces or
/// twice, more dimensions than a tensor can have, extents that overflow. Local.
Expected<std::shared_ptr<const layout::Canon>> make_generic_canon(const std::vector<NamedArray>& arrays);
/// Table of a format for these tensors: every array under its name, with its dtype. Errors (usage): the format cannot
/// hold arrays of any name. Local.
Expected<layout::Table> make_generic_table(const Library& library, const std::string& format,
                                           const std::vector<NamedArray>& arrays);

/// The same for arrays that travel beside a family's tensors (--passthrough): `canon` with a tensor per array behind
/// its own. Errors: as make_generic_canon, and an array with the name of a canonical tensor. Local.
Expected<std::shared_ptr<const layout::Canon>> add_passthrough(const layout::Canon& canon,
                                                               const std::vector<NamedArray>& arrays);
/// `table` with a rule per array behind its own. Errors (usage): the format cannot hold arrays of any name. Local.
Expected<layout::Table> add_passthrough(layout::Table table, const std::vector<NamedArray>& arrays);

}  // namespace reshard::model
