// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "reshard/format/format.h"

namespace reshard::test {

/// The reference checkpoints: RESHARD_FIXTURES, or the committed ones of tests/interop.
std::string fixture(const std::string& relative);

/// The built-in tables.
const model::Library& library();

/// Opens a checkpoint as a job of one rank.
Expected<format::Checkpoint> open(const std::string& path, const format::SourceOptions& options = {});

/// The message of the error that opening ends with, which must have `code`; "no error" if there is none.
std::string open_error(const std::string& path, const format::SourceOptions& options = {}, Code code = Code::input);

/// Bytes of every line of a checkpoint, elements in canonical order; read one element at a time. Throws on errors.
std::vector<std::string> line_values(const format::Checkpoint& checkpoint);

/// Writes a target as a job would, one element at a time, from the lines of a checkpoint whose dtypes it keeps. Throws
/// on errors.
void write_checkpoint(const format::Target& target, const std::vector<std::string>& lines, const std::string& path,
                      const std::vector<std::string>& item_digests = {});

/// describe_target, then write_checkpoint. Throws on errors.
void convert_naively(const format::Checkpoint& source, const std::string& format, const format::TargetOptions& options,
                     const std::string& path);

}  // namespace reshard::test
