// SPDX-License-Identifier: Apache-2.0
#include "print.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "reshard/base/text.h"
#include "text_table.h"

namespace reshard::cli {
namespace {

constexpr std::size_t kMaxRankRows = 16;
constexpr std::size_t kMaxNamed = 8;

std::string describe_mesh(const layout::Mesh& mesh) {
  std::string text = fmt::format("tp {}, pp {}", mesh.tp, mesh.pp);
  if (mesh.ep != 1) text += fmt::format(", ep {}", mesh.ep);
  if (mesh.dp != 1) text += fmt::format(", dp {}", mesh.dp);
  return text;
}

/// 1234567 as "1,234,567".
std::string with_commas(Index number) {
  std::string text = std::to_string(number);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3) {
    text.insert(static_cast<std::size_t>(at), ",");
  }
  return text;
}

std::string plural(Index count, std::string_view noun) {
  return fmt::format("{} {}{}", with_commas(count), noun, count == 1 ? "" : "s");
}

/// The first few names, and how many more there are.
std::string some_of(const std::vector<std::string>& names) {
  std::vector<std::string> named(names.begin(),
                                 names.begin() + static_cast<std::ptrdiff_t>(std::min(kMaxNamed, names.size())));
  if (names.size() > kMaxNamed) named.push_back(fmt::format("and {} more", names.size() - kMaxNamed));
  return join(named, ", ");
}

std::string describe_stream(const app::StreamReport& stream) {
  Index read = 0, sent = 0, rss = 0;
  for (const app::RankReport& rank : stream.ranks) {
    read += rank.totals.bytes_read;
    sent += rank.totals.bytes_sent;
    rss = std::max(rss, rank.peak_rss_bytes);
  }
  const std::string carrier = stream.exchange.name == "none" ? "" : " by " + stream.exchange.name;
  return fmt::format("{} of tensors in {} ({}) on {}, read {}, repacked on {}, exchanged {}{} ({}), peak memory {}",
                     describe_bytes(stream.target_bytes), describe_seconds(stream.seconds),
                     describe_rate(stream.bytes_per_second()), plural(std::ssize(stream.ranks), "rank"),
                     describe_bytes(read), stream.device.name, describe_bytes(sent), carrier,
                     plan::to_string(stream.route), describe_bytes(rss));
}

std::string small_number(double value) { return value == 0 ? "0" : fmt::format("{:.3g}", value); }

/// The table per rank: least, mean and most of each column; every rank where they are few.
std::string rank_table(const std::vector<app::RankPlan>& ranks) {
  TextTable table("lrrrrrr");
  table.add({"rank", "read", "sent", "off node", "received", "written", "rounds"});
  const auto columns = [](const app::RankPlan& rank) {
    const plan::Totals& t = rank.totals;
    return std::vector<Index>{t.bytes_read,     t.bytes_sent,    rank.sent_off_node,
                              t.bytes_received, t.bytes_written, t.rounds};
  };
  const auto add_row = [&](const std::string& name, const std::vector<Index>& values) {
    std::vector<std::string> row = {name};
    for (std::size_t c = 0; c + 1 < values.size(); ++c) row.push_back(describe_bytes(values[c]));
    row.push_back(std::to_string(values.back()));
    table.add(std::move(row));
  };
  std::vector<Index> least = columns(ranks.front()), most = least, sum(least.size(), 0);
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const std::vector<Index> values = columns(ranks[r]);
    if (ranks.size() <= kMaxRankRows) add_row(std::to_string(r), values);
    for (std::size_t c = 0; c < values.size(); ++c) {
      least[c] = std::min(least[c], values[c]);
      most[c] = std::max(most[c], values[c]);
      sum[c] += values[c];
    }
  }
  if (ranks.size() > 1) {
    std::vector<Index> mean = sum;
    for (Index& value : mean) value /= std::ssize(ranks);
    add_row("min", least);
    add_row("mean", mean);
    add_row("max", most);
  }
  const std::string more =
      ranks.size() > kMaxRankRows ? fmt::format("  ({} ranks: --json has a row for each)\n", ranks.size()) : "";
  return table.text(2) + more;
}

