// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <optional>

#include "conversion.h"
#include "replicas.h"
#include "reshard/app/digest.h"
#include "reshard/io/json.h"
#include "selection.h"
#include "unread.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxProblems = 50;

void add_problem(Check& check, std::string problem) {
  check.outcome = Check::Outcome::failed;
  if (check.problems.size() == kMaxProblems) check.problems.emplace_back("... and more");
  if (check.problems.size() < kMaxProblems) check.problems.push_back(std::move(problem));
}

/// A digest line to compare with: from a record, or of another checkpoint.
struct Reference {
  Shape shape;
  std::string digest;
};
using References = std::map<std::string, Reference>;

/// Compares lines of a checkpoint with `references`; what is only in the latter is a problem if `all_expected`.
void compare_lines(const format::Checkpoint& checkpoint, const std::vector<DigestLine>& lines,
                   const References& references, bool all_expected, const std::string& whose, Check& check) {
  References left = references;
  Index compared = 0;
  for (const DigestLine& line : lines) {
    auto found = left.find(line.name);
    if (found == left.end()) {
      add_problem(check, fmt::format("{}: not in {}", line.name, whose));
      continue;
    }
    ++compared;
    const Reference& reference = found->second;
    if (reference.shape != line.shape) {
      const bool rows = is_vocabulary_padded(checkpoint) && reference.shape.size() == line.shape.size() &&
                        !line.shape.empty() && reference.shape.front() < line.shape.front();
      add_problem(
          check,
          fmt::format(
              "{}: shape {}, but {} in {}{}", line.name, shape_text(line.shape), shape_text(reference.shape), whose,
              rows ? fmt::format("; the vocabulary is padded: say --vocab-size {}", reference.shape.front()) : ""));
    } else if (reference.digest != digest_text(line.digest)) {
      add_problem(check, fmt::format("{}: digest {}, but {} in {}", line.name, digest_text(line.digest),
                                     reference.digest, whose));
    }
    left.erase(found);
  }
  if (all_expected) {
    for (const auto& [name, reference] : left) add_problem(check, fmt::format("{}: only in {}", name, whose));
  }
  check.detail = fmt::format("{} tensors compared with {}", compared, whose);
}

/// Text of the record inside or beside the checkpoint; empty if there is none. Collective.
Expected<std::string> read_record(Context& context, const format::Checkpoint& checkpoint) {
  const format::Directory& directory = checkpoint.probe.directory;
  if (const auto inside = directory.inside.find(kRecordName); inside != directory.inside.end()) return inside->second;
  std::string text;
  Status status;
  if (context.comm.rank() == 0 && !checkpoint.synthetic) {
    const std::string path = directory.root + "/" + kRecordName;
    std::error_code ignored;
    if (std::filesystem::is_regular_file(path, ignored)) {
      Expected<std::string> read = io::read_text(path);
      if (read) {
        text = *std::move(read);
      } else {
        status = std::move(read).error();
      }
    }
  }
  RESHARD_CHECK(comm::agree(context.comm, std::move(status)));
  context.comm.broadcast(text, 0);
  return text;
}

/// Lines of a record. Errors (input): a record that is none.
Expected<References> parse_record(const std::string& text, const std::string& path) {
  RESHARD_TRY(const nlohmann::json record, io::parse_strict_json(text, path));
  const Error broken = input_error(path + ": not a record of this program: digests.lines is missing or malformed");
  if (!record.is_object() || !record.contains("digests") || !record["digests"].is_object()) return broken;
  const nlohmann::json lines = record["digests"].value("lines", nlohmann::json());
  if (!lines.is_array()) return broken;
  References references;
  for (const nlohmann::json& line : lines) {
    if (!line.is_object() || !line.contains("name") || !line["name"].is_string() || !line.contains("digest") ||
        !line["digest"].is_string() || !line.contains("shape") || !line["shape"].is_array()) {
      return broken;
    }
    Reference reference{{}, line["digest"].get<std::string>()};
    for (const nlohmann::json& extent : line["shape"]) {
      if (!extent.is_number_integer()) return broken;
      reference.shape.push_back(extent.get<Index>());
    }
    references[line["name"].get<std::string>()] = std::move(reference);
  }
  return references;
}

