// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/format/format.h"

namespace reshard::format {

/// The models of the book "Build a Large Language Model (From Scratch)": one torch file, NAME.pth, and the config
/// dictionary of its class beside it, NAME.json. Written as a folder with model.pth and model.json.
class LlmsFromScratchFormat : public Format {
 public:
  std::string_view name() const override { return "llms_from_scratch"; }
  double detect(const std::string& path) const override;
  Expected<Probe> probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                        comm::Comm& comm) const override;
  Expected<TargetChoice> choose(const model::Spec& spec, const TargetOptions& options,
                                std::vector<std::string>& notes) const override;
  Expected<std::vector<TargetFile>> files(const layout::Layout& layout, const TargetOptions& options) const override;
  Expected<std::vector<Sidecar>> sidecars(const SidecarInput& input, std::vector<std::string>& notes) const override;
};

}  // namespace reshard::format
