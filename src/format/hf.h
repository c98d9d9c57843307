// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/format/format.h"

namespace reshard::format {

/// A folder of safetensors or torch files with a config.json: Hugging Face's own, and every format that only a table
/// describes. Where the table gives no file pattern, files are single or sharded by size with an index, as Hugging Face
/// does it.
class PlainFormat : public Format {
 public:
  /// `detected`: container by whose usual file names the format is detected; it is not if that is empty.
  explicit PlainFormat(std::string name, std::string detected = "")
      : name_(std::move(name)), detected_(std::move(detected)) {}

  std::string_view name() const override { return name_; }
  bool cuts_by_size(const layout::Table& table) const override;
  bool wants_tokenizer() const override { return !detected_.empty(); }
  double detect(const std::string& path) const override;
  Expected<Probe> probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                        comm::Comm& comm) const override;
  Expected<TargetChoice> choose(const model::Spec& spec, const TargetOptions& options,
                                std::vector<std::string>& notes) const override;
  Expected<std::vector<TargetFile>> files(const layout::Layout& layout, const TargetOptions& options) const override;
  Expected<std::vector<Sidecar>> sidecars(const SidecarInput& input, std::vector<std::string>& notes) const override;

 private:
  std::string name_;
  std::string detected_;
};

}  // namespace reshard::format
