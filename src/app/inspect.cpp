// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/inspect.h"

#include <algorithm>
#include <array>

#include "reshard/app/digest.h"
#include "reshard/app/stream.h"
#include "selection.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

/// Bytes that the arrays lie in, those that several share once.
Index stored_bytes(const format::Directory& directory) {
  std::vector<std::array<Index, 3>> extents;  // file, begin, end
  for (const format::Directory::Entry& entry : directory.entries) {
    extents.push_back({entry.file, entry.entry.offset, entry.entry.offset + entry.entry.length});
  }
  std::sort(extents.begin(), extents.end());
  Index bytes = 0, file = -1, at = 0;
  for (const auto& [of_file, begin, end] : extents) {
    if (of_file != file) at = 0;
    file = of_file;
    bytes += std::max<Index>(0, end - std::max(at, begin));
    at = std::max(at, end);
  }
  return bytes;
}

}  // namespace

Expected<InspectResult> inspect(Context& context, const Options& options) {
  format::SourceOptions source = source_options(options);
  // What is shown is chosen here; all that is there is looked at.
  source.include.clear();
  source.exclude.clear();
  if (chooses(options)) {
    source.needs = [&](const std::string& array, const std::vector<std::string>&) { return is_chosen(array, options); };
  }
  RESHARD_TRY(const format::Checkpoint checkpoint, open_source(context, options.src, source));
  const format::Probe& probe = checkpoint.probe;
  context.tell_notes(probe.config_notes);
  tell_unmatched(context, options, checkpoint);
  const layout::Canon& canon = *checkpoint.canon;

  InspectResult result;
  result.path = options.src;
  result.format = checkpoint.format->name();
  result.family = probe.spec.family;
  result.mesh = probe.mesh;
  result.dtype = probe.spec.dtype;
  result.hyper_parameters = probe.spec.fields;
  result.vocabulary = probe.spec.integer("vocab_size");
  result.vocabulary_padded = is_vocabulary_padded(checkpoint);
  result.ties = checkpoint.ties;
  for (Index n = 0; n < canon.num_lines(); ++n) result.parameters += canon.line_volume(canon.line(n).tensor);
  result.bytes = stored_bytes(probe.directory);
  result.num_files = std::ssize(probe.directory.files);
  result.num_arrays = std::ssize(probe.directory.entries);
  const std::vector<std::string> names = format::array_names(checkpoint);
  for (std::size_t e = 0; e < names.size(); ++e) {
    if (!is_chosen(names[e], options)) continue;
    const format::Directory::Entry& entry = probe.directory.entries[e];
    result.arrays.push_back(
        {names[e], entry.entry.dtype, entry.entry.shape, probe.directory.files[entry.file], entry.entry.length});
  }
  for (const format::Sidecar& sidecar : probe.carried) result.side_files.push_back(sidecar.path);
  result.dropped = checkpoint.dropped;
  result.notes = probe.notes;
  result.notes.insert(result.notes.end(), probe.config_notes.begin(), probe.config_notes.end());
  return result;
}

Json to_json(const InspectResult& result) {
  Json arrays = Json::array();
  for (const ArrayLine& array : result.arrays) {
    arrays.push_back({{"name", array.name},
                      {"dtype", to_string(array.dtype)},
                      {"shape", array.shape},
                      {"file", array.file},
                      {"bytes", array.bytes}});
  }
  return {{"command", "inspect"},
          {"path", result.path},
          {"format", result.format},
          {"family", result.family},
          {"mesh", to_json(result.mesh)},
          {"dtype", to_string(result.dtype)},
          {"hyper_parameters", result.hyper_parameters},
          {"vocabulary", {{"size", result.vocabulary}, {"padded", result.vocabulary_padded}}},
          {"ties", to_json(result.ties)},
          {"parameters", result.parameters},
          {"bytes", result.bytes},
          {"files", result.num_files},
          {"num_arrays", result.num_arrays},
          {"arrays", std::move(arrays)},
          {"side_files", result.side_files},
          {"dropped", result.dropped},
          {"notes", result.notes}};
}

}  // namespace reshard::app
