// SPDX-License-Identifier: Apache-2.0
// Speed of the copy kernels on one core against memcpy in the same run.
//   repack_bench [--json FILE]
// Columns are defined in README.md.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "reshard/repack/repack.h"
#include "tests/bench/report.h"

namespace reshard::bench {
namespace {

constexpr Index kBytes = 256 * kMiB;

double best_rate(double bytes, const std::function<void()>& work) {
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = std::max(best, bytes / taken.count());
  }
  return best;
}

class Bench {
 public:
  explicit Bench(Report& report) : report_(report), src_(make_buffer()), dst_(make_buffer()) {
    for (std::size_t i = 0; i < kBytes; ++i) src_[i] = static_cast<std::byte>(i * 2654435761u >> 11);
    std::memset(dst_.get(), 1, kBytes);
    const auto copy = [&] { std::memcpy(dst_.get(), src_.get(), kBytes); };
    memcpy_rate_ = best_rate(static_cast<double>(kBytes), copy);
    add("memcpy", memcpy_rate_);
  }

  void add(const std::string& name, DType src, DType dst, const std::vector<layout::Loop>& loops, bool digest) {
    plan::Copy copy{.src_slot = plan::Slot::source,
                    .dst_slot = plan::Slot::output,
                    .src_dtype = src,
                    .dst_dtype = dst,
                    .src_byte = 0,
                    .dst_byte = 0,
                    .line = digest ? 0 : plan::kNoLine,
                    .write = 0,
                    .strided = {}};
    copy.strided.rank = static_cast<int>(loops.size());
    std::copy(loops.begin(), loops.end(), copy.strided.loops);
    const Index bytes = copy.strided.volume() * std::max(bytes_of(src), bytes_of(dst));
    std::uint64_t sum = 0;
    const auto work = [&] { repack::run(copy, src_.get(), dst_.get(), &sum); };
    add(name + (digest ? " + digest" : ""), best_rate(static_cast<double>(bytes), work));
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  using Buffer = std::unique_ptr<std::byte[], Free>;

  // Huge pages, as the executor's slots have them.
  static Buffer make_buffer() {
    auto* bytes = static_cast<std::byte*>(std::aligned_alloc(2 * kMiB, kBytes));
    madvise(bytes, kBytes, MADV_HUGEPAGE);
    return Buffer(bytes);
  }

  void add(const std::string& name, double rate) {
    report_.add({{"kernel", name}, {"gb_per_s", rate / 1e9}, {"of_memcpy", rate / memcpy_rate_}});
  }

  Report& report_;
  Buffer src_, dst_;
  double memcpy_rate_ = 0;
};

void add_all(Bench& bench, bool digest) {
  const auto name = [](DType dtype) { return std::string(to_string(dtype)); };
  for (DType dtype : {DType::bf16, DType::f16, DType::f32, DType::f8_e4m3}) {
    bench.add("contiguous " + name(dtype), dtype, dtype, {{kBytes / bytes_of(dtype), 1, 1, 1}}, digest);
  }
  // One eighth of each row, as a tensor-parallel shard takes it.
  for (Index run : {8, 32, 128, 512, 2048, 8192}) {
    const Index n = run / 2, rows = kBytes / 8 / run;
    bench.add("rows of " + std::to_string(run) + " B out of " + std::to_string(8 * run), DType::bf16, DType::bf16,
              {{rows, 8 * n, n, 8 * n}, {n, 1, 1, 1}}, digest);
  }
  for (auto [src, dst] : {std::pair{DType::bf16, DType::f32},
                          {DType::f32, DType::bf16},
                          {DType::f16, DType::f32},
                          {DType::f32, DType::f16},
                          {DType::bf16, DType::f16},
                          {DType::f16, DType::bf16}}) {
    const Index n = kBytes / std::max(bytes_of(src), bytes_of(dst));
    bench.add("cast " + name(src) + " to " + name(dst), src, dst, {{n, 1, 1, 1}}, digest);
  }
  for (DType dtype : {DType::u8, DType::bf16, DType::f32}) {
    const Index side = 8192, rows = kBytes / bytes_of(dtype) / side;
    bench.add("transpose " + name(dtype), dtype, dtype, {{rows, side, 1, side}, {side, 1, rows, 1}}, digest);
  }
  // half pair -> pair half along a row
  bench.add("rotary pairs within rows BF16", DType::bf16, DType::bf16,
            {{kBytes / 256, 128, 128, 128}, {2, 64, 1, 64}, {64, 1, 2, 1}}, digest);
  bench.add("every second element BF16", DType::bf16, DType::bf16, {{kBytes / 4, 2, 1, 1}}, digest);
}

}  // namespace
}  // namespace reshard::bench

int main(int argc, char** argv) {
  using namespace reshard::bench;
  Report report("repack", {{"kernel", "kernel", -44}, {"gb_per_s", "GB/s", 6, 2}, {"of_memcpy", "of memcpy", 9, 2}},
                argc, argv);
  Bench bench(report);
  for (bool digest : {false, true}) add_all(bench, digest);
  return report.finish();
}
