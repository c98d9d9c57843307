// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/format/format.h"

namespace reshard::format {

/// A folder with one safetensors file per parameter and tensor-parallel rank; versions 1.2 to 1.5 are read, 1.4 and 1.5
/// written.
class NanotronFormat : public Format {
 public:
  std::string_view name() const override { return "nanotron"; }
  double detect(const std::string& path) const override;
  Expected<Probe> probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                        comm::Comm& comm) const override;
  std::string file_key(const std::string& path) const override;
  std::string array_name(const std::string& file, const std::string& entry) const override;
  Status check(const Probe& probe, const layout::Layout& layout,
               const std::vector<std::uint32_t>& locations) const override;
  Expected<TargetChoice> choose(const model::Spec& spec, const TargetOptions& options,
                                std::vector<std::string>& notes) const override;
  Expected<std::vector<TargetFile>> files(const layout::Layout& layout, const TargetOptions& options) const override;
  Expected<std::vector<Sidecar>> sidecars(const SidecarInput& input, std::vector<std::string>& notes) const override;
};

}  // namespace reshard::format
