// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "command_line.h"
#include "reshard/base/text.h"

namespace reshard::cli {
namespace {

constexpr unsigned bit(Command command) { return 1u << static_cast<unsigned>(command); }

constexpr unsigned kJobs = bit(Command::jobs);
constexpr unsigned kTarget = bit(Command::plan) | bit(Command::convert) | kJobs;
constexpr unsigned kStreams =
    bit(Command::convert) | kJobs | bit(Command::verify) | bit(Command::diff) | bit(Command::digest);
constexpr unsigned kBudget = kStreams | bit(Command::plan);
constexpr unsigned kSource = kBudget | bit(Command::inspect);
constexpr unsigned kChoice = kSource & ~bit(Command::digest);
constexpr unsigned kAll = kSource | bit(Command::list) | bit(Command::status);

using Apply = std::function<Status(Invocation&, const std::string&)>;

Error bad_value(std::string_view name, const std::string& value, std::string_view expected) {
  return usage_error(fmt::format("--{} {}: expected {}", name, value, expected));
}

Apply text(std::string app::Options::*member) {
  return [=](Invocation& invocation, const std::string& value) -> Status {
    invocation.options.*member = value;
    return {};
  };
}

Apply list(std::vector<std::string> app::Options::*member) {
  return [=](Invocation& invocation, const std::string& value) -> Status {
    (invocation.options.*member).push_back(value);
    return {};
  };
}

Apply flag(bool app::Options::*member) {
  return [=](Invocation& invocation, const std::string&) -> Status {
    invocation.options.*member = true;
    return {};
  };
}

std::optional<Index> parse_integer(const std::string& value) {
  Index number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size()) return std::nullopt;
  return number;
}

/// `set` stores a number of at least `least` and at most 2^31 - 1 where `set` says nothing else.
template <class Set>
Apply integer(std::string_view name, Index least, Set set) {
  return [=](Invocation& invocation, const std::string& value) -> Status {
    constexpr Index kMost = 1'000'000'000;
    const std::optional<Index> number = parse_integer(value);
    if (!number || *number < least || *number > kMost) {
      return bad_value(name, value, fmt::format("a whole number from {} on", least));
    }
    set(invocation.options, *number);
    return {};
  };
}

template <class Member>
Apply size(std::string_view name, Member app::Options::*member) {
  return [=](Invocation& invocation, const std::string& value) -> Status {
    const std::optional<Index> bytes = parse_size(value);
    if (!bytes || *bytes == 0) return bad_value(name, value, "a size such as 5GB, 512MiB or 4096");
    invocation.options.*member = *bytes;
    return {};
  };
}

Status apply_route(Invocation& invocation, const std::string& value) {
  for (const plan::Route route : {plan::Route::automatic, plan::Route::direct, plan::Route::exchange}) {
    if (value == plan::to_string(route)) {
      invocation.options.route = route;
      return {};
    }
  }
  return bad_value("route", value, "auto, direct or exchange");
}

Status apply_device(Invocation& invocation, const std::string& value) {
  for (const app::DeviceWish wish : {app::DeviceWish::automatic, app::DeviceWish::cpu, app::DeviceWish::cuda}) {
    if (value == app::to_string(wish)) {
      invocation.options.device = wish;
      return {};
    }
  }
  return bad_value("device", value, "auto, cpu or cuda");
}

Status apply_exchange(Invocation& invocation, const std::string& value) {
  using app::ExchangeWish;
  for (const ExchangeWish wish :
       {ExchangeWish::automatic, ExchangeWish::mpi, ExchangeWish::nccl, ExchangeWish::loopback}) {
    if (value == app::to_string(wish)) {
      invocation.options.exchange = wish;
      return {};
    }
  }
  return bad_value("exchange", value, "auto, mpi, nccl or loopback");
}

Status apply_part(Invocation& invocation, const std::string& value) {
  constexpr Index kMost = 10'000;
  const auto fields = split(value, '/');
  const auto part = parse_integer(std::string(fields.front()));
  const auto parts = fields.size() == 2 ? parse_integer(std::string(fields.back())) : std::nullopt;
  if (!part || !parts || *parts < 1 || *parts > kMost || *part < 1 || *part > *parts) {
    return bad_value("part", value, fmt::format("I/N with 1 <= I <= N <= {}, such as 3/8", kMost));
  }
  invocation.options.part = static_cast<int>(*part - 1);
  invocation.options.parts = static_cast<int>(*parts);
  return {};
}

Status apply_tolerance(Invocation& invocation, const std::string& value) {
  double number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || !(number >= 0) || std::isinf(number)) {
    return bad_value("tolerance", value, "a number such as 1e-3, not negative");
  }
  invocation.options.tolerance = number;
  return {};
}

