// SPDX-License-Identifier: Apache-2.0
#include "hdf5.h"

#include <fmt/format.h>

#include <filesystem>

#include "directory.h"
#include "probing.h"
#include "side_files.h"

namespace reshard::format {

namespace fs = std::filesystem;

namespace {

// Root attributes. Others are provenance, which nothing is read from.
constexpr const char* kMarker = "format";
constexpr const char* kMarkerText = "reshard-hdf5";
constexpr const char* kVersion = "format_version";
constexpr const char* kVersionText = "1";
constexpr const char* kFamily = "family";
constexpr const char* kConfig = "config";
constexpr const char* kConfigFile = "config.json";

constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";

// The archive's path: `path`, or the usual name in it if it is a folder.
std::string file_in(const std::string& path, const std::string& file_name) {
  std::error_code ignored;
  return fs::is_directory(path, ignored) ? path + "/" + file_name : path;
}

}  // namespace

double Hdf5Format::detect(const std::string& path) const {
  return first_bytes(file_in(path, file_name()), static_cast<Index>(kSignature.size())) == kSignature ? 1 : 0;
}

Expected<Probe> Hdf5Format::probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                                  comm::Comm& comm) const {
  SideFiles found;
  RESHARD_TRY(const std::string packed, from_root(comm, [&]() -> Expected<std::string> {
                found.root = file_in(path, file_name());
                RESHARD_CHECK(collect_carried("", {}, options, found.carried));
                if (!options.config_from.empty()) {
                  RESHARD_CHECK(found.read_config_from(options, name(), {kConfigFile}));
                }
                return found.pack();
              }));
  found = SideFiles::unpack(packed);
  Probe probe;
  RESHARD_TRY(probe.directory, read_directory(found.root, {""}, "hdf5", options.follow, comm));
  const auto& attributes = probe.directory.metadata.front();
  const auto marker = attributes.find(kMarker);
  if (marker == attributes.end() || marker->second != kMarkerText) {
    return input_error(
        fmt::format("{}: an HDF5 file, but no archive of this program (root attribute \"{}\" is not \"{}\")",
                    found.root, kMarker, kMarkerText));
  }
  if (const auto version = attributes.find(kVersion); version == attributes.end() || version->second != kVersionText) {
    return input_error(fmt::format("{}: archive version {}, expected {}", found.root,
                                   version == attributes.end() ? "missing" : version->second, kVersionText));
  }
  if (found.texts.count("config") == 0) {
    const auto config = attributes.find(kConfig);
    if (config == attributes.end()) {
      return input_error(found.root +
                         ": has no attribute \"config\"; name a folder with a config.json by --config-from");
    }
    found.texts["config"] = config->second;
    found.paths["config"] = found.root + ": attribute config";
  }
  probe.config_path = found.paths["config"];
  RESHARD_TRY(probe.spec, parse_config(found, options, library));
  note_generic(probe.spec, probe.config_path, probe.notes);
  probe.spec.dtype = main_dtype(probe.directory, probe.spec.dtype);
  probe.carried = std::move(found.carried);
  for (const auto& [file, text] : probe.directory.inside) {
    const bool replaced = !options.tokenizer_from.empty() && is_tokenizer(file);
    if (is_carried(file) && !replaced) probe.carried.push_back({file, "", text});
  }
  return probe;
}

Expected<TargetChoice> Hdf5Format::choose(const model::Spec&, const TargetOptions& options,
                                          std::vector<std::string>&) const {
  RESHARD_CHECK(refuse_version(name(), options));
  RESHARD_CHECK(refuse_params_style(name(), options));
  return TargetChoice{options.mesh, {}};
}

Expected<std::vector<TargetFile>> Hdf5Format::files(const layout::Layout& layout, const TargetOptions& options) const {
  TargetFile file;
  for (std::uint32_t array = 0; array < layout.arrays().size(); ++array) {
    add_array(layout, array, file);
    if (options.digest_bytes) file.spec.items.back().digest_bytes = options.digest_bytes(layout, array);
  }
  return std::vector<TargetFile>{std::move(file)};
}

Expected<std::vector<Sidecar>> Hdf5Format::sidecars(const SidecarInput& input, std::vector<std::string>&) const {
  std::vector<Sidecar> sidecars = {{kConfigFile, "", model::write_hf_config(input.spec, input.library)}};
  sidecars.insert(sidecars.end(), input.carried.begin(), input.carried.end());
  return sidecars;
}

Status Hdf5Format::put_inside(const SidecarInput& input, const std::vector<Sidecar>& sidecars, TargetFile& file) const {
  file.spec.metadata = input.options.provenance;
  file.spec.metadata[kMarker] = kMarkerText;
  file.spec.metadata[kVersion] = kVersionText;
  file.spec.metadata[kFamily] = input.spec.family;
  for (const Sidecar& sidecar : sidecars) {
    RESHARD_TRY(file.spec.files[sidecar.path], content_of(sidecar));
  }
  file.spec.metadata[kConfig] = file.spec.files[kConfigFile];
  return {};
}

}  // namespace reshard::format
