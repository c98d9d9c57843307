// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "reshard/format/format.h"

namespace reshard::format {

/// A checkpoint folder of fairseq2: model.yaml and steps, each with a torch file per tensor-parallel rank and
/// data-parallel shard (0.5 to 0.8) or per tensor-parallel rank (0.3, 0.4).
class Fairseq2Format : public Format {
 public:
  std::string_view name() const override { return "fairseq2"; }
  double detect(const std::string& path) const override;
  Expected<Probe> probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                        comm::Comm& comm) const override;
  std::string file_key(const std::string& path) const override;
  Expected<TargetChoice> choose(const model::Spec& spec, const TargetOptions& options,
                                std::vector<std::string>& notes) const override;
  Expected<std::vector<TargetFile>> files(const layout::Layout& layout, const TargetOptions& options) const override;
  Expected<std::vector<Sidecar>> sidecars(const SidecarInput& input, std::vector<std::string>& notes) const override;
};

/// What the path of a weight file says: .../pp_00/tp_01/sdp_00.pt, or model.pt and model.1.pt.
struct Fairseq2File {
  Index tp = 0, sdp = 0;
  bool is_old = false;

  /// Nothing if the path is no weight file. Pure.
  static std::optional<Fairseq2File> parse(std::string_view path);
  /// The same for both forms, without step and pipeline rank, which nobody can predict.
  std::string key() const;
};

}  // namespace reshard::format
