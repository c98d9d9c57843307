// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/digest.h"

#include <fmt/compile.h>
#include <fmt/format.h>

#include <algorithm>

#include "reshard/app/document.h"
#include "reshard/base/hash.h"
#include "reshard/repack/digest.h"
#include "selection.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

std::string digest_text(std::uint64_t digest) {
  return fmt::format(FMT_COMPILE("{}:{:016x}"), repack::kDigestVersion, digest);
}

std::string to_string(const DigestLine& line) {
  return digest_text(line.digest) + "  " + line.name + "  " + shape_text(line.shape);
}

std::string shape_text(const Shape& shape) { return fmt::format(FMT_COMPILE("[{}]"), fmt::join(shape, ",")); }

std::uint64_t total_of(const std::vector<DigestLine>& lines, const std::vector<model::Tie>& ties) {
  // By name: tensors that are carried unchanged come in the order of their files.
  std::vector<const DigestLine*> by_name;
  by_name.reserve(lines.size());
  for (const DigestLine& line : lines) by_name.push_back(&line);
  std::stable_sort(by_name.begin(), by_name.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  Hasher hasher;
  for (const DigestLine* line : by_name) hasher.text(line->name + "\n" + to_string(*line));
  for (const model::Tie& tie : ties) hasher.text(tie.text());
  return hasher.value();
}

std::vector<DigestLine> digest_lines(const format::Checkpoint& checkpoint, const std::vector<DType>& dtypes,
                                     const std::vector<std::uint64_t>& sums) {
  const layout::Canon& canon = *checkpoint.canon;
  std::vector<DigestLine> lines;
  lines.reserve(static_cast<std::size_t>(canon.num_lines()));
  for (Index n = 0; n < canon.num_lines(); ++n) {
    const auto at = static_cast<std::size_t>(n);
    lines.push_back(
        {canon.line_name(n), canon.line_shape(canon.line(n).tensor), dtypes[at], sums.empty() ? 0 : sums[at]});
  }
  return lines;
}

bool is_vocabulary_padded(const format::Checkpoint& checkpoint) {
  const auto padded = checkpoint.probe.spec.facts.find("vocab_padded");
  return padded != checkpoint.probe.spec.facts.end() && padded->is_boolean() && padded->get<bool>();
}

Digests make_digests(const format::Checkpoint& checkpoint, const std::vector<DType>& dtypes,
                     const std::vector<std::uint64_t>& sums) {
  Digests digests{digest_lines(checkpoint, dtypes, sums), checkpoint.ties, is_vocabulary_padded(checkpoint)};
  digests.total = total_of(digests.lines, digests.ties);
  return digests;
}

Expected<DigestResult> digest(Context& context, const Options& options) {
  RESHARD_TRY(const format::Checkpoint checkpoint, open_source(context, options.src, source_options(options)));
  tell_unmatched(context, options, checkpoint);
  const std::vector<DType> dtypes = line_dtypes(*checkpoint.layout);
  RESHARD_TRY(Streamed streamed, stream_canonical(context, checkpoint, dtypes, options));
  DigestResult result;
  result.source = options.src;
  if (context.comm.rank() == 0) result.digests = make_digests(checkpoint, dtypes, streamed.digests);
  result.stream = std::move(streamed.report);
  return result;
}

Json to_json(const std::vector<model::Tie>& ties) {
  Json texts = Json::array();
  for (const model::Tie& tie : ties) texts.push_back(tie.text());
  return texts;
}

Json to_json(const Digests& digests) {
  std::string lines;
  for (const DigestLine& line : digests.lines) {
    lines += "{\"name\":";
    append_string(line.name, lines);
    lines += fmt::format(FMT_COMPILE(",\"shape\":{},\"dtype\":\"{}\",\"digest\":\"{}\"}}\n"), shape_text(line.shape),
                         to_string(line.dtype), digest_text(line.digest));
  }
  return {{"total", digest_text(digests.total)},
          {"ties", to_json(digests.ties)},
          {"vocabulary_padded", digests.vocabulary_padded},
          {"lines", make_table(lines)}};
}

Json to_json(const DigestResult& result) {
  return {{"command", "digest"},
          {"source", result.source},
          {"digests", to_json(result.digests)},
          {"stream", to_json(result.stream)}};
}

}  // namespace reshard::app
