// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "conversion.h"
#include "extent_crcs.h"
#include "reshard/app/document.h"
#include "reshard/exec/file_sink.h"
#include "reshard/job/claim.h"
#include "reshard/job/journal.h"

namespace reshard::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr Index kCopyBlock = 4 * kMiB;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// Path of a file of the target below `root`; a one-file target is `root` itself.
std::string path_below(const std::string& root, const std::string& relative) {
  return relative.empty() ? root : root + "/" + relative;
}

Status copy_file(const std::string& src, const std::string& dst) {
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

/// Writes what depends on the data and what is no tensor, and syncs it. Local, after every rank has synced and closed
/// the files.
Status finish_files(const Context& context, const Options& options, const Conversion& conversion,
                    std::uint64_t plan_hash, const Digests& digests,
                    const std::vector<std::vector<std::uint32_t>>& crcs, const std::string& partial) {
  const format::Target& target = conversion.target;
  const container::Container* container = container::find(target.layout->table().container);
  const std::string record = record_text(context, conversion, options, plan_hash, digests);
  for (std::size_t f = 0; f < target.files.size(); ++f) {
    const std::string path = path_below(partial, target.files[f].path);
    container::FileSpec spec = target.files[f].spec;
    if (target.format->one_file()) spec.files[kRecordName] = record;
    RESHARD_TRY(const std::vector<container::Segment> segments,
                container->finish(spec, target.images[f], {conversion.item_digests(f, digests), crcs[f]}));
    if (segments.empty()) continue;
    RESHARD_TRY(const std::unique_ptr<io::Target> file, io::open_target(path, target.images[f].size, {}));
    for (const container::Segment& segment : segments) {
      RESHARD_CHECK(file->write_at(std::as_bytes(std::span(segment.bytes)), segment.offset));
    }
    RESHARD_CHECK(file->sync());
  }
  if (target.format->one_file()) return {};
  for (const format::Sidecar& sidecar : target.sidecars) {
    const std::string path = path_below(partial, sidecar.path);
    RESHARD_CHECK(sidecar.copy_from.empty() ? io::write_text(path, sidecar.text) : copy_file(sidecar.copy_from, path));
  }
  return io::write_text(path_below(partial, kRecordName), record);
}

/// The output under construction, on all ranks. The claim is rank 0's.
struct Output {
  std::optional<job::Claim> claim;
  std::string partial, journal;
};

Expected<Output> claim_output(Context& context, const Options& options, const Conversion& conversion,
                              std::uint64_t plan_hash) {
  comm::Comm& comm = context.comm;
  Output output;
  Status status;
  if (comm.rank() == 0) {
    job::Claim::Request request = conversion.claim_request(options);
    request.plan_hash = hash_text(plan_hash);
    if (const char* id = std::getenv("SLURM_JOB_ID")) request.job_id = id;
    Expected<job::Claim> claim = job::Claim::make(request);
    if (claim) {
      output.claim = *std::move(claim);
      output.partial = output.claim->partial();
      output.journal = output.claim->journal();
    } else {
      status = std::move(claim).error();
    }
  }
  RESHARD_CHECK(comm::agree(comm, std::move(status)));
  comm.broadcast(output.partial, 0);
  comm.broadcast(output.journal, 0);
  return output;
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

Status append(job::Journal& journal, const std::vector<exec::DurableSpan>& spans) {
  std::vector<job::SpanRecord> records;
  for (const exec::DurableSpan& span : spans) {
    job::SpanRecord record;
    record.file = span.file;
    record.span = static_cast<std::uint32_t>(span.span);
    for (const auto& line : span.lines) record.lines.push_back({line.line, line.digest});
    for (const auto& crc : span.crcs) record.crcs.push_back({crc.extent, crc.length, crc.crc});
    records.push_back(std::move(record));
  }
  return journal.append(records);
}

/// Streams into the partial output. Collective.
Expected<Streamed> stream_to_files(Context& context, const Conversion& conversion, const plan::Plan& plan,
                                   const Output& output, TargetCrcs& crcs) {
  const int rank = context.comm.rank();
  std::optional<job::Journal> journal;
  exec::FileSink::Options options;
  RESHARD_CHECK(comm::agree(context.comm, [&]() -> Status {
    RESHARD_TRY(options.mode, io::probe_target(fs::path(output.partial).parent_path().string()));
    RESHARD_TRY(journal, job::Journal::create(output.journal, fmt::format("rank-{:05}", rank), hash_text(plan.hash())));
    return {};
  }()));
  options.durable = [&](const std::vector<exec::DurableSpan>& spans) {
    crcs.add(spans);
    return append(*journal, spans);
  };
  exec::FileSink sink(sink_files(conversion, plan, rank, output.partial), options);
  return run_stream(context, plan, {&conversion.checkpoint}, sink);
}

}  // namespace

Expected<ConvertResult> convert(Context& context, const Options& options) {
  const Clock::time_point begin = Clock::now();
  comm::Comm& comm = context.comm;
  RESHARD_TRY(const std::unique_ptr<Conversion> conversion, describe_conversion(context, options));
  RESHARD_TRY(const plan::Plan plan, make_plan(context, conversion->transfers(), conversion->target_files(),
                                               conversion->plan_options(options, comm.size())));
  tell_casts(context, *conversion, plan);

  ConvertResult result;
  result.src = options.src;
  result.dst = conversion->dst;
  result.family = conversion->checkpoint.probe.spec.family;
  result.src_format = conversion->checkpoint.format->name();
  result.dst_format = conversion->target.format->name();
  result.mesh = conversion->target.layout->mesh();
  result.num_files = std::ssize(conversion->target.files);
  result.plan_hash = plan.hash();

  if (!conversion->writes()) {
    exec::NullSink sink;
    RESHARD_TRY(Streamed streamed, run_stream(context, plan, {&conversion->checkpoint}, sink));
    result.digests = conversion->digests(streamed.digests);
    result.stream = std::move(streamed.report);
    result.seconds = seconds_since(begin);
    return result;
  }

  RESHARD_TRY(Output output, claim_output(context, options, *conversion, result.plan_hash));
  TargetCrcs written;
  Expected<Streamed> streamed = stream_to_files(context, *conversion, plan, output, written);
  Status status = streamed ? Status{} : Status{streamed.error()};
  if (status) {
    result.digests = conversion->digests(streamed->digests);
    const auto crcs = written.join(comm, conversion->target.images);
    if (!crcs) {
      status = crcs.error();
    } else if (comm.rank() == 0) {
      status = finish_files(context, options, *conversion, result.plan_hash, result.digests, *crcs, output.partial);
    }
    status = comm::agree(comm, std::move(status));
  }
  if (!status) {
    if (comm.rank() == 0) output.claim->discard();
    return std::move(status).error();
  }
  // From here on the output is complete: what hinders the commit does not take it away.
  if (comm.rank() == 0) status = output.claim->commit();
  RESHARD_CHECK(comm::agree(comm, std::move(status)));
  result.stream = std::move(streamed->report);
  result.seconds = seconds_since(begin);
  if (comm.rank() == 0) {
    // The checkpoint stands; a report that cannot be written does not undo that.
    const std::string path = conversion->dst + ".report.json";
    Json report = to_json(result);
    report["command_line"] = context.command;
    report["reshard_version"] = context.version;
    const Status reported = io::write_text(path, document_text(report));
    if (!reported) context.tell(context.warning, reported.error().message);
  }
  return result;
}

Json to_json(const ConvertResult& result) {
  return {{"command", "convert"},
          {"source", {{"path", result.src}, {"format", result.src_format}, {"family", result.family}}},
          {"target",
           {{"path", result.dst},
            {"format", result.dst_format},
            {"mesh", to_json(result.mesh)},
            {"files", result.num_files},
            {"bytes", result.stream.target_bytes}}},
          {"plan_hash", hash_text(result.plan_hash)},
          {"seconds", result.seconds},
          {"digests", to_json(result.digests)},
          {"stream", to_json(result.stream)}};
}

}  // namespace reshard::app