std::string run_table(const std::vector<app::RunBucket>& runs) {
  TextTable table("lrrrr");
  table.add({"runs of", "source runs", "bytes", "target runs", "bytes"});
  for (const app::RunBucket& bucket : runs) {
    const std::string label = bucket.to_bytes == 0     ? fmt::format("{} or more", describe_bytes(bucket.from_bytes))
                              : bucket.from_bytes == 0 ? fmt::format("less than {}", describe_bytes(bucket.to_bytes))
                                                       : fmt::format("{} to {}", describe_bytes(bucket.from_bytes),
                                                                     describe_bytes(bucket.to_bytes));
    table.add({label, with_commas(bucket.src_runs), describe_bytes(bucket.src_bytes), with_commas(bucket.dst_runs),
               describe_bytes(bucket.dst_bytes)});
  }
  return table.text(2);
}

/// What a stage is called, and who does it.
std::string stage_name(plan::Stage stage, plan::Device device) {
  const bool on_gpus = device == plan::Device::cuda;
  switch (stage) {
    case plan::Stage::upload:
      return "to GPUs";
    case plan::Stage::download:
      return "from GPUs";
    case plan::Stage::repack:
      return on_gpus ? "repack (CUDA)" : "repack (CPU)";
    case plan::Stage::exchange:
      return on_gpus ? "exchange (NCCL)" : "exchange (MPI)";
    default:
      return std::string(to_string(stage));
  }
}

/// Times per stage, their total, and what binds.
std::string describe_prediction(const app::PredictedTime& predicted) {
  const plan::Prediction& p = predicted.prediction;
  const auto seconds = [](double s) { return fmt::format("{:.3f}", s); };
  TextTable table("lrrrl");
  table.add({"stage", "seconds", "rank min", "rank max", "limited by"});
  table.add({"start", seconds(p.start_s), "", "", "headers, plan, claim"});
  for (const plan::Prediction::Part& part : p.parts) {
    table.add({stage_name(part.stage, predicted.device), seconds(part.seconds), seconds(part.rank_min_s),
               seconds(part.rank_max_s), part.limit.empty() ? "nothing" : std::string(part.limit)});
  }
  if (p.store_together_s > 0) table.add({"read and write", seconds(p.store_together_s), "", "", "one store for both"});
  if (p.cores_s > 0) table.add({"cores", seconds(p.cores_s), "", "", "repack and messages of a node"});
  table.add({"first and last", seconds(p.fill_s), "", "", "rounds that overlap with nothing"});
  table.add({"finish", seconds(p.finish_s), "", "", "syncs, records, rename"});
  table.add({"total", seconds(p.seconds()), "", "", "start, the busiest, first and last, finish"});
  TextTable facts("ll");
  facts.add({"binds", p.binds.empty() ? "nothing" : fmt::format("{} ({})", p.binds, p.limit)});
  for (const plan::Prediction::Crossing& crossing : p.crossings) {
    const std::string name = stage_name(crossing.stage, predicted.device);
    facts.add({"would bind",
               crossing.factor <= 1
                   ? fmt::format("{}: is busier than the store already", name)
                   : fmt::format("{}: from {:.3g} times this store on, read {} and write {} by all ranks", name,
                                 crossing.factor, describe_rate(crossing.read), describe_rate(crossing.write))});
  }
  return fmt::format("predicted on {}\n{}{}", predicted.machine, table.text(2), facts.text(2));
}

std::string yes_or_no(bool yes) { return yes ? "yes" : "no"; }

}  // namespace