Status apply_progress(Invocation& invocation, const std::string& value) {
  if (value == "auto") {
    invocation.progress = {};
    return {};
  }
  const std::optional<Index> seconds = parse_integer(value);
  if (!seconds || *seconds < 0) return bad_value("progress", value, "auto, or seconds between lines (0: none)");
  invocation.progress = {false, static_cast<double>(*seconds)};
  return {};
}

Apply invocation_flag(bool Invocation::*member) {
  return [=](Invocation& invocation, const std::string&) -> Status {
    invocation.*member = true;
    return {};
  };
}

/// What an option says in the help of a command, with the names that its checkpoints have there.
std::string about(const OptionInfo& option, const CommandInfo& command) {
  std::string text(option.about);
  const auto name = [&](std::string_view placeholder, std::string_view value) {
    if (const std::size_t at = text.find(placeholder); at != std::string::npos) {
      text.replace(at, placeholder.size(), value);
    }
  };
  name("{src}", command.operands.front());
  name("{other}", command.command == Command::diff ? command.operands.back() : "the checkpoint of --against");
  return text;
}

}  // namespace

const std::vector<CommandInfo>& commands() {
  static const std::vector<CommandInfo> all = {
      {Command::inspect,
       "inspect",
       {"SRC"},
       "format, model, mesh, tensors, problems",
       "Reads headers and side files only.",
       {"reshard inspect Llama-3.2-1B/", "reshard inspect nanotron/ --include '*qkv*'",
        "reshard inspect meta-llama/Llama-3.2-1B --json | jq .parameters"}},
      {Command::plan,
       "plan",
       {"SRC", "DST"},
       "what convert would do, per rank; writes nothing",
       "Plans for the ranks of this job, or for --ranks N that are not running.",
       {"reshard plan Llama-3.1-8B/ out/ --to nanotron --tp 8 --pp 4",
        "reshard plan synthetic:llama3-70b null: --to nanotron --tp 8 --pp 4 --ranks 64 --ranks-per-node 8",
        "reshard plan synthetic:llama3-70b null: --to nanotron --tp 8 --ranks 8 --machine h100-node"}},
      {Command::convert,
       "convert",
       {"SRC", "DST"},
       "converts a checkpoint to another format or topology",
       "DST appears whole or not at all. `null:` as DST takes everything and keeps nothing.",
       {"reshard convert Llama-3.2-1B/ nt/ --to nanotron --tp 2 --pp 2",
        "mpirun -n 16 reshard convert Llama-3.1-70B/ out/ --to nanotron --tp 8 --pp 4 --memory-budget 4GiB",
        "reshard convert nt/ hf/ --to hf --vocab-size 128256 --max-shard-size 2GB",
        "reshard convert meta-llama/Llama-3.2-1B model.h5 --to hdf5",
        "reshard convert --config configs/jobs/nanotron.json --overwrite"}},
      {Command::verify,
       "verify",
       {"CKPT"},
       "structure and digests, across formats and topologies",
       "Compares with the record of the checkpoint's making, and with the values of --against SRC, cast to the same "
       "dtypes. Exit status 1: something differs.",
       {"reshard verify out/", "reshard verify nt/ --against Llama-3.2-1B/ --vocab-size 128256"}},
      {Command::diff,
       "diff",
       {"A", "B"},
       "per tensor: equal, or how far apart",
       "Any two formats and topologies. Equal are the same bits, of fp32 where dtypes differ: -0 is not +0, nor a NaN "
       "another one, though a --tolerance above 0 allows these. Exit status 1: they differ by more than --tolerance.",
       {"reshard diff Llama-3.2-1B/ hf/", "reshard diff a/ b.h5 --tolerance 1e-3 --include '*.norm*'"}},
      {Command::digest,
       "digest",
       {"CKPT"},
       "a fingerprint that does not depend on format and topology",
       "One line per tensor, layer and expert; equal for any two checkpoints of the same values.",
       {"reshard digest Llama-3.2-1B/", "mpirun -n 8 reshard digest synthetic:llama3-70b"}},
      {Command::list,
       "list",
       {"formats|models|dtypes|machines"},
       "what the program knows",
       "formats: which model families each holds; models: names for synthetic:MODEL; dtypes: names and casts; "
       "machines: "
       "names for plan --machine.",
       {"reshard list formats", "reshard list formats --config-dir my-configs/"}},
      {Command::jobs,
       "jobs",
       {"RUNDIR", "GLOB"},
       "a line for each checkpoint of a run, for an array of jobs",
       "Prints job files, one a line, for `convert --config FILE --line I`; leaves out what is done.",
       {"reshard jobs run/checkpoints '*' --to hf --vocab-size 128256 --out hf/ > jobs.jsonl",
        "sbatch --array=1-$(wc -l < jobs.jsonl) slurm/array.sbatch jobs.jsonl"}},
      {Command::status,
       "status",
       {"DST|DIR|JOBS.jsonl"},
       "how conversions stand: state, bytes, rate, time left, errors",
       "From the files beside the outputs; asks no scheduler. Exit status 1: some wait or run; 4: some stopped or "
       "failed.",
       {"reshard status jobs.jsonl", "reshard status out/ --watch"}},
  };
  return all;
}

