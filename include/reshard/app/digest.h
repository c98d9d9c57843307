// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/app/stream.h"

namespace reshard::app {

/// A canonical tensor at one layer and expert, and the digest of its values. See repack/digest.h.
struct DigestLine {
  std::string name;
  Shape shape;  ///< without layer and expert
  DType dtype = DType::bf16;
  std::uint64_t digest = 0;
};

/// The layout-independent fingerprint of a checkpoint: equal for any two of the same values, whatever their format,
/// topology and lossless dtype.
struct Digests {
  std::vector<DigestLine> lines;   ///< in canonical order
  std::vector<model::Tie> ties;    ///< printed as lines such as "head = embed"
  bool vocabulary_padded = false;  ///< the true vocabulary is unknown: its padding counts as values
  std::uint64_t total = 0;         ///< total_of the lines and ties, taken once, by make_digests
};

/// Hash of lines and ties as printed, whatever the order of the lines. Pure.
std::uint64_t total_of(const std::vector<DigestLine>& lines, const std::vector<model::Tie>& ties);

/// "rd1:00f1e2d3c4b5a697".
std::string digest_text(std::uint64_t digest);
/// "rd1:00f1e2d3c4b5a697  attn.q[layer=3]  [4,2,2,4,64]".
std::string to_string(const DigestLine& line);
/// "[4,2,2,4,64]".
std::string shape_text(const Shape& shape);

/// Lines of a checkpoint with the dtypes and digests of a stream, one of each per line; no digests: zeros. Pure.
std::vector<DigestLine> digest_lines(const format::Checkpoint& checkpoint, const std::vector<DType>& dtypes,
                                     const std::vector<std::uint64_t>& sums);
/// Is the true vocabulary of a checkpoint unknown? Pure.
bool is_vocabulary_padded(const format::Checkpoint& checkpoint);
/// The fingerprint of those lines. Its total takes a sort and a hash of all of them: where lines are enough, take
/// digest_lines. Pure.
Digests make_digests(const format::Checkpoint& checkpoint, const std::vector<DType>& dtypes,
                     const std::vector<std::uint64_t>& sums);

struct DigestResult {
  std::string source;
  Digests digests;  ///< on rank 0
  StreamReport stream;
};

/// Streams the checkpoint once and digests it. Errors: as open_checkpoint, Plan::make, execute. Collective.
Expected<DigestResult> digest(Context& context, const Options& options);

nlohmann::ordered_json to_json(const std::vector<model::Tie>& ties);
/// For document_text alone: its lines are a table.
nlohmann::ordered_json to_json(const Digests& digests);
/// For document_text alone: the lines of its digests are a table.
nlohmann::ordered_json to_json(const DigestResult& result);

}  // namespace reshard::app
