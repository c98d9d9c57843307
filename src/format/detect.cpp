// SPDX-License-Identifier: Apache-2.0
#include "detect.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>

#include "directory.h"
#include "fairseq2.h"
#include "hdf5.h"
#include "hf.h"
#include "llms_from_scratch.h"
#include "meta.h"
#include "nanotron.h"
#include "reshard/base/text.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

constexpr double kSure = 0.5;
constexpr std::size_t kListed = 8;

const std::array<const Format*, 7>& built_in() {
  static const PlainFormat hf("hf", "safetensors"), hf_bin("hf_bin", "torch");
  static const MetaFormat meta;
  static const NanotronFormat nanotron;
  static const Hdf5Format hdf5;
  static const Fairseq2Format fairseq2;
  static const LlmsFromScratchFormat llms_from_scratch;
  static const std::array<const Format*, 7> formats = {&hf,       &hf_bin,           &meta, &nanotron, &hdf5,
                                                       &fairseq2, &llms_from_scratch};
  return formats;
}

// What lies at `path`, for people.
std::string describe_path(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    const std::string begin = first_bytes(path, 512);
    const std::string foreign = container::describe_foreign(std::as_bytes(std::span(begin)));
    if (!foreign.empty()) return foreign;
    std::string hex;
    for (std::size_t i = 0; i < std::min<std::size_t>(8, begin.size()); ++i) {
      hex += fmt::format("{}{:02x}", i == 0 ? "" : " ", static_cast<std::uint8_t>(begin[i]));
    }
    return "a file that begins with the bytes " + hex;
  }
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    names.push_back(entry.path().filename().string() + (entry.is_directory(ignored) ? "/" : ""));
  }
  std::sort(names.begin(), names.end());
  if (names.empty()) return "an empty folder";
  const std::size_t rest = names.size() - std::min(kListed, names.size());
  names.resize(names.size() - rest);
  return "a folder with " + join(names, ", ") + (rest > 0 ? fmt::format(" and {} more", rest) : "");
}

}  // namespace

Expected<std::string> detect_format(const std::string& path, const std::string& option) {
  std::vector<std::string> fitting;
  double best = kSure;
  for (const Format* format : built_in()) {
    const double score = format->detect(path);
    if (score < best) continue;
    if (score > best) fitting.clear();
    best = score;
    fitting.emplace_back(format->name());
  }
  if (fitting.size() == 1) return fitting.front();
  if (fitting.empty()) {
    return input_error(
        fmt::format("{}: not a checkpoint of a known format, found {}; {} names the format of one that is "
                    "not recognised",
                    path, describe_path(path), option));
  }
  return input_error(fmt::format("{}: may be {}; say which with {}", path, join(fitting, " or "), option));
}

Error unknown_format(const std::string& name, const model::Library& library) {
  const auto meant = did_you_mean(name, library.formats());
  return usage_error(
      fmt::format("there is no format \"{}\"; {}", name,
                  meant ? "did you mean " + *meant + "?" : "known are " + join(library.formats(), ", ")));
}

const Format* find(std::string_view name, const model::Library& library) {
  if (!library.has_format(std::string(name))) return nullptr;
  for (const Format* format : built_in()) {
    if (format->name() == name) return format;
  }
  // Formats have no state but their name: one object per name serves every library.
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<const Format>, std::less<>> described;
  const std::lock_guard lock(mutex);
  auto found = described.find(name);
  if (found == described.end()) {
    found = described.emplace(name, std::make_unique<const PlainFormat>(std::string(name))).first;
  }
  return found->second.get();
}

std::vector<std::string_view> names() {
  std::vector<std::string_view> names;
  for (const Format* format : built_in()) names.push_back(format->name());
  return names;
}

std::string Format::array_name(const std::string&, const std::string& entry) const { return entry; }

Status Format::check(const Probe&, const layout::Layout&, const std::vector<std::uint32_t>&) const { return {}; }

Status Format::put_inside(const SidecarInput&, const std::vector<Sidecar>&, TargetFile&) const { return {}; }

}  // namespace reshard::format
