// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/stream.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "process.h"
#include "reshard/exec/file_sink.h"
#include "reshard/job/runner.h"
#include "reshard/layout/canonical_table.h"
#include "source_files.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kIoThreads = 4;
/// Arrays of a canonical target begin at multiples of this, so that no element straddles a boundary.
constexpr Index kAlignment = 64;

/// Threads of this rank: its share of the node's cores.
exec::Options executor_options(const comm::Comm& comm) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int local = std::max(1, comm.local_size());
  exec::Options options;
  options.io_threads = std::max(1, kIoThreads / std::max(1, local / cores));
  options.repack_threads = std::max(1, cores / local);
  return options;
}

/// Heap bytes of a text: short ones live inside their object.
Index heap_bytes(const std::string& text) {
  return text.capacity() > sizeof(std::string) / 2 ? static_cast<Index>(text.capacity()) : 0;
}

template <class Map>
Index map_bytes(const Map& map) {
  constexpr Index kNode = 96;
  Index bytes = 0;
  for (const auto& [key, value] : map) bytes += kNode + heap_bytes(key) + heap_bytes(value);
  return bytes;
}

Index layout_bytes(const layout::Layout& layout) {
  // Cuts and terms are few; arrays and the rules' lists of them are not.
  return static_cast<Index>(layout.arrays().size() * (sizeof(layout::Array) + sizeof(std::uint32_t)));
}

Json busy_json(const exec::Progress& busy) {
  Json json = Json::object();
  for (std::size_t stage = 0; stage < exec::kStages; ++stage) {
    json[std::string(to_string(static_cast<exec::Stage>(stage)))] = busy.busy_s[stage];
  }
  return json;
}

std::string pack(const RankReport& report) {
  const plan::Totals& t = report.totals;
  return Json::array({report.host, t.bytes_read, t.bytes_sent, t.bytes_received, t.bytes_written, t.rounds,
                      report.busy.busy_s, report.peak_rss_bytes})
      .dump();
}

RankReport unpack(const std::string& text) {
  const Json json = Json::parse(text);
  RankReport report;
  report.host = json[0].get<std::string>();
  report.totals = {json[1].get<Index>(), json[2].get<Index>(), json[3].get<Index>(), json[4].get<Index>(),
                   json[5].get<Index>()};
  json[6].get_to(report.busy.busy_s);
  report.peak_rss_bytes = json[7].get<Index>();
  return report;
}

}  // namespace

Json to_json(const layout::Mesh& mesh) { return {{"tp", mesh.tp}, {"pp", mesh.pp}, {"ep", mesh.ep}, {"dp", mesh.dp}}; }

Json to_json(const plan::Totals& totals) {
  return {{"bytes_read", totals.bytes_read},
          {"bytes_sent", totals.bytes_sent},
          {"bytes_received", totals.bytes_received},
          {"bytes_written", totals.bytes_written},
          {"rounds", totals.rounds}};
}

Json to_json(const StreamReport& report) {
  Json ranks = Json::array();
  for (const RankReport& rank : report.ranks) {
    Json one = {{"host", rank.host}};
    one.update(to_json(rank.totals));
    one["busy_s"] = busy_json(rank.busy);
    one["peak_rss_bytes"] = rank.peak_rss_bytes;
    ranks.push_back(std::move(one));
  }
  return {{"route", plan::to_string(report.route)},
          {"route_reason", report.route_reason},
          {"device", report.device.name},
          {"device_reason", report.device.reason},
          {"exchange", report.exchange.name},
          {"exchange_reason", report.exchange.reason},
          {"source_bytes", report.source_bytes},
          {"target_bytes", report.target_bytes},
          {"seconds", report.seconds},
          {"bytes_per_second", report.bytes_per_second()},
          {"ranks", std::move(ranks)}};
}

plan::Options plan_options(const Options& options, int ranks) {
  plan::Options plan;
  plan.ranks = ranks;
  plan.memory_budget = options.memory_budget;
  if (options.device_memory_budget > 0 && options.device != DeviceWish::cpu)
    plan.slot_budget = options.device_memory_budget;
  plan.route = options.route;
  return plan;
}

format::SourceOptions source_options(const Options& options) {
  format::SourceOptions source;
  source.from = options.from;
  source.model = options.model;
  source.config_from = options.config_from;
  source.tokenizer_from = options.tokenizer_from;
  source.vocab_size = options.vocab_size;
  source.step = options.step;
  source.follow = options.follow_symlinks ? io::Follow::all : io::Follow::cache;
  source.passthrough = options.passthrough;
  source.include = options.include;
  source.exclude = options.exclude;
  return source;
}

