// SPDX-License-Identifier: Apache-2.0
// Speed of the CUDA repack kernel against a copy on the same device, and its results against the CPU's.
//   cuda_repack_bench [--json FILE]
// Columns are defined in README.md. Without a GPU it says why and exits with 77.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "reshard/repack/cuda_kernel.h"
#include "reshard/repack/repack.h"
#include "tests/bench/conversion.h"
#include "tests/bench/report.h"
#include "tests/support/naive_checkpoint.h"
#include "tests/support/random_copies.h"

namespace reshard::bench {
namespace {

constexpr Index kBytes = 256 * kMiB;  // of the larger side of a case: several times any second-level cache
constexpr int kSets = 3;              // of buffers, by turns
constexpr int kWarmUps = 3, kRepeats = 15;
constexpr int kPoison = 0xA5;
constexpr Index kRounds = 12;  // of a plan, spread over it

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t size) { check(cudaMalloc(&at_, std::max<std::size_t>(size, 16))); }
  template <class T>
  explicit DeviceBuffer(std::span<const T> values) : DeviceBuffer(values.size_bytes()) {
    check(cudaMemcpy(at_, values.data(), values.size_bytes(), cudaMemcpyHostToDevice));
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept : at_(std::exchange(other.at_, nullptr)) {}
  ~DeviceBuffer() { cudaFree(at_); }

  template <class T>
  T* as() const {
    return static_cast<T*>(at_);
  }

 private:
  void* at_ = nullptr;
};

/// Random bytes: every bf16 and f16 code, almost none of them zero.
std::vector<std::byte> random_values(Index size) {
  std::mt19937_64 random(1);
  std::vector<std::byte> values(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i + 8 <= values.size(); i += 8) {
    const std::uint64_t word = random();
    std::memcpy(&values[i], &word, 8);
  }
  return values;
}

/// Copies of one phase with their table on the device.
struct Work {
  explicit Work(std::vector<plan::Copy> all) : copies(std::move(all)) {
    std::vector<std::uint32_t> numbers(copies.size());
    std::iota(numbers.begin(), numbers.end(), 0u);
    const repack::OpTable table = repack::OpTable::make(copies, numbers, {});
    ops = std::make_unique<DeviceBuffer>(table.ops());
    tasks = std::make_unique<DeviceBuffer>(table.tasks());
    num_tasks = static_cast<Index>(table.tasks().size());
    digests = std::make_unique<DeviceBuffer>(8 * copies.size());
    for (const plan::Copy& copy : copies) {
      const Index volume = copy.strided.volume();
      moved_bytes += volume * (bytes_of(copy.src_dtype) + bytes_of(copy.dst_dtype));
    }
  }

  void launch(const repack::SlotBases& slots) const {
    check(static_cast<cudaError_t>(repack::launch(ops->as<repack::Op>(), tasks->as<repack::Task>(), num_tasks, slots,
                                                  digests->as<std::uint64_t>(), nullptr)));
  }

  std::vector<plan::Copy> copies;
  std::unique_ptr<DeviceBuffer> ops, tasks, digests;
  Index num_tasks = 0, moved_bytes = 0;
};

class Bench {
 public:
  explicit Bench(Report& report) : report_(report), values_(random_values(kBytes)), result_(values_.size()) {
    for (int set = 0; set < kSets; ++set) {
      sources_.emplace_back(std::span<const std::byte>(values_));
      outputs_.emplace_back(values_.size());
    }
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
    const double seconds = median_s([&](int set) {
      check(cudaMemcpyAsync(outputs_[at(set)].as<std::byte>(), sources_[at(set)].as<std::byte>(), values_.size(),
                            cudaMemcpyDeviceToDevice, nullptr));
    });
    copy_rate_ = 2.0 * kBytes / seconds;
    report_.add({{"kernel", "cudaMemcpyAsync"}, {"gb_per_s", copy_rate_ / 1e9}, {"of_copy", 1.0}});
  }
  ~Bench() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }

  /// One copy; bar 0: none.
  void add(const std::string& name, DType src, DType dst, const std::vector<layout::Loop>& loops, bool digest,
           double bar = 0) {
    const Work work({test::make_copy(src, dst, loops, digest ? 0 : plan::kNoLine)});
    const double seconds = median_s([&](int set) { work.launch(slots(set)); });
    add_row(name + (digest ? " + digest" : ""), static_cast<double>(work.moved_bytes) / seconds, count_errors(work),
            bar);
  }

  /// Rounds of a plan one after the other, in as many slots as there are; before them, copies of as many bytes, which
  /// tell what launches of that size cost anyone.
  void add_rounds(const std::string& name, std::vector<Work> rounds, double bar) {
    double moved = 0;
    Index errors = 0;
    for (const Work& round : rounds) {
      moved += static_cast<double>(round.moved_bytes);
      errors += count_errors(round);
    }
    const double copies_s = median_s([&](int) {
      for (std::size_t i = 0; i < rounds.size(); ++i) {
        const repack::SlotBases bases = slots(static_cast<int>(i));
        check(cudaMemcpyAsync(bases.at[static_cast<std::size_t>(plan::Slot::output)],
                              bases.at[static_cast<std::size_t>(plan::Slot::source)],
                              static_cast<std::size_t>(rounds[i].moved_bytes / 2), cudaMemcpyDeviceToDevice, nullptr));
      }
    });
    add_row("cudaMemcpyAsync, as many bytes per round", moved / copies_s, 0, 0);
    const double seconds = median_s([&](int) {
      for (std::size_t i = 0; i < rounds.size(); ++i) rounds[i].launch(slots(static_cast<int>(i)));
    });
    add_row(name, moved / seconds, errors, bar);
  }

 private:
  static std::size_t at(int set) { return static_cast<std::size_t>(set % kSets); }

  repack::SlotBases slots(int set) const {
    std::byte* const src = sources_[at(set)].as<std::byte>();
    std::byte* const dst = outputs_[at(set)].as<std::byte>();
    return {{src, src, dst, dst}};
  }

  double median_s(const std::function<void(int set)>& work) {
    std::vector<double> seconds;
    for (int i = 0; i < kWarmUps + kRepeats; ++i) {
      check(cudaEventRecord(begin_, nullptr));
      work(i);
      check(cudaEventRecord(end_, nullptr));
      check(cudaEventSynchronize(end_));
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin_, end_));
      if (i >= kWarmUps) seconds.push_back(ms / 1e3);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }

  /// Bytes of a poisoned output, and digests, that are not those of the CPU.
  Index count_errors(const Work& work) {
    std::vector<std::uint64_t> sums(work.copies.size()), digests(work.copies.size());
    std::vector<std::byte> expected(values_.size(), static_cast<std::byte>(kPoison));
    for (std::size_t i = 0; i < work.copies.size(); ++i) {
      repack::run(work.copies[i], values_.data(), expected.data(), &sums[i]);
    }
    check(cudaMemset(outputs_[0].as<std::byte>(), kPoison, values_.size()));
    check(cudaMemset(work.digests->as<std::byte>(), 0, 8 * digests.size()));
    work.launch(slots(0));
    check(cudaMemcpy(result_.data(), outputs_[0].as<std::byte>(), result_.size(), cudaMemcpyDeviceToHost));
    check(cudaMemcpy(digests.data(), work.digests->as<std::byte>(), 8 * digests.size(), cudaMemcpyDeviceToHost));
    Index errors = 0;
    for (std::size_t i = 0; i < result_.size(); ++i) errors += result_[i] != expected[i] ? 1 : 0;
    for (std::size_t i = 0; i < sums.size(); ++i) errors += sums[i] != digests[i] ? 1 : 0;
    return errors;
  }

  void add_row(const std::string& name, double rate, Index errors, double bar) {
    const double ratio = rate / copy_rate_;
    Json row = {{"kernel", name}, {"gb_per_s", rate / 1e9}, {"of_copy", ratio}};
    if (bar > 0) row["bar"] = bar;
    row["errors"] = errors;
    row["ok"] = ratio >= bar && errors == 0;
    report_.add(std::move(row));
  }

  Report& report_;
  std::vector<std::byte> values_, result_;
  std::vector<DeviceBuffer> sources_, outputs_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  double copy_rate_ = 0;
};

