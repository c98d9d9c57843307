// SPDX-License-Identifier: Apache-2.0
#include "output.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "extent_crcs.h"
#include "process.h"
#include "reshard/base/hash.h"
#include "reshard/base/text.h"
#include "reshard/exec/file_sink.h"
#include "reshard/io/settings.h"

namespace reshard::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr Index kCopyBlock = 4 * kMiB;
constexpr Index kMostUndurable = 256 * kMiB;  // of a node: what it can make durable when it is told to stop

/// Path of a file of the target below `root`; a one-file target is `root` itself.
std::string path_below(const std::string& root, const std::string& relative) {
  return relative.empty() ? root : root + "/" + relative;
}

Status copy_file(const std::string& src, const std::string& root, const std::string& dst) {
  RESHARD_CHECK(io::make_folders(root, dst));
  RESHARD_TRY(const std::unique_ptr<io::Source> source, io::open_source(src, "", io::Follow::all, {}));
  RESHARD_TRY(const std::unique_ptr<io::Target> target, io::open_target(dst, source->size(), {}));
  std::vector<std::byte> block(static_cast<std::size_t>(std::min(kCopyBlock, source->size())));
  for (Index at = 0; at < source->size(); at += kCopyBlock) {
    const std::span<std::byte> part =
        std::span(block).first(static_cast<std::size_t>(std::min(kCopyBlock, source->size() - at)));
    RESHARD_CHECK(source->read_at(part, at));
    RESHARD_CHECK(target->write_at(part, at));
  }
  return target->sync();
}

/// What a resumed conversion must find unchanged, beside the plan: options, side files, and the source's files (not
/// their inodes: copies on other nodes will do).
std::string sources_text(const Conversion& conversion, const Json& head) {
  Hasher hasher;
  hasher.text(nlohmann::json(head).dump());
  for (const format::Sidecar& sidecar : conversion.target.sidecars) {
    hasher.text(sidecar.path);
    hasher.text(sidecar.text);
  }
  const format::Directory& directory = conversion.checkpoint.probe.directory;
  for (std::size_t f = 0; f < directory.fingerprints.size(); ++f) {
    hasher.text(directory.files[f]);
    hasher.word(directory.fingerprints[f].size);
    hasher.word(directory.fingerprints[f].mtime_ns);
  }
  return hash_text(hasher.value());
}

/// Does what stands at DST say that it is the output of this very conversion, and the report beside it that it was made
/// from these very files? (Another source of the same name may have the same headers.)
bool holds(const Conversion& conversion, const nlohmann::json& head, const std::string& sources) {
  std::optional<nlohmann::json> record = read_record(conversion.dst);
  if (!record) return false;
  record->erase("digests");
  const auto report = io::read_text(report_path(conversion.dst));
  const nlohmann::json reported = report ? nlohmann::json::parse(*report, nullptr, false) : nlohmann::json();
  return *record == head && reported.is_object() && reported.value(kReportSources, "") == sources;
}

/// The files of the target below the partial output, with the spans that this rank writes.
std::vector<exec::FileSink::File> sink_files(const Conversion& conversion, const plan::Plan& plan, int rank,
                                             const std::string& partial) {
  std::vector<exec::FileSink::File> files;
  for (std::uint32_t f = 0; f < conversion.target.files.size(); ++f) {
    exec::FileSink::File file{
        path_below(partial, conversion.target.files[f].path), conversion.target.images[f].size, {}, {}};
    for (const container::Extent& extent : conversion.target.images[f].checked) {
      file.checked.push_back({extent.offset, extent.offset + extent.length});
    }
    for (Index span = 0; span * plan::kSpanBytes < file.size; ++span) {
      if (plan.owner(f, span) == rank) file.spans.push_back(span);
    }
    files.push_back(std::move(file));
  }
  return files;
}

std::size_t num_spans(const container::FileImage& image) {
  return static_cast<std::size_t>(ceil_div(image.size, plan::kSpanBytes));
}

std::string pack(const std::vector<std::vector<bool>>& done) {
  std::string packed;
  for (const auto& file : done) {
    for (const bool span : file) packed += span ? '1' : '0';
  }
  return packed;
}

}  // namespace

