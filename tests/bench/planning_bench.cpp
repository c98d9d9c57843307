// SPDX-License-Identifier: Apache-2.0
// Time and memory of planning on one core, each case in a process of its own; the median of three.
//   planning_bench [--json FILE]
// Columns are defined in README.md.
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "reshard/format/format.h"
#include "reshard/model/library.h"
#include "reshard/model/spec.h"
#include "tests/bench/conversion.h"
#include "tests/bench/report.h"
#include "tests/support/files.h"
#include "tests/support/paths.h"

namespace reshard::bench {
namespace {

constexpr int kRepeats = 3;

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double user_s() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec) + static_cast<double>(usage.ru_utime.tv_usec) / 1e6;
}

/// VmHWM of this process, MiB.
double peak_mib() {
  std::string line;
  for (std::ifstream in("/proc/self/status"); std::getline(in, line);) {
    if (line.starts_with("VmHWM:")) return std::stod(line.substr(6)) / 1024;
  }
  return 0;
}

/// Runs `work` in a child on one core and returns what it returns, with the child's peak memory.
Json in_child(const std::function<Json()>& work) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("no pipe");
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("no process");
  if (child == 0) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(static_cast<std::size_t>(sched_getcpu()), &cores);
    sched_setaffinity(0, sizeof(cores), &cores);
    Json result;
    try {
      result = work();
      result["peak_mib"] = peak_mib();
    } catch (const std::exception& error) {
      result = {{"error", error.what()}};
    }
    const std::string text = result.dump();
    const bool written = write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char block[4096];
  for (ssize_t n = 0; (n = read(ends[0], block, sizeof(block))) > 0;) text.append(block, static_cast<std::size_t>(n));
  close(ends[0]);
  waitpid(child, nullptr, 0);
  Json result = text.empty() ? Json{{"error", "the process died"}} : Json::parse(text);
  if (result.contains("error")) throw std::runtime_error(result["error"].get<std::string>());
  return result;
}

/// The run with the median time of several.
Json median_of_children(const std::function<Json()>& work) {
  std::vector<Json> runs;
  for (int i = 0; i < kRepeats; ++i) runs.push_back(in_child(work));
  std::sort(runs.begin(), runs.end(),
            [](const Json& a, const Json& b) { return a["wall_s"].get<double>() < b["wall_s"].get<double>(); });
  return runs[runs.size() / 2];
}

/// One side of a made-up conversion: arrays one after the other in a file per mesh rank.
struct Side {
  std::shared_ptr<const layout::Layout> layout;
  std::vector<plan::Place> places;
  std::vector<Index> file_bytes;
};

Side make_side(std::shared_ptr<const layout::Canon> canon, const model::Library& library, const std::string& format,
               Index ranks) {
  layout::Mesh mesh;
  mesh.tp = ranks;
  Side side;
  side.layout = std::make_shared<layout::Layout>(require(layout::Layout::predict(
      canon, require(library.table("llama", format)), mesh, layout::place_evenly(canon->scope().numbers.at("layer"), 1),
      DType::bf16, library.options(format))));
  constexpr Index kHeaderBytes = 128 * kKiB;  // about what safetensors needs for 1,137 names
  side.file_bytes.assign(static_cast<std::size_t>(ranks), kHeaderBytes);
  side.places.reserve(side.layout->arrays().size());
  for (const layout::Array& array : side.layout->arrays()) {
    const auto file = static_cast<std::uint32_t>(side.layout->cut(array).coords.front());
    side.places.push_back({file, side.file_bytes[file]});
    side.file_bytes[file] += *num_elements(side.layout->shape(array)) * bytes_of(array.dtype);
  }
  return side;
}

Index table_bytes(const Side& side) {
  return static_cast<Index>(side.places.size() * (sizeof(layout::Array) + sizeof(std::uint32_t) + sizeof(plan::Place)));
}

