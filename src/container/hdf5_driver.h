// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "hdf5_library.h"
#include "reshard/base/expected.h"
#include "reshard/io/file.h"

namespace reshard::container::hdf5 {

/// A source as libhdf5 sees it: a file to read. The library never opens one by itself. The first error of the source is
/// kept: the library knows only that there was one.
struct LibraryFile {
  io::Source& source;
  std::optional<Error> error;
};

/// A file access property list for `file`, which must outlive what is opened with it.
Handle make_access(LibraryFile& file);

}  // namespace reshard::container::hdf5