const CommandInfo& info(Command command) { return commands()[static_cast<std::size_t>(command)]; }

const std::vector<OptionInfo>& options() {
  using Options = app::Options;
  static const std::vector<OptionInfo> all = {
      {"from", "FORMAT", kSource, false, "source", "format of {src}; detected if not given", text(&Options::from)},
      {"step", "N", kSource, false, "source", "step of {src}, a run directory; the latest if not given",
       integer("step", 0, [](Options& o, Index n) { o.step = n; })},
      {"vocab-size", "N", kSource, false, "source", "true vocabulary, where rows of padding are stored",
       integer("vocab-size", 1, [](Options& o, Index n) { o.vocab_size = n; })},
      {"model", "NAME", kSource, false, "source", "which model, for a format (fairseq2) whose {src} does not say",
       text(&Options::model)},
      {"config-from", "PATH", kSource, false, "source",
       "config of the model in the form of {src}'s format, in place of its own: a file or its folder",
       text(&Options::config_from)},
      {"tokenizer-from", "DIR", kSource, false, "source", "folder with the tokenizer files to carry along",
       text(&Options::tokenizer_from)},
      {"passthrough", "GLOB", kSource, true, "source", "carry unknown tensors of these names unchanged",
       list(&Options::passthrough)},
      {"include", "GLOB", kChoice, true, "source", "only tensors of these names", list(&Options::include)},
      {"exclude", "GLOB", kChoice, true, "source", "all but tensors of these names", list(&Options::exclude)},
      {"follow-symlinks", "", kSource, false, "source", "follow symlinks that lead out of a checkpoint",
       flag(&Options::follow_symlinks)},
      {"against", "SRC", bit(Command::verify), false, "source", "checkpoint whose values CKPT should have",
       text(&Options::against)},
      {"against-from", "FORMAT", bit(Command::verify) | bit(Command::diff), false, "source",
       "format of {other}; detected if not given", text(&Options::against_from)},

      {"to", "FORMAT", kTarget, false, "target", "format to write; `reshard list formats` names them",
       text(&Options::to)},
      {"tp", "N", kTarget, false, "target", "tensor-parallel size (1)",
       integer("tp", 1, [](Options& o, Index n) { o.mesh.tp = n; })},
      {"pp", "N", kTarget, false, "target", "pipeline-parallel size (1)",
       integer("pp", 1, [](Options& o, Index n) { o.mesh.pp = n; })},
      {"ep", "N", kTarget, false, "target", "expert-parallel size (1)",
       integer("ep", 1, [](Options& o, Index n) { o.mesh.ep = n; })},
      {"dp", "N", kTarget, false, "target", "data-parallel size (1)",
       integer("dp", 1, [](Options& o, Index n) { o.mesh.dp = n; })},
      {"dtype", "DTYPE", kTarget, false, "target", "bf16, fp16 or fp32; as in SRC if not given", text(&Options::dtype)},
      {"keep-dtype", "GLOB", kTarget, true, "target", "arrays that --dtype leaves alone", list(&Options::keep_dtype)},
      {"max-shard-size", "SIZE", kTarget, false, "target",
       "of files, in formats that have shards by size (hf, hf_bin: 5GB)",
       size("max-shard-size", &Options::max_shard_size)},
      {"vocab-multiple", "N", kTarget, false, "target", "pad the vocabulary to a multiple of N times TP (1)",
       integer("vocab-multiple", 1, [](Options& o, Index n) { o.vocab_multiple = n; })},
      {"format-version", "V", kTarget, false, "target", "version of the format, where it has several",
       text(&Options::format_version)},
      {"params-style", "STYLE", kTarget, false, "target",
       "of params.json of format meta: flat, or fairseq2, with a config.json (flat)", text(&Options::params_style)},
      {"overwrite", "", kTarget, false, "target", "replace what is at DST", flag(&Options::overwrite)},
      {"resume", "", kTarget, false, "target",
       "go on where an interrupted conversion to DST stopped; do nothing if DST is done", flag(&Options::resume)},
      {"part", "I/N", kTarget & ~kJobs, false, "target", "make part I of N; the last of them to finish makes DST",
       apply_part},
      {"dry-run", "", bit(Command::convert), false, "target",
       "refuse what would be refused, print the plan, write nothing", flag(&Options::dry_run)},

      {"out", "DIR", kJobs, false, "target", "folder for the outputs, one for each checkpoint; made if need be",
       text(&Options::out)},

      {"tolerance", "T", bit(Command::diff), false, "answer", "largest absolute difference that counts as equal (0)",
       apply_tolerance},
      {"ranks", "N", bit(Command::plan) | kStreams, false, "run",
       "plan: for a job of N ranks, this one's if not given; otherwise: threads of --exchange loopback",
       integer("ranks", 1, [](Options& o, Index n) { o.ranks = static_cast<int>(n); })},
      {"ranks-per-node", "M", bit(Command::plan), false, "run", "of that job; all on one node if not given",
       integer("ranks-per-node", 1, [](Options& o, Index n) { o.ranks_per_node = static_cast<int>(n); })},
      {"machine", "NAME|FILE", bit(Command::plan), false, "run",
       "say how long it would take there; `reshard list machines` names some, configs/README.md has the form",
       text(&Options::machine)},
      {"memory-budget", "SIZE", kBudget, false, "run", "memory per rank for tables, plan and buffers (1GiB)",
       size("memory-budget", &Options::memory_budget)},
      {"device", "DEVICE", kBudget, false, "run", "what repacks: auto (cuda, if every rank has one), cpu or cuda",
       apply_device},
      {"device-memory-budget", "SIZE", kBudget, false, "run",
       "memory per rank for buffers on its device (what --memory-budget leaves for them)",
       size("device-memory-budget", &Options::device_memory_budget)},
      {"exchange", "HOW", kStreams, false, "run",
       "what carries messages: auto (nccl between devices, else mpi), mpi, nccl, or loopback (--ranks threads of one "
       "process)",
       apply_exchange},
      {"route", "ROUTE", kTarget, false, "run", "auto, direct (ranks read for themselves) or exchange", apply_route},
      {"progress", "auto|SECONDS", kSource & ~kJobs, false, "run",
       "live line on a terminal, or a line every so often (10); 0: none", apply_progress},

      {"config",
       "JOB.json",
       kAll,
       false,
       "general",
       "every option as a key; the command line wins, its operands in their order",
       {}},
      {"line",
       "I",
       kAll,
       false,
       "general",
       "the file of --config has a job on each line (`reshard jobs` writes such): take this one, from 1",
       {}},
      {"watch", "", bit(Command::status), false, "general", "print it again every two seconds until all is done",
       invocation_flag(&Invocation::watch)},
      {"config-dir", "DIR", kAll, false, "general", "more model families and formats; see configs/README.md",
       text(&Options::config_dir)},
      {"json", "", kAll, false, "general", "one JSON document on stdout; schemas in configs/schema/output",
       invocation_flag(&Invocation::json)},
      {"help", "", kAll, false, "general", "this text", invocation_flag(&Invocation::help)},
      {"version", "", kAll, false, "general", "version of the program and of its libraries",
       invocation_flag(&Invocation::version)},
  };
  return all;
}