std::string describe(const app::InspectResult& result) {
  TextTable facts("ll");
  facts.add({"format", result.format});
  facts.add({"family", result.family});
  facts.add({"mesh", describe_mesh(result.mesh)});
  facts.add({"parameters", fmt::format("{}, mostly {}", with_commas(result.parameters), to_string(result.dtype))});
  facts.add({"stored", fmt::format("{} in {}, {}", plural(result.num_arrays, "array"), plural(result.num_files, "file"),
                                   describe_bytes(result.bytes))});
  if (result.vocabulary > 0) {
    facts.add(
        {"vocabulary", result.vocabulary_padded
                           ? fmt::format("{} rows, some of which may be padding: say --vocab-size N to cut them off",
                                         with_commas(result.vocabulary))
                           : with_commas(result.vocabulary)});
  }
  std::vector<std::string> ties;
  for (const model::Tie& tie : result.ties) ties.push_back(tie.text());
  facts.add({"tied", ties.empty() ? "nothing" : join(ties, ", ")});
  for (const auto& [key, value] : result.hyper_parameters.items()) facts.add({key, value.dump()});
  if (!result.side_files.empty()) facts.add({"side files", join(result.side_files, ", ")});
  if (!result.dropped.empty()) facts.add({"not used", some_of(result.dropped)});
  std::string out = result.path + "\n" + facts.text(2);

  TextTable arrays("lllrl");
  arrays.add({"array", "dtype", "shape", "bytes", "file"});
  for (const app::ArrayLine& array : result.arrays) {
    arrays.add({array.name, std::string(to_string(array.dtype)), app::shape_text(array.shape), with_commas(array.bytes),
                array.file});
  }
  return out + "\n" + arrays.text();
}

std::string describe(const app::PlanReport& report) {
  std::string out;
  const auto append = [&](const std::string& line) { out += line + "\n"; };
  append(fmt::format("{} ({}, {}) -> {} ({}, {}), family {}", report.src, report.src_format,
                     describe_mesh(report.src_mesh), report.dst, report.dst_format, describe_mesh(report.dst_mesh),
                     report.family));
  TextTable facts("ll");
  facts.add({"source", fmt::format("{} in {}, {}", plural(report.num_src_arrays, "array"),
                                   plural(report.num_src_files, "file"), describe_bytes(report.source_bytes))});
  facts.add({"target", fmt::format("{} in {}, {}", plural(report.num_dst_arrays, "array"),
                                   plural(report.num_dst_files, "file"), describe_bytes(report.target_bytes))});
  const Index ranks = std::ssize(report.ranks);
  facts.add({"job", fmt::format("{}, {} per node", plural(ranks, "rank"), report.ranks_per_node)});
  facts.add({"route", fmt::format("{}: {}", plan::to_string(report.route), report.route_reason)});
  facts.add({"read", fmt::format("{}, {:.2f}x the source{}", describe_bytes(report.bytes_read), report.amplification,
                                 report.amplification_reason.empty() ? "" : ": " + report.amplification_reason)});
  if (report.probe_bytes > 0) {
    facts.add({"", fmt::format("and {} to find out about the source", describe_bytes(report.probe_bytes))});
  }
  Index sent = 0, off_node = 0;
  for (const app::RankPlan& rank : report.ranks) {
    sent += rank.totals.bytes_sent;
    off_node += rank.sent_off_node;
  }
  facts.add({"exchanged", fmt::format("{}, {} of it between nodes", describe_bytes(sent), describe_bytes(off_node))});
  facts.add(
      {"memory", fmt::format("{} per rank of {}: tables {}, plan {}, buffers {}", describe_bytes(report.peak_bytes()),
                             describe_bytes(report.memory_budget), describe_bytes(report.table_bytes),
                             describe_bytes(report.plan_bytes), describe_bytes(report.slot_bytes))});
  facts.add({"read once", report.read_once_budget > 0
                              ? fmt::format("from --memory-budget {}KiB on", ceil_div(report.read_once_budget, kKiB))
                              : "with no budget"});
  facts.add({"copies", fmt::format("{}, planned in {}", with_commas(report.num_operations),
                                   describe_seconds(report.planning_s))});
  facts.add({"plan", app::hash_text(report.plan_hash)});
  out += facts.text(2);
  append("");
  out += rank_table(report.ranks);
  append("");
  out += run_table(report.runs);
  append("");
  if (report.predicted) out += describe_prediction(*report.predicted) + "\n";
  TextTable changes("ll");
  changes.add({"dropped", report.dropped.empty() ? "nothing" : some_of(report.dropped)});
  std::vector<std::string> padded;
  for (const app::Padding& one : report.padding) {
    padded.push_back(fmt::format("{} ({} elements)", one.array, with_commas(one.elements)));
  }
  changes.add({"padded", padded.empty() ? "nothing" : some_of(padded)});
  changes.add({"filled", fmt::format("{} of headers, padding and alignment", describe_bytes(report.filled_bytes))});
  if (report.replica_elements_skipped > 0) {
    changes.add({"replicas", fmt::format("{} elements are stored more than once and read once",
                                         with_commas(report.replica_elements_skipped))});
  }
  for (const app::LossyCast& cast : report.casts) {
    changes.add(
        {"lossy cast", fmt::format("{} -> {}: {}", to_string(cast.src), to_string(cast.dst), some_of(cast.arrays))});
  }
  return out + changes.text(2);
}