Expected<Check> check_replicas(Context& context, const format::Checkpoint& checkpoint, const Options& options) {
  Check check{"replicas", Check::Outcome::skipped, "nothing is stored twice", {}};
  RESHARD_TRY(const ReplicaResult replicas, compare_replicas(context, checkpoint, options));
  if (replicas.replicas == 0) return check;
  check.outcome = Check::Outcome::passed;
  check.detail = fmt::format("{} copies compared with their first ones", replicas.replicas);
  if (checkpoint.format->copies_may_differ() && !replicas.problems.empty()) {
    check.detail = fmt::format("{} of {} copies differ from the first ones, which count ({} and others)",
                               replicas.problems.size(), replicas.replicas, replicas.problems.front());
    return check;
  }
  for (const std::string& problem : replicas.problems) add_problem(check, problem);
  return check;
}

Expected<Check> check_archives(Context& context, const format::Checkpoint& checkpoint, bool is_part) {
  Check check{"archives", Check::Outcome::skipped, "", {}};
  if (is_part) {
    check.detail = "a part of the checkpoint was asked for";
    return check;
  }
  context.tell(context.stage, "checking archives");
  RESHARD_TRY(const UnreadResult unread, check_unread(context, checkpoint));
  if (unread.files == 0) {
    check.detail = "no file says more than what is read of it";
    return check;
  }
  check.outcome = Check::Outcome::passed;
  check.detail = fmt::format("headers of {} files, CRC-32s of {} storages without weights ({} bytes)", unread.files,
                             unread.storages, unread.bytes);
  for (const std::string& problem : unread.problems) add_problem(check, problem);
  return check;
}

/// Gives tied tensors lines of their own: those of the tensors that take their places.
void spell_out_ties(const std::vector<model::Tie>& ties, std::vector<DigestLine>& lines) {
  std::vector<DigestLine> more;
  for (const model::Tie& tie : ties) {
    for (const DigestLine& line : lines) {
      if (line.name != tie.same && !line.name.starts_with(tie.same + "[")) continue;
      more.push_back(line);
      more.back().name.replace(0, tie.same.size(), tie.tensor);
    }
  }
  lines.insert(lines.end(), more.begin(), more.end());
}

Expected<Check> check_record(Context& context, const format::Checkpoint& checkpoint, std::vector<DigestLine> lines,
                             bool whole) {
  Check check{"record", Check::Outcome::skipped, fmt::format("no {}", kRecordName), {}};
  RESHARD_TRY(const std::string text, read_record(context, checkpoint));
  if (text.empty()) return check;
  Expected<References> references = parse_record(text, checkpoint.probe.directory.root + "/" + kRecordName);
  if (!references) {
    add_problem(check, references.error().message);
    return check;
  }
  check.outcome = Check::Outcome::passed;
  // The record may tell apart what equal bytes have tied since, or the other way round.
  const bool spelt_there = std::any_of(checkpoint.ties.begin(), checkpoint.ties.end(),
                                       [&](const model::Tie& tie) { return references->contains(tie.tensor); });
  if (spelt_there) spell_out_ties(checkpoint.ties, lines);
  compare_lines(checkpoint, lines, *references, whole, "the record of its making", check);
  return check;
}

/// Streams the other checkpoint, cast to the dtypes of the first, whose lines are `lines`, and compares.
Expected<Check> check_source(Context& context, const Pair& pair, std::vector<DigestLine> lines,
                             const std::vector<DType>& dtypes, const Options& options) {
  const layout::Canon &a = *pair.a.canon, &b = *pair.b.canon;
  std::map<std::string, DType> dtype_of;
  for (Index n = 0; n < a.num_lines(); ++n) dtype_of[a.line_name(n)] = dtypes[static_cast<std::size_t>(n)];
  std::vector<DType> wanted = line_dtypes(*pair.b.layout);
  for (Index n = 0; n < b.num_lines(); ++n) {
    DType& dtype = wanted[static_cast<std::size_t>(n)];
    const auto found = dtype_of.find(b.line_name(n));
    if (found != dtype_of.end() && is_castable(dtype) && is_castable(found->second)) dtype = found->second;
  }
  RESHARD_TRY(const Streamed streamed, stream_canonical(context, pair.b, wanted, options));
  const auto is_wanted = [&](const DigestLine& line) { return pair.lines.count(line.name) != 0; };
  std::vector<DigestLine> other = digest_lines(pair.b, wanted, streamed.digests);
  if (pair.a.ties != pair.b.ties) {
    spell_out_ties(pair.a.ties, lines);
    spell_out_ties(pair.b.ties, other);
  }
  References references;
  for (const DigestLine& line : other) {
    if (is_wanted(line)) references[line.name] = {line.shape, digest_text(line.digest)};
  }
  std::erase_if(lines, [&](const DigestLine& line) { return !is_wanted(line); });
  Check check{"source", Check::Outcome::passed, "", {}};
  compare_lines(pair.a, lines, references, true, options.against, check);
  return check;
}