/// Predicts both layouts, places their arrays and plans.
Json plan_between(const model::Library& library, const std::string& format, Index src_ranks, Index dst_ranks) {
  const auto canon = require(model::make_canon(require(model::named_model("llama3-405b", library)), library));
  const double start_s = now_s(), start_user_s = user_s();
  Side src = make_side(canon, library, format, src_ranks);
  Side dst = make_side(canon, library, format, dst_ranks);
  plan::Options options;
  options.table_bytes = table_bytes(src) + table_bytes(dst);
  std::vector<plan::TargetFile> files;
  for (const Index bytes : dst.file_bytes) files.push_back({bytes, {}});
  std::vector<plan::Transfer> transfers(1);
  transfers[0].src = src.layout.get();
  transfers[0].src_places = std::move(src.places);
  transfers[0].dst = dst.layout.get();
  transfers[0].dst_places = std::move(dst.places);
  const double described_s = now_s();
  const plan::Plan plan = require(plan::Plan::make(std::move(transfers), std::move(files), options));
  const double end_s = now_s();
  const auto ops = static_cast<Index>(plan.operations().all().size());
  return {{"ops", ops},
          {"describe_s", described_s - start_s},
          {"plan_s", end_s - described_s},
          {"wall_s", end_s - start_s},
          {"user_s", user_s() - start_user_s},
          {"us_per_op", (end_s - start_s) * 1e6 / static_cast<double>(ops)}};
}

/// The usual way to find the same ops, and nothing but that: every stored chunk of an array against every wanted one.
Json compare_all_pairs(Index src_ranks, Index dst_ranks) {
  constexpr Index kArrays = 1137, kRows = 16384;
  struct Chunk {
    Index begin, end;
  };
  const auto cut = [&](Index ranks) {
    std::vector<Chunk> chunks;
    const Index length = ceil_div(kRows, ranks);
    for (Index begin = 0; begin < kRows; begin += length) {
      chunks.push_back({begin, std::min(kRows, begin + length)});
    }
    return chunks;
  };
  struct Overlap {
    std::uint32_t array, src, dst;
    Chunk rows;
  };
  const double start_s = now_s(), start_user_s = user_s();
  const std::vector<Chunk> src = cut(src_ranks), dst = cut(dst_ranks);
  std::vector<Overlap> found;
  for (std::uint32_t array = 0; array < kArrays; ++array) {
    for (std::uint32_t d = 0; d < dst.size(); ++d) {
      for (std::uint32_t s = 0; s < src.size(); ++s) {
        const Chunk rows{std::max(src[s].begin, dst[d].begin), std::min(src[s].end, dst[d].end)};
        if (rows.begin < rows.end) found.push_back({array, s, d, rows});
      }
    }
  }
  const double wall_s = now_s() - start_s;
  return {{"ops", found.size()},
          {"wall_s", wall_s},
          {"user_s", user_s() - start_user_s},
          {"us_per_op", wall_s * 1e6 / static_cast<double>(found.size())}};
}

/// Writes an HF checkpoint of the named model with true headers and holes for its values.
void write_headers(const std::string& folder, const std::string& model, const model::Library& library) {
  const auto comm = comm::make_self_comm();
  const format::Checkpoint source = require(format::open_checkpoint("synthetic:" + model, {}, library, *comm));
  const format::Target target = require(format::describe_target(source, "hf", {}, library));
  for (std::size_t f = 0; f < target.files.size(); ++f) {
    std::ofstream out(folder + "/" + target.files[f].path, std::ios::binary);
    for (const container::Segment& segment : target.images[f].segments) {
      out.seekp(segment.offset);
      out << segment.text();
    }
    out.close();
    std::filesystem::resize_file(folder + "/" + target.files[f].path,
                                 static_cast<std::uintmax_t>(target.images[f].size));
  }
  for (const format::Sidecar& sidecar : target.sidecars) test::put_file(folder + "/" + sidecar.path, sidecar.text);
}

