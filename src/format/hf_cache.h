// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "reshard/base/expected.h"

namespace reshard::format {

/// `org/name[@rev]`: a model on the Hugging Face hub.
struct HubName {
  std::string repo;
  std::string revision = "main";
};

/// Nothing if `text` cannot be such a name: it needs exactly one slash, and letters, digits, `-`, `_`, `.` around it.
std::optional<HubName> parse_hub_name(std::string_view text);

/// The cache folder: HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else
/// ~/.cache/huggingface/hub.
std::string hub_cache();

/// The command that fetches the model into the cache. Pure.
std::string fetch_command(const HubName& name);

/// Does a snapshot lack the blob behind a link, a file that an index names, or of config and weights one, as far as its
/// names tell? A .bin index does not count beside safetensors. Local.
bool is_partial(const std::string& snapshot);

/// Folder of the snapshot in the cache; nothing is downloaded. Errors (input): not there, with the command that fetches
/// it. Local.
Expected<std::string> find_snapshot(const HubName& name, const std::string& cache);

}  // namespace reshard::format