/// The options, with the true vocabulary where only the record of the checkpoint's making knows it.
Expected<Options> with_recorded_vocabulary(Context& context, const Options& given) {
  Options options = given;
  if (options.vocab_size != 0) return options;
  // A look at what is there; what is missing or unknown is told when it is opened for good.
  format::SourceOptions source = source_options(options);
  source.include.clear();
  source.exclude.clear();
  source.needs = [](const std::string&, const std::vector<std::string>&) { return false; };
  RESHARD_TRY(const format::Checkpoint checkpoint,
              format::open_checkpoint(options.src, source, context.library, context.comm));
  if (!is_vocabulary_padded(checkpoint)) return options;
  RESHARD_TRY(const std::string text, read_record(context, checkpoint));
  if (text.empty()) return options;
  const auto record = io::parse_strict_json(text, kRecordName);
  if (!record || !record->is_object() || !record->contains(kRecordVocabulary)) return options;
  const auto& rows = (*record)[kRecordVocabulary];
  if (rows.is_number_integer() && rows.get<Index>() > 0 &&
      rows.get<Index>() < checkpoint.probe.spec.integer("vocab_size")) {
    options.vocab_size = rows.get<Index>();
  }
  return options;
}

}  // namespace

bool VerifyResult::passed() const {
  return std::none_of(checks.begin(), checks.end(),
                      [](const Check& check) { return check.outcome == Check::Outcome::failed; });
}

Expected<VerifyResult> verify(Context& context, const Options& given) {
  if (given.against.empty() && !given.against_from.empty()) {
    return usage_error("--against-from " + given.against_from + ": needs --against, the checkpoint to compare with");
  }
  context.tell(context.stage, "reading headers");
  RESHARD_TRY(const Options options, with_recorded_vocabulary(context, given));
  VerifyResult result;
  result.checkpoint = options.src;
  result.against = options.against;
  std::optional<Pair> pair;
  std::optional<format::Checkpoint> alone;
  if (options.against.empty()) {
    RESHARD_TRY(alone, open_source(context, options.src, source_options(options)));
    tell_unmatched(context, options, *alone);
  } else {
    RESHARD_TRY(pair, open_pair(context, options.against, options));
  }
  const format::Checkpoint& checkpoint = pair ? pair->a : *alone;
  result.checks.push_back(
      {"structure",
       Check::Outcome::passed,
       fmt::format("{} arrays in {} files are those of {} in format {}", checkpoint.layout->arrays().size(),
                   checkpoint.probe.directory.files.size(), checkpoint.probe.spec.family, checkpoint.format->name()),
       {}});
  RESHARD_TRY(Check archives, check_archives(context, checkpoint, chooses(options)));
  result.checks.push_back(std::move(archives));
  RESHARD_TRY(Check replicas, check_replicas(context, checkpoint, options));
  result.checks.push_back(std::move(replicas));

  const std::vector<DType> dtypes = line_dtypes(*checkpoint.layout);
  RESHARD_TRY(Streamed streamed, stream_canonical(context, checkpoint, dtypes, options));
  result.stream = std::move(streamed.report);
  std::vector<DigestLine> lines = digest_lines(checkpoint, dtypes, streamed.digests);
  const bool whole = options.include.empty() && options.exclude.empty();
  RESHARD_TRY(Check record, check_record(context, checkpoint, lines, whole));
  result.checks.push_back(std::move(record));
  if (pair) {
    RESHARD_TRY(Check source, check_source(context, *pair, std::move(lines), dtypes, options));
    result.checks.push_back(std::move(source));
  }
  return result;
}

Json to_json(const VerifyResult& result) {
  constexpr std::array<const char*, 3> kOutcomes = {"passed", "failed", "skipped"};
  Json checks = Json::array();
  for (const Check& check : result.checks) {
    checks.push_back({{"name", check.name},
                      {"outcome", kOutcomes[static_cast<std::size_t>(check.outcome)]},
                      {"detail", check.detail},
                      {"problems", check.problems}});
  }
  return {{"command", "verify"},
          {"checkpoint", result.checkpoint},
          {"against", result.against.empty() ? Json(nullptr) : Json(result.against)},
          {"passed", result.passed()},
          {"checks", std::move(checks)},
          {"stream", to_json(result.stream)}};
}

}  // namespace reshard::app