/// From opening the source to the plan, as a rank of `reshard convert` does it.
Json plan_conversion(const model::Library& library, const std::string& source, const std::string& to,
                     const layout::Mesh& mesh, plan::Options options = {}) {
  const double start_s = now_s(), start_user_s = user_s();
  const auto comm = comm::make_self_comm();
  Conversion conversion;
  conversion.source = require(format::open_checkpoint(source, {}, library, *comm));
  const double opened_s = now_s();
  format::TargetOptions target_options;
  target_options.mesh = mesh;
  conversion.target = require(format::describe_target(conversion.source, to, target_options, library));
  std::vector<plan::Transfer> transfers = conversion.transfers();
  std::vector<plan::TargetFile> files = conversion.target_files();
  options.table_bytes = conversion.table_bytes();
  const double described_s = now_s();
  const plan::Plan plan = require(plan::Plan::make(std::move(transfers), std::move(files), options));
  const double end_s = now_s();
  const auto ops = static_cast<Index>(plan.operations().all().size());
  return {{"ops", ops},
          {"open_s", opened_s - start_s},
          {"describe_s", described_s - opened_s},
          {"plan_s", end_s - described_s},
          {"wall_s", end_s - start_s},
          {"user_s", user_s() - start_user_s},
          {"us_per_op", (end_s - start_s) * 1e6 / static_cast<double>(ops)}};
}

void add_case(Report& report, const std::string& name, std::optional<double> most_s, std::optional<double> most_mib,
              const std::function<Json()>& work) {
  Json row = {{"case", name}};
  row.update(median_of_children(work));
  if (most_s || most_mib) {
    row["bar"] =
        (most_s ? fmt::format("< {:g} s", *most_s) : "") + (most_mib ? fmt::format(", < {:g} MiB", *most_mib) : "");
    row["ok"] =
        row["wall_s"].get<double>() < most_s.value_or(1e9) && row["peak_mib"].get<double>() < most_mib.value_or(1e9);
  }
  report.add(std::move(row));
}

int run(int argc, char** argv) {
  Report report("planning",
                {{"case", "case", -36},
                 {"ops", "copy ops", 9},
                 {"open_s", "open s", 7, 3},
                 {"describe_s", "descr s", 7, 3},
                 {"plan_s", "plan s", 7, 3},
                 {"wall_s", "total s", 7, 3},
                 {"user_s", "user s", 7, 3},
                 {"us_per_op", "us/op", 6, 2},
                 {"peak_mib", "peak MiB", 8},
                 {"bar", "bar", -16},
                 {"ok", "ok", -3}},
                argc, argv);
  const model::Library library = require(model::Library::load(test::source_dir() + "/tests/bench/layouts"));

  const test::TemporaryFolder folder;
  write_headers(folder.path(), "llama3-70b", library);
  add_case(report, "70B hf to nanotron tp8 pp4", 1.0, std::nullopt, [&] {
    layout::Mesh mesh;
    mesh.tp = 8;
    mesh.pp = 4;
    return plan_conversion(library, folder.path(), "nanotron", mesh);
  });
  // Rows of 13 KB between gaps of 92 KB; and linked rows that no slot of this budget holds together.
  add_case(report, "405B hf to nanotron tp8 pp16", 2.0, std::nullopt, [&] {
    layout::Mesh mesh;
    mesh.tp = 8;
    mesh.pp = 16;
    return plan_conversion(library, "synthetic:llama3-405b", "nanotron", mesh, plan::Options{.ranks = 8});
  });
  add_case(report, "8B hf to meta tp8, 16 ranks, 100 MiB", 2.0, std::nullopt, [&] {
    layout::Mesh mesh;
    mesh.tp = 8;
    return plan_conversion(library, "synthetic:llama3-8b", "meta", mesh,
                           plan::Options{.ranks = 16, .memory_budget = 100 * kMiB});
  });
  for (const std::string format : {"cut_rows", "cut_flat"}) {
    for (const Index src_ranks : {64, 128, 256, 512, 1024}) {
      const Index dst_ranks = src_ranks / 2 * 3;
      const bool full = src_ranks == 1024;
      add_case(report, fmt::format("405B {} {} to {}", format, src_ranks, dst_ranks),
               full ? std::optional(2.0) : std::nullopt, full ? std::optional(1024.0) : std::nullopt,
               [&] { return plan_between(library, format, src_ranks, dst_ranks); });
    }
  }
  for (const Index src_ranks : {64, 256, 1024}) {
    add_case(report, fmt::format("all pairs, overlaps only {} to {}", src_ranks, src_ranks / 2 * 3), std::nullopt,
             std::nullopt, [&] { return compare_all_pairs(src_ranks, src_ranks / 2 * 3); });
  }
  return report.finish();
}

}  // namespace
}  // namespace reshard::bench

int main(int argc, char** argv) { return reshard::bench::run_benchmark(reshard::bench::run, argc, argv); }