job::Claim::Request claim_request(const Context& context, const Options& options, const Conversion& conversion,
                                  std::uint64_t plan_hash) {
  const Json head = record_head(context, conversion, options, plan_hash);
  job::Claim::Request request;
  request.target = conversion.dst;
  request.one_file = conversion.target.format->one_file();
  request.overwrite = options.overwrite;
  request.resume = options.resume;
  request.parts = options.parts;
  request.part = options.part;
  request.plan_hash = hash_text(plan_hash);
  request.sources = sources_text(conversion, head);
  request.job_id = scheduler_job();
  request.is_done = [&conversion, head, sources = request.sources] { return holds(conversion, head, sources); };
  return request;
}

Expected<std::optional<Output>> Output::open(Context& context, const Options& options, const Conversion& conversion,
                                             const plan::Plan& plan) {
  comm::Comm& comm = context.comm;
  context.tell(context.stage, "claiming the output");
  Output output(conversion);
  output.alone_ = options.parts == 1;
  std::string packed;
  bool is_done = false;
  const Status status = comm.rank() != 0 ? Status() : [&]() -> Status {
    job::Claim::Request request = claim_request(context, options, conversion, plan.hash());
    output.sources_ = request.sources;
    output.is_done_ = request.is_done;
    request.interrupted = [&] { return context.interruption && !context.interruption().empty(); };
    RESHARD_TRY(std::optional<job::Claim> claim, job::Claim::make(request));
    is_done = !claim;
    if (is_done) return {};
    output.part_ = std::make_unique<job::Heartbeat>(*std::move(claim));
    output.partial_ = output.claim().partial();
    output.journal_ = output.claim().journal();
    output.journal_name_ = output.claim().journal_name();
    Status read = output.claim().resumed() ? output.read_done(plan.hash()) : Status();
    is_done = !read && output.is_overtaken();
    if (!read && !is_done) {
      output.part_->update({{"error", read.error().message}});
      static_cast<void>(output.part_->end(job::kFailed));
      return read;
    }
    packed = pack(output.done_);
    return {};
  }();
  RESHARD_CHECK(comm::agree(comm, Status(status)));
  std::string done_text = is_done ? "yes" : "";
  comm.broadcast(done_text, 0);
  if (!done_text.empty()) return std::optional<Output>();
  comm.broadcast(output.partial_, 0);
  comm.broadcast(output.journal_, 0);
  comm.broadcast(output.journal_name_, 0);
  comm.broadcast(packed, 0);
  if (comm.rank() != 0 && !packed.empty()) {
    std::size_t at = 0;
    for (const container::FileImage& image : conversion.target.images) {
      std::vector<bool>& file = output.done_.emplace_back();
      for (std::size_t span = 0; span < num_spans(image); ++span) file.push_back(packed[at++] == '1');
    }
  }
  return std::optional(std::move(output));
}

/// One record per span; what a part did twice is equal.
Expected<std::vector<job::SpanRecord>> Output::records(std::uint64_t plan_hash) const {
  RESHARD_TRY(std::vector<job::SpanRecord> records, job::Journal::read_all(journal_, hash_text(plan_hash)));
  const auto key = [](const job::SpanRecord& record) { return std::pair(record.file, record.span); };
  std::sort(records.begin(), records.end(), [&](const auto& a, const auto& b) { return key(a) < key(b); });
  const auto last =
      std::unique(records.begin(), records.end(), [&](const auto& a, const auto& b) { return key(a) == key(b); });
  records.erase(last, records.end());
  const auto& images = conversion_->target.images;
  for (const job::SpanRecord& record : records) {
    if (record.file >= images.size() || record.span >= num_spans(images[record.file])) {
      return run_error(fmt::format("{}: tells of span {} of file {}, which the plan does not have", journal_,
                                   record.span, record.file));
    }
  }
  return records;
}

Status Output::read_done(std::uint64_t plan_hash) {
  RESHARD_TRY(const std::vector<job::SpanRecord> durable, records(plan_hash));
  if (durable.empty()) return {};
  for (const container::FileImage& image : conversion_->target.images) done_.emplace_back(num_spans(image), false);
  for (const job::SpanRecord& record : durable) done_[record.file][record.span] = true;
  return check_files(durable);
}