std::string describe(const app::ConvertResult& result) {
  using Outcome = app::ConvertResult::Outcome;
  if (result.outcome == Outcome::present) return fmt::format("{}: holds this conversion already\n", result.dst);
  TextTable facts("ll");
  facts.add({"format", fmt::format("{} ({}, {})", result.dst_format, result.family, describe_mesh(result.mesh))});
  if (result.outcome == Outcome::part) {
    facts.add(
        {"part", fmt::format("{} of {} is done; {} appears when all are", result.part + 1, result.parts, result.dst)});
    facts.add({"written", describe_bytes(result.stream.target_bytes)});
  } else {
    facts.add({result.dst == app::kNullTarget ? "not kept" : "written",
               fmt::format("{}, {}", plural(result.num_files, "file"), describe_bytes(result.target_bytes))});
  }
  if (result.resumed_bytes > 0)
    facts.add({"resumed", fmt::format("{} were there", describe_bytes(result.resumed_bytes))});
  facts.add({"stream", describe_stream(result.stream)});
  facts.add({"total time", describe_seconds(result.seconds)});
  if (result.outcome == Outcome::committed) facts.add({"digest", app::digest_text(result.digests.total)});
  return fmt::format("{}\n{}", result.dst, facts.text(2));
}

std::string describe(const app::VerifyResult& result) {
  std::string out;
  for (const app::Check& check : result.checks) {
    const char* outcome = check.outcome == app::Check::Outcome::passed   ? "ok"
                          : check.outcome == app::Check::Outcome::failed ? "FAILED"
                                                                         : "skipped";
    out += fmt::format("{:<10} {:<8} {}\n", check.name, outcome, check.detail);
    for (const std::string& problem : check.problems) out += fmt::format("  {}\n", problem);
  }
  return out + fmt::format("{}: {}\n", result.checkpoint, result.passed() ? "verified" : "NOT as it should be");
}

std::string describe(const app::StatusResult& result) {
  using State = app::StatusResult::State;
  TextTable table("lllrrrl");
  table.add({"state", "job", "host", "done", "rate", "left", "error"});
  const auto add = [&](const auto& one, const std::string& name, const std::string& host) {
    const std::string done =
        one.bytes == 0 ? "-" : fmt::format("{} of {}", describe_bytes(one.bytes_done), describe_bytes(one.bytes));
    table.add({std::string(app::to_string(one.state)), name, host, done,
               one.bytes_per_second > 0 ? describe_rate(one.bytes_per_second) : "-",
               one.seconds_left >= 0 ? describe_seconds(one.seconds_left) : "-", one.error});
  };
  for (const app::StatusResult::Job& job : result.jobs) {
    const std::string line = job.line > 0 ? fmt::format("{}: ", job.line) : "";
    add(job, line + (job.dst.empty() ? "?" : job.dst), job.parts.size() == 1 ? job.parts[0].host : "");
    if (job.parts.size() < 2) continue;
    for (const app::StatusResult::Part& part : job.parts) {
      add(part, fmt::format("  part {}/{}", part.part + 1, part.parts), part.host);
    }
  }
  std::vector<std::string> counts;
  for (const State state : {State::done, State::running, State::waiting, State::stopped, State::failed}) {
    if (const Index count = result.count(state); count > 0) {
      counts.push_back(fmt::format("{} {}", count, app::to_string(state)));
    }
  }
  return table.text() + join(counts, ", ") + "\n";
}

std::string describe(const app::JobList& list) {
  std::string text;
  for (const auto& job : list.jobs) text += job.dump() + "\n";
  return text;
}

