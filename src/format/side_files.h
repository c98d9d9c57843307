// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reshard/format/format.h"
#include "wire.h"

namespace reshard::format {

/// Files that belong to a model whatever its weights look like: generation config, tokenizer, licence, remote code, ...
bool is_carried(const std::string& path);
bool is_tokenizer(const std::string& path);
bool has_tokenizer(const std::vector<Sidecar>& carried);

inline constexpr const char* kOwn = "own";  ///< role of a config that --config-from replaces

/// Folder and name in it of the config that --config-from names for a source of `format`: the file itself, or in a
/// folder the first of `names` that is there. Errors (input): a folder that has none of them. Local.
Expected<std::pair<std::string, std::string>> place_of_config(const std::string& config_from, std::string_view format,
                                                              const std::vector<std::string>& names);

/// What rank 0 found beside the weights; the same on all ranks once it has travelled.
struct SideFiles {
  std::string root;                          ///< folder, or the file itself for one-file formats
  std::vector<std::string> weights;          ///< relative paths of files with tensors
  std::map<std::string, std::string> texts;  ///< small files that were read, by their role ("config", "index")
  std::map<std::string, std::string> paths;  ///< where they were read, for messages
  std::vector<Sidecar> carried;
  std::vector<std::string> notes, config_notes, conversion_notes;  ///< as of Probe

  /// Hands the notes over.
  void tell(Probe& probe);
  std::string pack() const;
  static SideFiles unpack(std::string_view bytes);

  /// Reads what --config-from names, a JSON file. Errors (input): as place_of_config, read. Local.
  Status read_config_from(const SourceOptions& options, std::string_view format, const std::vector<std::string>& names);
  /// Keeps the text of the source's own config, which --config-from replaces, as the role kOwn; nothing where it has
  /// none that can be read. Local.
  void keep_own(const std::string& folder, const std::string& relative, io::Follow follow);

  /// Reads a JSON text below `folder`. Errors (input): absent, or something else, which is named. Local.
  Status read(const std::string& role, const std::string& folder, const std::string& relative, io::Follow follow);
};

/// Adds the carried ones of `files` (a listing of `folder`); those of options.tokenizer_from replace the tokenizer.
/// Errors (input): a link that leads out of the folder. Local.
Status collect_carried(const std::string& folder, const std::vector<std::string>& files, const SourceOptions& options,
                       std::vector<Sidecar>& carried);

/// Content of a side file. Errors (input). Local.
Expected<std::string> content_of(const Sidecar& sidecar);

}  // namespace reshard::format