void add_forms(Bench& bench, bool digest) {
  const auto name = [](DType dtype) { return std::string(to_string(dtype)); };
  for (DType dtype : {DType::bf16, DType::f32, DType::f8_e4m3}) {
    bench.add("contiguous " + name(dtype), dtype, dtype, {{kBytes / bytes_of(dtype), 1, 1, 1}}, digest);
  }
  // One eighth of each row, as a tensor-parallel shard takes it.
  for (Index run : {32, 512, 2048, 8192}) {
    const Index n = run / 2, rows = kBytes / 8 / run;
    bench.add("rows of " + std::to_string(run) + " B out of " + std::to_string(8 * run), DType::bf16, DType::bf16,
              {{rows, 8 * n, n, 8 * n}, {n, 1, 1, 1}}, digest);
  }
  for (auto [src, dst] : {std::pair{DType::bf16, DType::f32}, {DType::f32, DType::bf16}, {DType::bf16, DType::f16}}) {
    const Index n = kBytes / std::max(bytes_of(src), bytes_of(dst));
    bench.add("cast " + name(src) + " to " + name(dst), src, dst, {{n, 1, 1, 1}}, digest);
  }
  for (DType dtype : {DType::u8, DType::bf16, DType::f32, DType::f64}) {
    const Index side = 8192, rows = kBytes / bytes_of(dtype) / side;
    bench.add("transpose " + name(dtype), dtype, dtype, {{rows, side, 1, side}, {side, 1, rows, 1}}, digest,
              digest ? 0 : 0.80);
  }
  bench.add("every second element BF16", DType::bf16, DType::bf16, {{kBytes / 4, 2, 1, 1}}, digest);
}

/// What rank 0 of 8 does on its way from Hugging Face to Nanotron, tensor-parallel over 8.
std::vector<Work> rounds_of_70b() {
  const auto comm = comm::make_self_comm();
  Conversion conversion;
  conversion.source = require(format::open_checkpoint("synthetic:llama3-70b", {}, test::library(), *comm));
  format::TargetOptions target;
  target.mesh.tp = 8;
  conversion.target = require(format::describe_target(conversion.source, "nanotron", target, test::library()));
  plan::Options options;
  options.ranks = 8;
  options.table_bytes = conversion.table_bytes();
  options.route = plan::Route::direct;
  const plan::Plan plan = require(plan::Plan::make(conversion.transfers(), conversion.target_files(), options));
  const auto schedule = plan.schedule(0);
  const Index number = schedule->num_rounds();
  std::vector<Work> rounds;
  for (Index i = 0; i < std::min(kRounds, number); ++i) {
    std::vector<plan::Copy> copies = schedule->round(i * number / kRounds).place;
    if (!copies.empty()) rounds.emplace_back(std::move(copies));
  }
  if (std::max(schedule->slot_bytes(plan::Slot::source), schedule->slot_bytes(plan::Slot::output)) > kBytes) {
    throw std::runtime_error("the slots of the plan are larger than the buffers");
  }
  return rounds;
}

int run(int argc, char** argv) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    fmt::print(stderr, "cuda_repack_bench: no GPU: {}\n",
               error == cudaSuccess ? "no device is visible" : cudaGetErrorString(error));
    return 77;
  }
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0));
  fmt::print("{}, {} MiB of second-level cache\n", properties.name, properties.l2CacheSize / kMiB);
  Report report("cuda_repack",
                {{"kernel", "kernel", -44},
                 {"gb_per_s", "GB/s", 8, 1},
                 {"of_copy", "of copy", 8, 2},
                 {"bar", "bar", 5, 2},
                 {"errors", "errors", 8},
                 {"ok", "ok", 3}},
                argc, argv);
  Bench bench(report);
  bench.add_rounds("70B, HF to Nanotron TP8", rounds_of_70b(), 0.90);
  for (bool digest : {false, true}) add_forms(bench, digest);
  return report.finish();
}

}  // namespace
}  // namespace reshard::bench

int main(int argc, char** argv) { return reshard::bench::run_benchmark(reshard::bench::run, argc, argv); }