std::string describe(const app::DiffResult& result) {
  TextTable table("llrrrrr");
  table.add({"tensor", "shape", "max |a-b|", "mean |a-b|", "relative L2", "cosine", "changed"});
  Index different = 0;
  for (const app::LineDifference& line : result.lines) {
    if (line.changed == 0) continue;
    if (!result.within(line)) ++different;
    table.add({line.name, app::shape_text(line.shape), small_number(line.max_abs), small_number(line.mean_abs),
               small_number(line.relative_l2), fmt::format("{:.6f}", line.cosine),
               fmt::format("{:.3g} %", 100 * line.changed_share())});
  }
  std::string out;
  const bool any = std::any_of(result.lines.begin(), result.lines.end(),
                               [](const app::LineDifference& line) { return line.changed > 0; });
  if (any) out += table.text() + "\n";
  for (const app::Mismatch& mismatch : result.mismatches)
    out += fmt::format("{}: {}\n", mismatch.name, mismatch.reason);
  const Index total = std::ssize(result.lines);
  if (result.equal()) {
    out += any ? fmt::format("equal within {}: {}\n", small_number(result.tolerance), plural(total, "tensor"))
               : fmt::format("equal: {}\n", plural(total, "tensor"));
  } else {
    out += fmt::format("different: {} of {}", different, plural(total, "tensor"));
    if (!result.mismatches.empty()) out += fmt::format(", {} without a counterpart", result.mismatches.size());
    out += "\n";
  }
  return out;
}

std::string describe(const app::DigestResult& result) {
  std::string out;
  for (const app::DigestLine& line : result.digests.lines) out += to_string(line) + "\n";
  for (const model::Tie& tie : result.digests.ties) out += tie.text() + "\n";
  return out + fmt::format("{}  total\n", app::digest_text(result.digests.total));
}

std::string describe(const app::FormatList& list) {
  std::string header = "l";
  header.append(list.formats.size(), 'l');
  TextTable table(header);
  std::vector<std::string> names = {"family"};
  for (const app::FormatList::Format& format : list.formats) names.push_back(format.name);
  table.add(names);
  std::string reasons;
  for (std::size_t f = 0; f < list.families.size(); ++f) {
    std::vector<std::string> row = {list.families[f]};
    for (const app::FormatList::Format& format : list.formats) {
      const app::FormatList::Cell& cell = format.cells[f];
      row.push_back(yes_or_no(cell.holds));
      if (!cell.holds) reasons += fmt::format("{} in {}: {}\n", cell.family, format.name, cell.reason);
    }
    table.add(std::move(row));
  }
  TextTable abouts("ll");
  for (const app::FormatList::Format& format : list.formats) {
    abouts.add({format.name, format.built_in ? format.about : format.about + " (by --config-dir; needs --from)"});
  }
  return abouts.text() + "\n" + table.text() + (reasons.empty() ? "" : "\n" + reasons);
}

std::string describe(const std::vector<app::ModelLine>& models) {
  TextTable table("llrr");
  table.add({"model", "family", "parameters", "layers"});
  for (const app::ModelLine& model : models) {
    table.add({model.name, model.family, with_commas(model.parameters), std::to_string(model.layers)});
  }
  return table.text();
}

std::string describe(const std::vector<app::MachineLine>& machines) {
  TextTable table("lrrrrl");
  table.add({"machine", "cores", "GPUs", "read", "write", ""});
  for (const app::MachineLine& line : machines) {
    const plan::Machine& machine = line.machine;
    table.add({line.name, std::to_string(machine.cores_per_node), std::to_string(machine.gpus_per_node),
               describe_rate(machine.read.node), describe_rate(machine.write.node), line.about});
  }
  return table.text();
}

std::string describe(const std::vector<app::DTypeLine>& dtypes) {
  TextTable table("llrl");
  table.add({"dtype", "torch", "bits", "--dtype converts"});
  for (const app::DTypeLine& dtype : dtypes) {
    table.add(
        {dtype.name, dtype.torch.empty() ? "-" : dtype.torch, std::to_string(dtype.bits), yes_or_no(dtype.castable)});
  }
  return table.text();
}

}  // namespace reshard::cli