Expected<format::Checkpoint> open_source(Context& context, const std::string& path,
                                         const format::SourceOptions& options) {
  context.tell(context.stage, "reading headers");
  RESHARD_TRY(format::Checkpoint checkpoint, format::open_checkpoint(path, options, context.library, context.comm));
  context.tell_notes(checkpoint.probe.notes);
  return checkpoint;
}

std::vector<plan::Place> places_of(const format::Checkpoint& checkpoint, std::uint32_t first_file) {
  std::vector<plan::Place> places;
  places.reserve(checkpoint.locations.size());
  for (const std::uint32_t location : checkpoint.locations) {
    const format::Directory::Entry& entry = checkpoint.probe.directory.entries[location];
    places.push_back({first_file + entry.file, entry.entry.offset});
  }
  return places;
}

std::vector<DType> line_dtypes(const layout::Layout& layout) {
  std::vector<DType> dtypes(static_cast<std::size_t>(layout.canon().num_lines()), DType::bf16);
  for (std::uint32_t a = 0; a < layout.arrays().size(); ++a) {
    for (const Index line : format::lines_of(layout, a))
      dtypes[static_cast<std::size_t>(line)] = layout.arrays()[a].dtype;
  }
  return dtypes;
}

Expected<Canonical> make_canonical(const format::Checkpoint& checkpoint, const std::vector<DType>& dtypes,
                                   const std::vector<Index>& first) {
  const layout::Canon& canon = *checkpoint.canon;
  RESHARD_TRY(layout::Layout layout, layout::Layout::predict(checkpoint.canon, layout::canonical_table(canon),
                                                             layout::Mesh{}, {}, checkpoint.probe.spec.dtype, {}));
  Canonical canonical;
  const std::size_t count = layout.arrays().size();
  canonical.lines.resize(count);
  canonical.offsets.resize(count);
  std::vector<std::uint32_t> array_of(count);
  for (std::uint32_t a = 0; a < count; ++a) {
    const layout::Array& array = layout.arrays()[a];
    const Index line = canon.line_number(layout.tensors(array).front(), array.layer, array.expert);
    canonical.lines[a] = line;
    array_of[static_cast<std::size_t>(line)] = a;
    layout.set_dtype(a, dtypes[static_cast<std::size_t>(line)]);
  }
  std::vector<bool> placed(count, false);
  const auto place = [&](Index line) {
    if (placed[static_cast<std::size_t>(line)]) return;
    placed[static_cast<std::size_t>(line)] = true;
    const std::uint32_t a = array_of[static_cast<std::size_t>(line)];
    canonical.offsets[a] = canonical.size;
    const Index bits = *num_elements(layout.shape(layout.arrays()[a])) * bits_of(layout.arrays()[a].dtype);
    canonical.size = round_up(canonical.size + bits / 8, kAlignment);
  };
  for (const Index line : first) place(line);
  for (Index line = 0; line < canon.num_lines(); ++line) place(line);
  canonical.layout = std::make_shared<layout::Layout>(std::move(layout));
  return canonical;
}

Index table_bytes(const format::Checkpoint& checkpoint) {
  const format::Directory& directory = checkpoint.probe.directory;
  Index bytes = layout_bytes(*checkpoint.layout) +
                static_cast<Index>(checkpoint.locations.size() * sizeof(std::uint32_t)) + map_bytes(directory.inside);
  for (const format::Directory::Entry& entry : directory.entries) {
    bytes +=
        static_cast<Index>(sizeof(entry) + entry.entry.shape.capacity() * sizeof(Index)) + heap_bytes(entry.entry.name);
  }
  for (const std::string& file : directory.files) {
    bytes += static_cast<Index>(sizeof(file) + sizeof(io::Fingerprint)) + heap_bytes(file);
  }
  for (const auto& metadata : directory.metadata) bytes += map_bytes(metadata);
  return bytes;
}

Index table_bytes(const format::Target& target) {
  Index bytes = layout_bytes(*target.layout);
  bytes += static_cast<Index>(target.file_of_array.size() * (sizeof(std::uint32_t) + sizeof(Index)));
  for (const format::TargetFile& file : target.files) {
    bytes += static_cast<Index>(sizeof(file) + file.arrays.capacity() * sizeof(std::uint32_t)) + heap_bytes(file.path) +
             map_bytes(file.spec.metadata) + map_bytes(file.spec.files);
    for (const container::FileSpec::Item& item : file.spec.items) {
      bytes += static_cast<Index>(sizeof(item) + item.shape.capacity() * sizeof(Index)) + heap_bytes(item.name);
    }
  }
  for (const container::FileImage& image : target.images) {
    bytes += static_cast<Index>(sizeof(image) + image.offsets.capacity() * sizeof(Index));
    for (const container::Segment& segment : image.segments) {
      bytes += static_cast<Index>(sizeof(segment)) + heap_bytes(segment.bytes);
    }
  }
  for (const format::Sidecar& sidecar : target.sidecars) bytes += heap_bytes(sidecar.text);
  return bytes;
}

