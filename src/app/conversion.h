// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "reshard/app/context.h"
#include "reshard/app/digest.h"
#include "reshard/app/options.h"
#include "reshard/app/plan_report.h"
#include "reshard/format/format.h"
#include "reshard/plan/plan.h"

namespace reshard::app {

/// Both sides of a conversion, described. Plans refer to it, so that it stays where it is.
struct Conversion {
  format::Checkpoint checkpoint;
  format::TargetOptions target_options;
  format::Target target;
  std::string dst;                ///< where the checkpoint will stand, or null:
  nlohmann::ordered_json source;  ///< describe_source

  bool writes() const;
  Index table_bytes() const;
  std::vector<plan::Transfer> transfers() const;
  std::vector<plan::TargetFile> target_files() const;
  plan::Options plan_options(const Options& options, int ranks) const;
  /// The fingerprint of the target with the sums of a stream.
  Digests digests(const std::vector<std::uint64_t>& sums) const;
  /// What the container stores with each item of a target file; empty texts for none.
  std::vector<std::string> item_digests(std::size_t file, const Digests& digests) const;
};

/// Opens the source and describes the target; tells notes. Errors: as open_checkpoint, describe_target; (usage) options
/// that contradict each other, DST and SRC inside one another. Collective.
Expected<std::unique_ptr<Conversion>> describe_conversion(Context& context, const Options& options);

/// The format of --to. Errors (usage): none, or none of that name, with a guess. Pure.
Expected<const format::Format*> find_target_format(const Context& context, const std::string& name);
/// The name of --dtype as records have it; empty if it is. Errors (usage): none to cast to. Pure.
Expected<std::string> parse_target_dtype(const std::string& name);

/// Says on stderr which casts of a plan lose values. Rank 0 tells.
void tell_casts(Context& context, const Conversion& conversion, const plan::Plan& plan);

/// What the source is, in words and a hash of its headers: the same wherever it lies and whoever reads it. Pure.
nlohmann::ordered_json describe_source(const format::Checkpoint& checkpoint, const std::string& path);

/// The run-independent record of a conversion (reshard.json) without its digests: source, options that change bytes,
/// version, plan hash. Pure.
nlohmann::ordered_json record_head(const Context& context, const Conversion& conversion, const Options& options,
                                   std::uint64_t plan_hash);
/// The whole record. Its length does not depend on the digests' values. Pure.
std::string record_text(nlohmann::ordered_json head, const Digests& digests);

/// The options of a record: those that change bytes. `dtype` is the parsed one. Pure.
nlohmann::ordered_json chosen_options(const Options& options, const std::string& dtype);

/// The path that is meant by DST: for a one-file format an existing folder means the usual file in it.
std::string resolve_dst(const std::string& dst, const format::Format& format);
/// The report of a run beside its output. Pure.
std::string report_path(const std::string& dst);

/// The record of an output that stands; nothing if it has none. Local.
std::optional<nlohmann::json> read_record(const std::string& dst);

inline constexpr const char* kRecordName = "reshard.json";
/// Key of the record: rows of the vocabulary that are no padding, as far as the source knew.
inline constexpr const char* kRecordVocabulary = "vocab_size";

}  // namespace reshard::app
