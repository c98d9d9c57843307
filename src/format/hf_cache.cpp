// SPDX-License-Identifier: Apache-2.0
#include "hf_cache.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "reshard/container/weight_map.h"
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

std::string fetch_command(const HubName& name) {
  return "hf download " + name.repo + (name.revision == "main" ? "" : " --revision " + name.revision);
}

bool is_partial(const std::string& snapshot) {
  // At the top: files of Hugging Face's formats and others'. Below: weights of whatever format.
  bool has_config = false, has_other_config = false, has_safetensors = false, has_bin = false, has_weights = false;
  bool lacks_safetensors = false, lacks_bin = false;
  std::error_code failed;
  for (fs::recursive_directory_iterator at(snapshot, failed), end; !failed && at != end; at.increment(failed)) {
    std::error_code dangling;
    if (!fs::exists(at->path(), dangling)) return true;
    const std::string path = at->path().string(), name = at->path().filename().string();
    for (const char* extension : {".safetensors", ".bin", ".pth", ".pt", ".h5"}) {
      has_weights = has_weights || name.ends_with(extension);
    }
    if (at.depth() > 0) continue;
    has_config = has_config || name == "config.json";
    for (const char* other : {"model_config.json", "params.json", "model.yaml"}) {
      has_other_config = has_other_config || name == other;
    }
    has_safetensors = has_safetensors || name.ends_with(".safetensors");
    has_bin = has_bin || name.ends_with(".bin");
    if (!name.ends_with(".index.json")) continue;
    const auto text = io::read_text(path);
    const auto index = container::parse_weight_map(text ? *text : "", path);
    if (!index) continue;
    const auto is_absent = [&](const std::string& file) {
      return !fs::exists(at->path().parent_path() / file, dangling);
    };
    bool& lacks = name.ends_with(".bin.index.json") ? lacks_bin : lacks_safetensors;
    lacks = lacks || std::any_of(index->files.begin(), index->files.end(), is_absent);
  }
  const bool has_pair = has_safetensors || has_bin;  // weights that come with a config.json
  if (lacks_safetensors || (lacks_bin && !has_safetensors)) return true;
  if (has_config) return !has_pair;
  return !has_other_config && (has_pair || !has_weights);
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
  return input_error(name.repo + ": neither a path nor in the Hugging Face cache " + cache +
                     "; to fetch it: " + fetch_command(name));
}

}  // namespace reshard::format