Index table_bytes(const Canonical& canonical) {
  return layout_bytes(*canonical.layout) + static_cast<Index>(canonical.lines.size() * 2 * sizeof(Index));
}

Expected<plan::Plan> make_plan(Context& context, std::vector<plan::Transfer> transfers,
                               std::vector<plan::TargetFile> targets, const plan::Options& options) {
  comm::Comm& comm = context.comm;
  context.tell(context.stage, "planning");
  Expected<plan::Plan> plan = plan::Plan::make(std::move(transfers), std::move(targets), options);
  RESHARD_CHECK(comm::agree(comm, plan ? Status{} : Status{plan.error()}));
  const std::vector<std::string> hashes = comm.all_gather(fmt::format("{:016x}", plan->schedule_hash()));
  for (std::size_t rank = 1; rank < hashes.size(); ++rank) {
    if (hashes[rank] != hashes[0]) {
      return run_error(fmt::format(
          "rank {} made another plan ({}) than rank 0 ({}): do all ranks run the same program and see the same files?",
          rank, hashes[rank], hashes[0]));
    }
  }
  return plan;
}

Expected<Streamed> run_stream(Context& context, const plan::Plan& plan,
                              const std::vector<const format::Checkpoint*>& sources, exec::Sink& sink,
                              bool* source_is_wrong) {
  comm::Comm& comm = context.comm;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  context.tell(context.stage, "starting");
  CheckpointFiles files(sources);
  RESHARD_CHECK(comm::agree(comm, files.probe()));
  exec::Options options = executor_options(comm);
  options.interruption = context.interruption;
  if (comm.rank() == 0 && context.progress) {
    options.progress = [&](const exec::Progress& all_ranks, double elapsed_s) {
      context.progress({all_ranks, plan.target_bytes(), elapsed_s});
    };
  }
  const std::unique_ptr<plan::Schedule> schedule = plan.schedule(comm.rank());
  RESHARD_TRY(options.engine, context.engines.engine(comm, schedule->exchanges()));
  RESHARD_TRY(exec::Outcome outcome, exec::execute(*schedule, files, sink, comm, options));

  context.tell(context.stage, "checking the source");
  Status unchanged;
  if (comm.rank() == 0) {
    for (const format::Checkpoint* source : sources) {
      if (unchanged) unchanged = format::check_unchanged(*source);
    }
  }
  unchanged = comm::agree(comm, std::move(unchanged));
  const Expected<Index> uncompared = unchanged ? files.compare_crcs(comm) : Expected<Index>(unchanged.error());
  if (!uncompared) {
    if (source_is_wrong != nullptr) *source_is_wrong = uncompared.error().code == Code::input;
    return uncompared.error();
  }
  if (*uncompared > 0 && comm.rank() == 0) {
    context.tell(context.note,
                 fmt::format("{} storages were read in part only: only verify compares their CRC-32", *uncompared));
  }

  Streamed streamed;
  streamed.digests = std::move(outcome.digests);
  comm.sum(streamed.digests);
  StreamReport& report = streamed.report;
  report.route = plan.route();
  report.route_reason = plan.route_reason();
  report.device = context.engines.device_use();
  report.exchange = context.engines.exchange_use();
  report.source_bytes = plan.source_bytes();
  report.target_bytes = plan.target_bytes();
  RankReport mine{job::host_name(), outcome.totals, outcome.busy, peak_rss_bytes()};
  for (const std::string& packed : comm.all_gather(pack(mine))) report.ranks.push_back(unpack(packed));
  report.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return streamed;
}

Expected<Streamed> stream_canonical(Context& context, const format::Checkpoint& checkpoint,
                                    const std::vector<DType>& dtypes, const Options& options) {
  Expected<Canonical> canonical = make_canonical(checkpoint, dtypes);
  RESHARD_CHECK(comm::agree(context.comm, canonical ? Status{} : Status{canonical.error()}));
  plan::Transfer transfer{checkpoint.layout.get(), places_of(checkpoint), canonical->layout.get(), {}, 0};
  for (const Index offset : canonical->offsets) transfer.dst_places.push_back({0, offset});
  plan::Options how = plan_options(options, context.comm.size());
  how.table_bytes = table_bytes(checkpoint) + table_bytes(*canonical);
  RESHARD_TRY(const plan::Plan plan,
              make_plan(context, {std::move(transfer)}, {plan::TargetFile{canonical->size, {}}}, how));
  exec::NullSink sink;
  return run_stream(context, plan, {&checkpoint}, sink);
}

}  // namespace reshard::app
