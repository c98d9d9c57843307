// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "containers.h"

namespace reshard::container::hdf5 {

/// A whole archive but for the data of its arrays.
struct Archive {
  Index size = 0;
  std::vector<Index> offsets;     ///< of the items' data, 0 for empty ones
  std::vector<Segment> files;     ///< contents of the side files
  std::vector<Segment> metadata;  ///< all other bytes that are not zero, ascending; the first begins at byte 0
};

/// Runs libhdf5 over memory in the place of a file, empty where data will be. `digests`: nullptr for blanks of the
/// right length; offsets and sizes do not depend on them. Errors (usage). Local, thread-safe.
Expected<Archive> build_archive(const FileSpec& spec, const std::map<std::string, std::string>* digests);

/// Errors (input). Local, thread-safe.
Expected<FileDirectory> read_archive(io::Source& source, const std::string& path);

}  // namespace reshard::container::hdf5
