// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conversion.h"
#include "reshard/app/context.h"
#include "reshard/app/options.h"
#include "reshard/app/stream.h"
#include "reshard/job/claim.h"
#include "reshard/job/heartbeat.h"
#include "reshard/job/journal.h"

namespace reshard::app {

/// Key of DST.report.json: a hash of what the source's files were.
inline constexpr const char* kReportSources = "sources";

/// What a conversion asks of the claim on its target. `conversion` must outlive the result. Local: reads nothing before
/// `is_done` is called.
job::Claim::Request claim_request(const Context& context, const Options& options, const Conversion& conversion,
                                  std::uint64_t plan_hash);

/// An output under construction, on all ranks of one of its parts: the claim (rank 0's), what of it is durable, and
/// the steps that finish it.
class Output {
 public:
  /// Claims DST for a plan, or joins those who work on it. Nothing: DST holds the output of this very plan. Errors: as
  /// Claim::make; (usage) the journal tells of files that DST.partial lacks. Collective.
  static Expected<std::optional<Output>> open(Context& context, const Options& options, const Conversion& conversion,
                                              const plan::Plan& plan);

  /// Spans that are durable, by target file; empty: none. The same on all ranks.
  const std::vector<std::vector<bool>>& done() const { return done_; }

  /// Streams what the plan says into DST.partial, with a journal for each rank and a record of the part that follows
  /// its progress; `total` is the part's bytes, durable ones included. What is durable stays so after a failure.
  /// Collective.
  Expected<Streamed> stream(Context& context, const plan::Plan& plan, Index total);

  /// This part is done. If it is the last: checks that every span is durable, writes what depends on the values of all
  /// and what is no tensor, and commits. Nothing: other parts are still to come. The digests are on rank 0, elsewhere
  /// they are empty. Collective.
  Expected<std::optional<Digests>> finish(Context& context, const Options& options, std::uint64_t plan_hash);

  /// Says in the part's record what ended it, and in the error that it can be resumed; gives up what cannot. True
  /// instead of the error: other parts have made DST meanwhile. Collective.
  Expected<bool> fail(Context& context, Error error);

  /// What the source's files were, for the report.
  const std::string& sources() const { return sources_; }

  /// Records of all parts, as they stood when finish() was called. On the rank and in the part that committed.
  const std::vector<job::PartRecord>& parts() const { return parts_; }

 private:
  explicit Output(const Conversion& conversion) : conversion_(&conversion) {}

  Status read_done(std::uint64_t plan_hash);
  Status check_files(const std::vector<job::SpanRecord>& durable) const;
  bool is_overtaken() const;
  job::Claim& claim() { return part_->claim(); }
  Error ended_by(const Context& context, Error error);
  Expected<std::vector<job::SpanRecord>> records(std::uint64_t plan_hash) const;
  Expected<Digests> write_rest(const Context& context, const Options& options, std::uint64_t plan_hash);

  const Conversion* conversion_;
  bool alone_ = true;                     // the only part
  bool spoiled_ = false;                  // the source turned out to be wrong when all was written
  std::unique_ptr<job::Heartbeat> part_;  // on rank 0
  std::function<bool()> is_done_;         // does DST hold this output?
  std::string partial_, journal_, journal_name_, sources_;
  std::vector<std::vector<bool>> done_;
  std::vector<job::PartRecord> parts_;
  bool committing_ = false;
};

}  // namespace reshard::app
