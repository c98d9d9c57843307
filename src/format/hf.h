// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/format/format.h"

namespace reshard::format {

/// A folder of safetensors files with a config.json: Hugging Face's own, and every format that only a table describes.
/// Where the table gives no file pattern, files are single or sharded by size with an index, as Hugging Face does it.
class PlainFormat : public Format {
 public:
  explicit PlainFormat(std::string name) : name_(std::move(name)) {}

  std::string_view name() const override { return name_; }
  bool cuts_by_size(const layout::Table& table) const override;
  double detect(const std::string& path) const override;
  Expected<Probe> probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                        comm::Comm& comm) const override;
  Expected<TargetChoice> choose(const model::Spec& spec, const TargetOptions& options,
                                std::vector<std::string>& notes) const override;
  Expected<std::vector<TargetFile>> files(const layout::Layout& layout, const TargetOptions& options) const override;
  Expected<std::vector<Sidecar>> sidecars(const SidecarInput& input, std::vector<std::string>& notes) const override;

 private:
  std::string name_;
};

}  // namespace reshard::format
