// SPDX-License-Identifier: Apache-2.0
// How well reading, repacking, exchanging and writing overlap: sources and sinks in memory that let 200 MB/s through
// each way, for the whole job. Wall time over the time that either way needs alone; 1.0 is perfect, 2.0 is one after
// the other.
//   overlap_bench [--json]        exits 1 if any case is above 1.15
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/streams.h"

namespace reshard {
namespace {

constexpr double kBytesPerSecond = 200e6;
constexpr double kMost = 1.15;
constexpr Index kRoundBytes = 4 * kMiB;  // of one rank
constexpr Index kTotalBytes = 512 * kMiB;

struct Case {
  int ranks;
  bool exchange;
  int depth;
};

struct Result {
  Case what;
  double seconds, ratio;
};

// Every rank reads its share and writes as much; with exchange, an equal part of each round comes from every rank.
std::vector<test::FakeSchedule> make_schedules(const Case& c) {
  const Index rounds = kTotalBytes / (kRoundBytes * c.ranks);
  std::vector<test::FakeSchedule> schedules(static_cast<std::size_t>(c.ranks));
  const Index part = kRoundBytes / c.ranks;
  const auto copy = [&](plan::Slot src, plan::Slot dst, Index src_byte, Index dst_byte, Index bytes) {
    plan::Copy result{.src_slot = src,
                      .dst_slot = dst,
                      .src_dtype = DType::bf16,
                      .dst_dtype = DType::bf16,
                      .src_byte = src_byte,
                      .dst_byte = dst_byte,
                      .line = dst == plan::Slot::output ? 0 : plan::kNoLine,
                      .write = 0,
                      .strided = {}};
    result.strided.rank = 1;
    result.strided.loops[0] = {bytes / 2, 1, 1, 1};
    return result;
  };
  for (int rank = 0; rank < c.ranks; ++rank) {
    test::FakeSchedule& schedule = schedules[static_cast<std::size_t>(rank)];
    schedule.num_slots = c.depth;
    schedule.exchange = c.exchange;
    schedule.lines = 1;
    for (Index& bytes : schedule.slots) bytes = kRoundBytes;
    for (Index number = 0; number < rounds; ++number) {
      plan::Round round;
      round.reads = {{0, 0, kRoundBytes, 0}};
      round.writes = {{0, 0, kRoundBytes, 0}};
      if (!c.exchange) round.place = {copy(plan::Slot::source, plan::Slot::output, 0, 0, kRoundBytes)};
      for (int peer = 0; c.exchange && peer < c.ranks; ++peer) {
        const Index at = peer * part;
        if (peer == rank) {
          round.place.push_back(copy(plan::Slot::source, plan::Slot::output, at, at, part));
          continue;
        }
        round.pack.push_back(copy(plan::Slot::source, plan::Slot::outgoing, at, at, part));
        round.sends.push_back({peer, at, part});
        round.receives.push_back({peer, at, part});
        round.place.push_back(copy(plan::Slot::received, plan::Slot::output, at, at, part));
      }
      schedule.rounds.push_back(std::move(round));
    }
  }
  return schedules;
}

/// Takes writes at the job's pace and drops them.
class SlowSink : public exec::Sink {
 public:
  explicit SlowSink(test::Throttle& throttle) : throttle_(throttle) {}
  Status consume(const plan::Round& round, std::size_t write, std::span<const std::byte>,
                 std::span<const std::uint64_t>) override {
    throttle_.pass(round.writes[write].length);
    return {};
  }
  Status finish() override { return {}; }

 private:
  test::Throttle& throttle_;
};

Result measure(const Case& c) {
  const std::vector<test::FakeSchedule> schedules = make_schedules(c);
  const std::vector<test::Bytes> files(1, test::Bytes(static_cast<std::size_t>(kRoundBytes)));
  test::Throttle reads(kBytesPerSecond), writes(kBytesPerSecond);
  exec::Options options;
  options.io_block_bytes = kMiB;
  bool failed = false;
  const auto start = std::chrono::steady_clock::now();
  comm::run_virtual_ranks(c.ranks, [&](comm::Comm& comm) {
    test::MemorySources sources(files);
    sources.before = [&](std::uint32_t) {
      reads.pass(kMiB);
      return Status();
    };
    SlowSink sink(writes);
    if (!exec::execute(schedules[static_cast<std::size_t>(comm.rank())], sources, sink, comm, options)) failed = true;
  });
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  const double one_way = static_cast<double>(kTotalBytes) / kBytesPerSecond;
  return {c, taken.count(), failed ? 99 : taken.count() / one_way};
}

}  // namespace
}  // namespace reshard

int main(int argc, char** argv) {
  using namespace reshard;
  const bool json = argc > 1 && std::strcmp(argv[1], "--json") == 0;
  bool good = true, first = true;
  if (json) std::printf("[");
  for (const Case& c : {Case{1, false, 2}, Case{1, false, 4}, Case{4, false, 2}, Case{4, true, 2}, Case{4, true, 4}}) {
    const Result r = measure(c);
    good &= r.ratio <= kMost;
    const char* route = c.exchange ? "exchange" : "direct";
    if (json) {
      std::printf("%s{\"ranks\": %d, \"route\": \"%s\", \"depth\": %d, \"seconds\": %.3f, \"of_one_way\": %.3f}",
                  first ? "" : ", ", c.ranks, route, c.depth, r.seconds, r.ratio);
    } else {
      std::printf("%d ranks  %-8s  %d slots  %6.2f s  %.3f of one way\n", c.ranks, route, c.depth, r.seconds, r.ratio);
    }
    first = false;
  }
  if (json) std::printf("]\n");
  return good ? 0 : 1;
}
