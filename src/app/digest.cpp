// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/digest.h"

#include <fmt/format.h>

#include <algorithm>

#include "reshard/base/hash.h"
#include "reshard/repack/digest.h"
#include "selection.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

std::string digest_text(std::uint64_t digest) { return fmt::format("{}:{:016x}", repack::kDigestVersion, digest); }

std::string to_string(const DigestLine& line) {
  return fmt::format("{}  {}  {}", digest_text(line.digest), line.name, shape_text(line.shape));
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ",")); }

std::uint64_t Digests::total() const {
  // By name: tensors that are carried unchanged come in the order of their files.
  std::vector<std::string> texts;
  for (const DigestLine& line : lines) texts.push_back(line.name + "\n" + to_string(line));
  std::sort(texts.begin(), texts.end());
  Hasher hasher;
  for (const std::string& text : texts) hasher.text(text);
  for (const model::Tie& tie : ties) hasher.text(tie.text());
  return hasher.value();
}

Digests make_digests(const format::Checkpoint& checkpoint, const std::vector<DType>& dtypes,
                     const std::vector<std::uint64_t>& sums) {
  const layout::Canon& canon = *checkpoint.canon;
  Digests digests;
  digests.ties = checkpoint.ties;
  const auto padded = checkpoint.probe.spec.facts.find("vocab_padded");
  digests.vocabulary_padded =
      padded != checkpoint.probe.spec.facts.end() && padded->is_boolean() && padded->get<bool>();
  for (Index n = 0; n < canon.num_lines(); ++n) {
    const auto at = static_cast<std::size_t>(n);
    digests.lines.push_back({canon.line_name(n), canon.line_shape(canon.line(n).tensor),
                             dtypes.empty() ? checkpoint.probe.spec.dtype : dtypes[at], sums.empty() ? 0 : sums[at]});
  }
  return digests;
}

Expected<DigestResult> digest(Context& context, const Options& options) {
  RESHARD_TRY(const format::Checkpoint checkpoint, open_source(context, options.src, source_options(options)));
  tell_unmatched(context, options, checkpoint);
  const std::vector<DType> dtypes = line_dtypes(*checkpoint.layout);
  RESHARD_TRY(Streamed streamed, stream_canonical(context, checkpoint, dtypes, options));
  DigestResult result;
  result.source = options.src;
  result.digests = make_digests(checkpoint, dtypes, streamed.digests);
  result.stream = std::move(streamed.report);
  return result;
}

Json to_json(const std::vector<model::Tie>& ties) {
  Json texts = Json::array();
  for (const model::Tie& tie : ties) texts.push_back(tie.text());
  return texts;
}

Json to_json(const Digests& digests) {
  Json lines = Json::array();
  for (const DigestLine& line : digests.lines) {
    lines.push_back({{"name", line.name},
                     {"shape", line.shape},
                     {"dtype", to_string(line.dtype)},
                     {"digest", digest_text(line.digest)}});
  }
  return {{"total", digest_text(digests.total())},
          {"ties", to_json(digests.ties)},
          {"vocabulary_padded", digests.vocabulary_padded},
          {"lines", std::move(lines)}};
}

Json to_json(const DigestResult& result) {
  return {{"command", "digest"},
          {"source", result.source},
          {"digests", to_json(result.digests)},
          {"stream", to_json(result.stream)}};
}

}  // namespace reshard::app
