// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>

#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/format/format.h"

namespace reshard::app {

/// Is --include or --exclude given? Pure.
bool chooses(const Options& options);

/// Do --include and --exclude leave something of this name in? Pure.
bool is_chosen(const std::string& name, const Options& options);

/// Warns of each glob of an option that matches none of the names: a slip would go unnoticed otherwise. Rank 0 tells.
void tell_unmatched(const Context& context, const std::string& option, const std::vector<std::string>& globs,
                    const std::vector<std::string>& names);
/// Does so for --include, --exclude and --passthrough, and the stored arrays of the checkpoint of a command.
void tell_unmatched(const Context& context, const Options& options, const format::Checkpoint& checkpoint);

/// Two checkpoints to compare, perhaps in different formats.
struct Pair {
  format::Checkpoint a, b;
  /// Names of the lines to compare. Either checkpoint may hold more: what its format stores together with them.
  std::set<std::string> lines;
};

/// Opens options.src and `other`, which --from, --step, --config-from and --tokenizer-from do not describe. --include
/// and --exclude name lines ("attn.q[layer=3]") or stored arrays of either checkpoint; what no chosen line lies in is
/// not read, and may be missing. Errors: as open_checkpoint; (usage) nothing is left. Collective.
Expected<Pair> open_pair(Context& context, const std::string& other, const Options& options);

}  // namespace reshard::app