/// Are the files there that the journals tell of?
Status Output::check_files(const std::vector<job::SpanRecord>& durable) const {
  std::uint32_t checked = std::numeric_limits<std::uint32_t>::max();
  for (const job::SpanRecord& record : durable) {
    if (std::exchange(checked, record.file) == record.file) continue;
    const std::string path = path_below(partial_, conversion_->target.files[record.file].path);
    struct stat status;
    if (::stat(path.c_str(), &status) == 0 && status.st_size == conversion_->target.images[record.file].size) continue;
    return usage_error(
        fmt::format("{}: is missing or has another size, but {} says that parts of it are written; remove {} and {} to "
                    "start afresh",
                    path, journal_, journal_, partial_));
  }
  return {};
}

Expected<Streamed> Output::stream(Context& context, const plan::Plan& plan, Index total) {
  comm::Comm& comm = context.comm;
  std::optional<job::Journal> journal;
  exec::FileSink::Options options;
  RESHARD_CHECK(comm::agree(comm, [&]() -> Status {
    RESHARD_TRY(options.mode, io::probe_target(fs::path(partial_).parent_path().string()));
    RESHARD_TRY(journal, job::Journal::create(journal_, fmt::format("{}.rank-{:05}", journal_name_, comm.rank()),
                                              hash_text(plan.hash())));
    return {};
  }()));
  if (!conversion_->target.format->one_file()) options.root = partial_;
  options.most_undurable_bytes = std::max<Index>(plan::kSpanBytes, kMostUndurable / std::max(1, comm.local_size()));
  options.durable = [&](const std::vector<job::SpanRecord>& spans) { return journal->append(spans); };
  exec::FileSink sink(sink_files(*conversion_, plan, comm.rank(), partial_), options);

  const auto show = std::exchange(context.progress, nullptr);
  const auto interruption = context.interruption;
  if (comm.rank() == 0) {
    const Index before = total - plan.target_bytes();
    part_->update({{"bytes", total}, {"bytes_before", before}, {"bytes_written", 0}, {"seconds", 0.0}});
    context.progress = [this, show](const Moment& moment) {
      if (show) show(moment);
      part_->update({{"bytes_written", moment.all_ranks.bytes_written}, {"seconds", moment.elapsed_s}});
    };
    context.interruption = [this, interruption]() -> std::string {
      std::string why = part_->replaced();
      return why.empty() && interruption ? interruption() : why;
    };
  }
  Expected<Streamed> streamed = run_stream(context, plan, {&conversion_->checkpoint}, sink, &spoiled_);
  context.progress = show;
  context.interruption = interruption;
  if (!streamed) {
    // The first error stands; spans that are not durable are made again.
    static_cast<void>(sink.flush());
    return streamed;
  }
  if (comm.rank() == 0) {
    part_->update({{"bytes_written", plan.target_bytes()}, {"seconds", streamed->report.seconds}});
  }
  return streamed;
}

Expected<std::optional<Digests>> Output::finish(Context& context, const Options& options, std::uint64_t plan_hash) {
  comm::Comm& comm = context.comm;
  context.tell(context.stage, "committing");
  std::optional<Digests> digests;
  std::string last;
  const Status status = comm.rank() != 0 ? Status() : [&]() -> Status {
    // The part is at work until it is clear that it is not the last: nobody else may finish.
    RESHARD_CHECK(part_->beat());
    RESHARD_TRY(const bool is_last, claim().take_ticket());
    if (!is_last) {
      const Status told = part_->end(job::kFinished);
      return told || claim().is_over() ? Status() : told;
    }
    parts_ = job::PartRecord::read_all(journal_);
    last = "yes";
    RESHARD_TRY(digests, write_rest(context, options, plan_hash));
    committing_ = true;
    // The report to come may not be written any more; this much --resume wants to know.
    const Json begun = {{"command", "convert"}, {kReportSources, sources_}};
    return claim().commit([&] { return io::write_text(report_path(conversion_->dst), begun.dump() + "\n"); });
  }();
  RESHARD_CHECK(comm::agree(comm, Status(status)));
  comm.broadcast(last, 0);
  if (last.empty()) return std::optional<Digests>();
  if (comm.rank() != 0) digests.emplace();
  return digests;
}

