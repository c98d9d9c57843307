// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "reshard/format/format.h"

namespace reshard::format {

/// The archive: one HDF5 file with the arrays of the Hugging Face format, the model's config as an attribute, and side
/// files inside.
class Hdf5Format : public Format {
 public:
  std::string_view name() const override { return "hdf5"; }
  bool one_file() const override { return true; }
  std::string file_name() const override { return "model.h5"; }
  double detect(const std::string& path) const override;
  Expected<Probe> probe(const std::string& path, const SourceOptions& options, const model::Library& library,
                        comm::Comm& comm) const override;
  Expected<TargetChoice> choose(const model::Spec& spec, const TargetOptions& options,
                                std::vector<std::string>& notes) const override;
  Expected<std::vector<TargetFile>> files(const layout::Layout& layout, const TargetOptions& options) const override;
  Expected<std::vector<Sidecar>> sidecars(const SidecarInput& input, std::vector<std::string>& notes) const override;
  Status put_inside(const SidecarInput& input, const std::vector<Sidecar>& sidecars, TargetFile& file) const override;
};

}  // namespace reshard::format
