// SPDX-License-Identifier: Apache-2.0
#include "side_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include "directory.h"
#include "reshard/base/text.h"

namespace reshard::format {

namespace {

constexpr std::array<std::string_view, 11> kTokenizer = {"tokenizer.json",
                                                         "tokenizer_config.json",
                                                         "special_tokens_map.json",
                                                         "added_tokens.json",
                                                         "tokenizer.model",
                                                         "vocab.json",
                                                         "merges.txt",
                                                         "vocab.txt",
                                                         "spiece.model",
                                                         "chat_template.jinja",
                                                         "additional_chat_templates/*.jinja"};
constexpr std::array<std::string_view, 7> kOther = {
    "generation_config.json", "LICENSE*", "USE_POLICY.md", "NOTICE*", "README.md", "preprocessor_config.json",
    "processor_config.json"};

template <std::size_t N>
bool matches_any(const std::array<std::string_view, N>& patterns, const std::string& path) {
  return std::any_of(patterns.begin(), patterns.end(), [&](std::string_view p) { return matches_glob(p, path); });
}

// A `*` of a glob also matches slashes, a name in the folder has none.
bool is_at_top(const std::string& path) { return path.find('/') == std::string::npos; }

}  // namespace

bool is_tokenizer(const std::string& path) { return matches_any(kTokenizer, path); }

bool has_tokenizer(const std::vector<Sidecar>& carried) {
  return std::any_of(carried.begin(), carried.end(), [](const Sidecar& file) { return is_tokenizer(file.path); });
}

bool is_carried(const std::string& path) {
  return is_tokenizer(path) || (is_at_top(path) && (matches_any(kOther, path) || matches_glob("*.py", path)));
}

void SideFiles::tell(Probe& probe) {
  probe.notes = std::move(notes);
  probe.config_notes = std::move(config_notes);
  probe.conversion_notes = std::move(conversion_notes);
}

std::string SideFiles::pack() const {
  Packer packer;
  const auto put = [&](const std::vector<std::string>& list) {
    packer.number(static_cast<Index>(list.size()));
    for (const std::string& text : list) packer.text(text);
  };
  const auto put_map = [&](const std::map<std::string, std::string>& map) {
    packer.number(static_cast<Index>(map.size()));
    for (const auto& [key, value] : map) {
      packer.text(key);
      packer.text(value);
    }
  };
  packer.text(root);
  put(weights);
  put_map(texts);
  put_map(paths);
  packer.number(static_cast<Index>(carried.size()));
  for (const Sidecar& sidecar : carried) {
    packer.text(sidecar.path);
    packer.text(sidecar.copy_from);
    packer.text(sidecar.text);
  }
  for (const auto* list : {&notes, &config_notes, &conversion_notes}) put(*list);
  return packer.take();
}

SideFiles SideFiles::unpack(std::string_view bytes) {
  Unpacker unpacker(bytes);
  SideFiles files;
  const auto get = [&](std::vector<std::string>& list) {
    for (Index left = unpacker.number(); left > 0; --left) list.push_back(unpacker.text());
  };
  const auto get_map = [&](std::map<std::string, std::string>& map) {
    for (Index left = unpacker.number(); left > 0; --left) {
      std::string key = unpacker.text();
      map[std::move(key)] = unpacker.text();
    }
  };
  files.root = unpacker.text();
  get(files.weights);
  get_map(files.texts);
  get_map(files.paths);
  for (Index left = unpacker.number(); left > 0; --left) {
    Sidecar sidecar;
    sidecar.path = unpacker.text();
    sidecar.copy_from = unpacker.text();
    sidecar.text = unpacker.text();
    files.carried.push_back(std::move(sidecar));
  }
  for (auto* list : {&files.notes, &files.config_notes, &files.conversion_notes}) get(*list);
  return files;
}

Status SideFiles::read(const std::string& role, const std::string& folder, const std::string& relative,
                       io::Follow follow) {
  RESHARD_TRY(std::string text, read_side_file(folder, relative, follow));
  // What is no JSON gets a better message here than from its parser.
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos || text[first] != '{') {
    const auto begin = std::as_bytes(std::span(text).first(std::min<std::size_t>(text.size(), 512)));
    const std::string foreign = container::describe_foreign(begin);
    return input_error(path_of(folder, relative) + ": expected a JSON object" +
                       (foreign.empty() ? "" : ", found " + foreign));
  }
  texts[role] = std::move(text);
  paths[role] = path_of(folder, relative);
  return {};
}

Expected<std::pair<std::string, std::string>> place_of_config(const std::string& config_from, std::string_view format,
                                                              const std::vector<std::string>& names) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(config_from, ignored)) return std::pair(config_from, std::string());
  for (const std::string& name : names) {
    if (exists(path_of(config_from, name))) return std::pair(config_from, name);
  }
  return input_error(fmt::format("--config-from {}: has no {}; a source of format {} takes its config from {}",
                                 config_from, join(names, " and no "), format,
                                 names.size() == 1 ? "that file alone" : "these alone"));
}

Status SideFiles::read_config_from(const SourceOptions& options, std::string_view format,
                                   const std::vector<std::string>& names) {
  RESHARD_TRY(const auto place, place_of_config(options.config_from, format, names));
  return read("config", place.first, place.second, io::Follow::all);
}

void SideFiles::keep_own(const std::string& folder, const std::string& relative, io::Follow follow) {
  auto text = read_side_file(folder, relative, follow);
  if (!text) return;
  texts[kOwn] = *std::move(text);
  paths[kOwn] = path_of(folder, relative);
}

Status collect_carried(const std::string& folder, const std::vector<std::string>& files, const SourceOptions& options,
                       std::vector<Sidecar>& carried) {
  const auto add = [&](const std::string& from, const std::string& file, io::Follow follow) -> Status {
    RESHARD_TRY(const auto opened, io::open_source(from, file, follow, {}));
    carried.push_back({file, path_of(from, file), ""});
    return {};
  };
  const bool replaced = !options.tokenizer_from.empty();
  for (const std::string& file : files) {
    if (is_carried(file) && !(replaced && is_tokenizer(file))) RESHARD_CHECK(add(folder, file, options.follow));
  }
  if (!replaced) return {};
  std::error_code ignored;
  if (!std::filesystem::is_directory(options.tokenizer_from, ignored)) {
    return input_error("--tokenizer-from " + options.tokenizer_from + ": expected a folder");
  }
  RESHARD_TRY(const std::vector<std::string> given, io::list_files(options.tokenizer_from));
  const std::size_t before = carried.size();
  for (const std::string& file : given) {
    if (is_tokenizer(file)) RESHARD_CHECK(add(options.tokenizer_from, file, io::Follow::all));
  }
  if (carried.size() == before)
    return input_error("--tokenizer-from " + options.tokenizer_from + ": holds no tokenizer");
  return {};
}

Expected<std::string> content_of(const Sidecar& sidecar) {
  if (sidecar.copy_from.empty()) return sidecar.text;
  return io::read_text(sidecar.copy_from);
}

}  // namespace reshard::format
