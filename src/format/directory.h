// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "reshard/comm/comm.h"
#include "reshard/format/format.h"

namespace reshard::format {

/// At most so many ranks open files to read headers; the others get the table.
inline constexpr int kMaxReaders = 64;

/// Reads the headers of `files` (relative to `root`, or "" for the file `root` itself), dealt round-robin to the
/// readers, and gathers them as one table on all ranks, entries in order of the files. Errors (input): the first file
/// that is unreadable, foreign or broken. Collective.
Expected<Directory> read_directory(const std::string& root, const std::vector<std::string>& files,
                                   const std::string& container, io::Follow follow, comm::Comm& comm);

/// Reads a small file below `root` under the same rules as weight files. Errors (input). Local.
Expected<std::string> read_side_file(const std::string& root, const std::string& relative, io::Follow follow);

/// First bytes of a file, fewer where it is shorter; empty if it cannot be read. Local.
std::string first_bytes(const std::string& path, Index count);

/// Is there something at `path`? What cannot be looked at is not there. Local.
bool exists(const std::string& path);

/// The path of a file of the directory, for messages.
std::string path_of(const std::string& root, const std::string& relative);

}  // namespace reshard::format
