// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/format/format.h"

namespace reshard::format {

/// Meta's own checkpoints of Llama 1 to 3: params.json and a torch file per model-parallel rank.
class MetaFormat : public Format {
 public:
  std::string_view name() const override { return "meta"; }
  bool copies_may_differ() const override { return true; }  // the norms of Llama 3 70B's ranks do
  bool wants_tokenizer() const override { return true; }
  double detect(const std::string& path) const override;
  Expected<Probe> probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                        comm::Comm& comm) const override;
  std::string file_key(const std::string& path) const override;
  Expected<TargetChoice> choose(const model::Spec& spec, const TargetOptions& options,
                                std::vector<std::string>& notes) const override;
  Expected<std::vector<TargetFile>> files(const layout::Layout& layout, const TargetOptions& options) const override;
  Expected<std::vector<Sidecar>> sidecars(const SidecarInput& input, std::vector<std::string>& notes) const override;
};

}  // namespace reshard::format
