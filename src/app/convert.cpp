// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/convert.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <optional>

#include "conversion.h"
#include "output.h"
#include "process.h"
#include "reshard/app/document.h"
#include "reshard/base/text.h"
#include "reshard/exec/file_sink.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

}  // namespace

std::string_view to_string(ConvertResult::Outcome outcome) {
  constexpr std::array<std::string_view, 3> kNames = {"committed", "part", "present"};
  return kNames[static_cast<std::size_t>(outcome)];
}

Expected<ConvertResult> convert(Context& context, const Options& options) {
  const Clock::time_point begin = Clock::now();
  comm::Comm& comm = context.comm;
  RESHARD_TRY(const std::unique_ptr<Conversion> conversion, describe_conversion(context, options));
  plan::Options plan_options = conversion->plan_options(options, comm.size());
  std::optional<plan::Plan> plan;
  RESHARD_TRY(plan, make_plan(context, conversion->transfers(), conversion->target_files(), plan_options));
  tell_casts(context, *conversion, *plan);

  ConvertResult result;
  result.src = options.src;
  result.dst = conversion->dst;
  result.family = conversion->checkpoint.probe.spec.family;
  result.src_format = conversion->checkpoint.format->name();
  result.dst_format = conversion->target.format->name();
  result.mesh = conversion->target.layout->mesh();
  result.num_files = std::ssize(conversion->target.files);
  for (const container::FileImage& image : conversion->target.images) result.target_bytes += image.size;
  result.part = options.part;
  result.parts = options.parts;
  result.plan_hash = plan->hash();

  if (!conversion->writes()) {
    exec::NullSink sink;
    RESHARD_TRY(Streamed streamed, run_stream(context, *plan, {&conversion->checkpoint}, sink));
    if (options.parts == 1 && comm.rank() == 0) result.digests = conversion->digests(streamed.digests);
    if (options.parts > 1) result.outcome = ConvertResult::Outcome::part;
    result.stream = std::move(streamed.report);
    result.seconds = seconds_since(begin);
    return result;
  }

  RESHARD_TRY(std::optional<Output> output, Output::open(context, options, *conversion, *plan));
  if (!output) {
    result.outcome = ConvertResult::Outcome::present;
    result.seconds = seconds_since(begin);
    return result;
  }
  const auto work = [&]() -> Status {
    const Index total = plan->target_bytes();
    if (!output->done().empty()) {
      plan.reset();
      plan_options.done = output->done();
      RESHARD_TRY(plan, make_plan(context, conversion->transfers(), conversion->target_files(), plan_options));
      result.resumed_bytes = total - plan->target_bytes();
      if (result.resumed_bytes > 0) {
        context.tell(context.note, fmt::format("{} of {} are there from before", describe_bytes(result.resumed_bytes),
                                               describe_bytes(total)));
      }
    }
    RESHARD_TRY(Streamed streamed, output->stream(context, *plan, total));
    result.stream = std::move(streamed.report);
    RESHARD_TRY(std::optional<Digests> digests, output->finish(context, options, result.plan_hash));
    if (digests) result.digests = *std::move(digests);
    result.outcome = digests ? ConvertResult::Outcome::committed : ConvertResult::Outcome::part;
    return {};
  };
  if (Status done = work(); !done) {
    RESHARD_CHECK(output->fail(context, std::move(done).error()));
    result.outcome = ConvertResult::Outcome::present;
  }
  result.seconds = seconds_since(begin);
  if (comm.rank() == 0 && result.outcome == ConvertResult::Outcome::committed) {
    // The checkpoint stands; a report that cannot be written does not undo that.
    const std::string path = report_path(conversion->dst);
    Json report = to_json(result);
    report["command_line"] = context.command;
    report["reshard_version"] = context.version;
    report[kReportSources] = output->sources();
    if (const std::string job = scheduler_job(); !job.empty()) report["job"] = job;
    for (const job::PartRecord& part : output->parts()) {
      Json one = {{"part", part.part + 1}, {"of", part.parts}, {"host", part.runner.host}, {"job", part.runner.job}};
      one.update(part.details);
      report["part_reports"].push_back(std::move(one));
    }
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
            {"bytes", result.target_bytes}}},
          {"outcome", to_string(result.outcome)},
          {"part", result.part + 1},
          {"parts", result.parts},
          {"resumed_bytes", result.resumed_bytes},
          {"plan_hash", hash_text(result.plan_hash)},
          {"seconds", result.seconds},
          {"digests", result.outcome == ConvertResult::Outcome::committed ? to_json(result.digests) : Json(nullptr)},
          {"stream", to_json(result.stream)}};
}

}  // namespace reshard::app
