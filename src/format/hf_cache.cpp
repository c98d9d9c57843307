// SPDX-License-Identifier: Apache-2.0
#include "hf_cache.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "reshard/io/file.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

bool is_plain(std::string_view part) {
  const auto allowed = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.';
  };
  return !part.empty() && part.size() <= 96 && part != "." && part != ".." &&
         std::all_of(part.begin(), part.end(), allowed);
}

std::string from_environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr ? "" : value;
}

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

}  // namespace

std::optional<HubName> parse_hub_name(std::string_view text) {
  HubName name;
  if (const std::size_t at = text.find('@'); at != std::string_view::npos) {
    name.revision = text.substr(at + 1);
    text = text.substr(0, at);
    // A revision may be a branch such as "refs/pr/3".
    for (std::size_t begin = 0; begin <= name.revision.size();) {
      const std::size_t end = std::min(name.revision.find('/', begin), name.revision.size());
      if (!is_plain(std::string_view(name.revision).substr(begin, end - begin))) return std::nullopt;
      begin = end + 1;
    }
  }
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos || !is_plain(text.substr(0, slash)) || !is_plain(text.substr(slash + 1))) {
    return std::nullopt;
  }
  name.repo = text;
  return name;
}

std::string hub_cache() {
  if (const std::string cache = from_environment("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const std::string home = from_environment("HF_HOME"); !home.empty()) return home + "/hub";
  if (const std::string cache = from_environment("XDG_CACHE_HOME"); !cache.empty()) return cache + "/huggingface/hub";
  return from_environment("HOME") + "/.cache/huggingface/hub";
}

Expected<std::string> find_snapshot(const HubName& name, const std::string& cache) {
  std::string folder = "models--" + name.repo;
  folder.replace(folder.find('/'), 1, "--");
  folder = cache + "/" + folder;
  std::string commit = name.revision;
  if (auto reference = io::read_text(folder + "/refs/" + name.revision, 4 * kKiB); reference) {
    commit = *reference;
    while (!commit.empty() && (commit.back() == '\n' || commit.back() == ' ')) commit.pop_back();
  }
  const std::string snapshot = folder + "/snapshots/" + commit;
  if (is_plain(commit) && is_folder(snapshot)) return snapshot;
  const std::string revision = name.revision == "main" ? "" : " --revision " + name.revision;
  return input_error(name.repo + ": neither a path nor in the Hugging Face cache " + cache +
                     "; to fetch it: hf download " + name.repo + revision);
}

}  // namespace reshard::format