std::string help_text(std::optional<Command> command) {
  std::string out;
  const auto append = [&](std::string_view line) {
    out += line;
    out += '\n';
  };
  if (!command) {
    append("reshard: converts and reshards checkpoints of large language models\n");
    append("usage: reshard COMMAND ...   (alone, or under mpirun or srun)\n");
    for (const CommandInfo& one : commands()) {
      append(fmt::format("  {:<30} {}", fmt::format("{} {}", one.name, fmt::join(one.operands, " ")), one.about));
    }
    append("\nexamples");
    for (const CommandInfo& one : commands()) append(fmt::format("  {}", one.examples.front()));
    append("\nreshard COMMAND --help says more; reshard --version prints the versions of all libraries.");
    append(
        "exit status: 0 done, 1 the answer is no (diff, verify, status), 2 usage or an impossible plan, 3 bad input,");
    append("4 failed while running");
    return out;
  }
  const CommandInfo& one = info(*command);
  append(fmt::format("usage: reshard {} {} [OPTION ...]\n", one.name, fmt::join(one.operands, " ")));
  append(fmt::format("{}. {}", one.about, one.details));
  std::string_view group;
  for (const OptionInfo& option : options()) {
    if (!option.belongs_to(*command)) continue;
    if (option.group != group) {
      group = option.group;
      append(fmt::format("\n{}", group));
    }
    const std::string left = fmt::format("--{}{}{}", option.name, option.value.empty() ? "" : " ", option.value);
    append(fmt::format("  {:<26} {}{}", left, about(option, one), option.repeats ? "; may be repeated" : ""));
  }
  append("\nexamples");
  for (const std::string_view example : one.examples) append(fmt::format("  {}", example));
  return out;
}

}  // namespace reshard::cli