/// Writes what depends on the data and what is no tensor, and syncs it. Local, after all have synced and closed the
/// files. Every step may be done twice.
Expected<Digests> Output::write_rest(const Context& context, const Options& options, std::uint64_t plan_hash) {
  const format::Target& target = conversion_->target;
  RESHARD_TRY(const std::vector<job::SpanRecord> durable, records(plan_hash));
  std::size_t wanted = 0;
  for (const container::FileImage& image : target.images) wanted += num_spans(image);
  if (durable.size() != wanted) {
    return run_error(fmt::format(
        "{}: {} of {} spans are durable though all parts have finished; run the parts again with the same options",
        journal_, durable.size(), wanted));
  }
  RESHARD_CHECK(check_files(durable));
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(target.layout->canon().num_lines()), 0);
  for (const job::SpanRecord& record : durable) {
    for (const auto& line : record.lines) sums.at(static_cast<std::size_t>(line.line)) += line.digest;
  }
  Digests digests = conversion_->digests(sums);
  RESHARD_TRY(const auto crcs, join_crcs(durable, target.images));

  RESHARD_CHECK(part_->beat());
  const container::Container* container = container::find(target.layout->table().container);
  const std::string record = record_text(record_head(context, *conversion_, options, plan_hash), digests);
  for (std::size_t f = 0; f < target.files.size(); ++f) {
    const std::string path = path_below(partial_, target.files[f].path);
    container::FileSpec spec = target.files[f].spec;
    if (target.format->one_file()) spec.files[kRecordName] = record;
    RESHARD_TRY(const std::vector<container::Segment> segments,
                container->finish(spec, target.images[f], {conversion_->item_digests(f, digests), crcs[f]}));
    if (segments.empty()) continue;
    RESHARD_TRY(const std::unique_ptr<io::Target> file, io::open_target(path, target.images[f].size, {}));
    for (const container::Segment& segment : segments) {
      RESHARD_CHECK(file->write_at(std::as_bytes(std::span(segment.bytes)), segment.offset));
    }
    RESHARD_CHECK(file->sync());
  }
  io::pass("segments");
  if (target.format->one_file()) return digests;
  for (const format::Sidecar& sidecar : target.sidecars) {
    RESHARD_CHECK(part_->beat());
    const std::string path = path_below(partial_, sidecar.path);
    RESHARD_CHECK(sidecar.copy_from.empty() ? io::write_text(path, sidecar.text)
                                            : copy_file(sidecar.copy_from, partial_, path));
  }
  io::pass("sidecars");
  RESHARD_CHECK(part_->beat());
  RESHARD_CHECK(io::write_text(path_below(partial_, kRecordName), record));
  io::pass("record");
  return digests;
}

bool Output::is_overtaken() const { return !committing_ && part_->claim().is_over() && is_done_(); }

Expected<bool> Output::fail(Context& context, Error error) {
  std::string overtaken;
  if (context.comm.rank() == 0) {
    // A part with nothing left to do may find the journal gone: the last one has committed.
    overtaken = is_overtaken() ? "yes" : "";
    if (overtaken.empty()) error = ended_by(context, std::move(error));
  }
  context.comm.broadcast(overtaken, 0);
  if (overtaken.empty()) return error;
  return true;
}

/// Says so in the part's record, and in the error that it can be resumed; gives up what cannot. On rank 0.
Error Output::ended_by(const Context& context, Error error) {
  if (spoiled_) {
    // What was read is not what it should be: none of it counts.
    if (alone_ && done_.empty()) {
      static_cast<void>(part_->end(job::kFailed));
      claim().discard();
      return error;
    }
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(journal_, ignored)) {
      if (entry.path().filename().string().starts_with(journal_name_)) fs::remove(entry.path(), ignored);
    }
  }
  const bool interrupted = context.interruption && !context.interruption().empty();
  part_->update({{"error", error.message}});
  static_cast<void>(part_->end(interrupted ? job::kStopped : job::kFailed));
  error.message += "; --resume goes on from here";
  return error;
}

}  // namespace reshard::app
