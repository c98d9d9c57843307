// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/layout/layout.h"
#include "reshard/model/spec.h"

namespace reshard::format {

/// The pipeline placement that a table names: "" in equal runs of layers, "nanotron_cost" by the cost of each block.
/// (`options` says how the vocabulary is padded). There are as many layers as the canonical axis `layer` is long.
/// Errors (usage): another name. Pure.
Expected<layout::Placement> place(const std::string& name, const model::Spec& spec, const layout::Canon& canon,
                                  const layout::Mesh& mesh, const layout::Scope& options);

}  // namespace reshard::format
