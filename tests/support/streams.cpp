// SPDX-License-Identifier: Apache-2.0
#include "tests/support/streams.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "tests/support/naive_copy.h"

namespace reshard::test {
namespace {

using plan::Copy;
using plan::Slot;

constexpr Index kLines = 7;
constexpr char kConstant[] = "constant bytes of a header, long enough for any of them in these tests";

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

class Maker {
 public:
  Maker(std::mt19937_64& random, const JobShape& shape) : random_(random), shape_(shape) {
    job_.ranks.resize(static_cast<std::size_t>(shape.ranks));
    for (int file = 0; file < 3; ++file) {
      Bytes bytes(at(1000 + below(60000)));
      for (std::byte& b : bytes) b = static_cast<std::byte>(random_());
      job_.sources.push_back(std::move(bytes));
    }
    job_.target_sizes.assign(3, 0);
  }

  Job make() {
    for (Index number = 0; number < shape_.rounds; ++number) make_round();
    for (FakeSchedule& schedule : job_.ranks) {
      schedule.num_slots = shape_.depth;
      schedule.exchange = shape_.exchange;
      schedule.lines = kLines;
      for (Index& bytes : schedule.slots) bytes = shape_.slot_bytes;
    }
    return std::move(job_);
  }

 private:
  Index below(Index n) { return static_cast<Index>(random_() % static_cast<std::uint64_t>(n)); }

  // What one rank has of one round while it is made.
  struct Draft {
    plan::Round round;
    Index filled = 0, outgoing = 0, received = 0, output = 0;  // bytes used of each slot
  };

  void make_round() {
    const int ranks = shape_.ranks;
    std::vector<Draft> drafts(static_cast<std::size_t>(ranks));
    for (Draft& draft : drafts) {
      if (below(5) != 0) make_reads(draft);
    }
    for (Draft& draft : drafts) {
      for (Index i = below(6); i > 0; --i) add_constant(draft);
      if (draft.filled == 0) continue;
      for (Index i = below(12); i > 0; --i) {
        Copy copy = random_copy(draft);
        place(draft, copy);
      }
    }
    if (shape_.exchange) {
      for (int src = 0; src < ranks; ++src) {
        for (int dst = 0; dst < ranks; ++dst) {
          if (below(4) != 0) exchange(drafts[at(src)], drafts[at(dst)], src, dst);
        }
      }
    }
    for (std::size_t rank = 0; rank < drafts.size(); ++rank) {
      make_writes(drafts[rank]);
      job_.ranks[rank].rounds.push_back(std::move(drafts[rank].round));
    }
  }

  void make_reads(Draft& draft) {
    for (Index i = 1 + below(3); i > 0; --i) {
      const auto file = static_cast<std::uint32_t>(below(3));
      const auto size = static_cast<Index>(job_.sources[file].size());
      const Index offset = below(size);
      const Index length = std::min(1 + below(shape_.slot_bytes / 3), size - offset);
      draft.round.reads.push_back({file, offset, length, draft.filled});
      draft.filled += length;
    }
  }

  // A box of up to three loops somewhere in what was read; not placed yet.
  Copy random_copy(const Draft& draft) {
    constexpr DType kTypes[] = {DType::u8, DType::bf16, DType::f16, DType::f32, DType::i64, DType::f8_e4m3};
    const DType dtype = draft.filled < 8 ? DType::u8 : kTypes[below(6)];
    Copy copy{.src_slot = Slot::source,
              .dst_slot = Slot::output,
              .src_dtype = dtype,
              .dst_dtype = dtype,
              .src_byte = 0,
              .dst_byte = 0,
              .line = below(3) == 0 ? plan::kNoLine : below(kLines),
              .write = 0,
              .strided = {}};
    const Index elements = draft.filled / bytes_of(dtype);
    copy.strided.rank = static_cast<int>(below(4));
    Index stride = 1, reach = 1;
    for (int k = copy.strided.rank - 1; k >= 0; --k) {
      Index size = 1 + below(below(3) == 0 ? 60 : 6);
      while (size > 1 && reach + (size - 1) * stride > elements) size /= 2;
      copy.strided.loops[k] = {size, stride, 0, below(1000)};
      reach += (size - 1) * stride;
      stride = stride * size + below(3);
    }
    copy.strided.canonical = below(1000);
    copy.src_byte = below(draft.filled - reach * bytes_of(dtype) + 1);
    return copy;
  }

  // Destination strides: dense, in a random order of the loops.
  static Index lay_dense(Copy& copy, std::vector<int> order) {
    Index stride = 1;
    for (int k : order) {
      copy.strided.loops[k].dst = stride;
      stride *= copy.strided.loops[k].size;
    }
    return stride;
  }
  std::vector<int> order_of(const Copy& copy, bool shuffled) {
    std::vector<int> order;
    for (int k = copy.strided.rank - 1; k >= 0; --k) order.push_back(k);
    if (shuffled) std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  void place(Draft& draft, Copy copy) {
    if (is_castable(copy.src_dtype) && below(2) == 0) {
      constexpr DType kFloats[] = {DType::bf16, DType::f16, DType::f32};
      copy.dst_dtype = kFloats[below(3)];
    }
    const Index bytes = lay_dense(copy, order_of(copy, true)) * bytes_of(copy.dst_dtype);
    if (bytes == 0 || draft.output + bytes > shape_.slot_bytes) return;
    copy.dst_slot = Slot::output;
    copy.dst_byte = draft.output;
    draft.output += bytes;
    draft.round.place.push_back(copy);
  }

  void add_constant(Draft& draft) {
    const Index length = 1 + below(sizeof(kConstant) - 1);
    if (draft.output + length > shape_.slot_bytes) return;
    draft.round.constants.push_back({draft.output, length, below(2) == 0 ? nullptr : kConstant});
    draft.output += length;
  }

  // One message with a few packed copies, which the receiver places.
  void exchange(Draft& src, Draft& dst, int src_rank, int dst_rank) {
    if (src.filled == 0) return;
    const Index out_begin = src.outgoing, in_begin = dst.received;
    for (Index i = 1 + below(4); i > 0; --i) {
      Copy packed = random_copy(src);
      const Index bytes = lay_dense(packed, order_of(packed, false)) * bytes_of(packed.src_dtype);
      if (bytes == 0 || src.outgoing + bytes > shape_.slot_bytes || dst.received + bytes > shape_.slot_bytes) continue;
      Copy placed = packed;
      for (int k = 0; k < placed.strided.rank; ++k) placed.strided.loops[k].src = packed.strided.loops[k].dst;
      placed.src_slot = Slot::received;
      placed.src_byte = dst.received;
      const std::size_t before = dst.round.place.size();
      place(dst, placed);
      if (dst.round.place.size() == before) continue;
      packed.dst_slot = Slot::outgoing;
      packed.dst_byte = src.outgoing;
      packed.line = plan::kNoLine;
      src.round.pack.push_back(packed);
      src.outgoing += bytes;
      dst.received += bytes;
    }
    if (src.outgoing == out_begin) return;
    src.round.sends.push_back({dst_rank, out_begin, src.outgoing - out_begin});
    dst.round.receives.push_back({src_rank, in_begin, dst.received - in_begin});
  }

  // The output goes to one or two places, cut between two things that were put into it.
  void make_writes(Draft& draft) {
    if (draft.output == 0) return;
    Index cut = draft.output;
    if (!draft.round.place.empty() && below(2) == 0)
      cut = draft.round.place[at(below(static_cast<Index>(draft.round.place.size())))].dst_byte;
    for (const auto& [begin, end] : {std::pair{Index{0}, cut}, {cut, draft.output}}) {
      if (begin == end) continue;
      const auto file = static_cast<std::uint32_t>(below(3));
      draft.round.writes.push_back({file, job_.target_sizes[file], end - begin, begin});
      job_.target_sizes[file] += end - begin;
    }
    for (Copy& copy : draft.round.place) {
      copy.write = draft.round.writes.size() == 2 && copy.dst_byte >= cut ? 1 : 0;
    }
  }

  std::mt19937_64& random_;
  JobShape shape_;
  Job job_;
};

class MemorySource : public io::Source {
 public:
  MemorySource(const MemorySources& all, const Bytes& bytes, std::uint32_t file)
      : all_(all), bytes_(bytes), file_(file) {}
  Index size() const override { return static_cast<Index>(bytes_.size()); }
  Status read_at(std::span<std::byte> into, Index offset) override {
    if (all_.before) RESHARD_CHECK(all_.before(file_));
    if (offset + static_cast<Index>(into.size()) > size()) return input_error("read behind the end");
    std::memcpy(into.data(), bytes_.data() + offset, into.size());
    return {};
  }

 private:
  const MemorySources& all_;
  const Bytes& bytes_;
  std::uint32_t file_;
};

}  // namespace

plan::Totals FakeSchedule::totals() const {
  plan::Totals totals;
  for (const plan::Round& r : rounds) {
    for (const auto& read : r.reads) totals.bytes_read += read.length;
    for (const auto& message : r.sends) totals.bytes_sent += message.length;
    for (const auto& message : r.receives) totals.bytes_received += message.length;
    for (const auto& write : r.writes) totals.bytes_written += write.length;
    ++totals.rounds;
  }
  return totals;
}

Job random_job(std::mt19937_64& random, const JobShape& shape) { return Maker(random, shape).make(); }

JobResult naive_execute(const Job& job) {
  JobResult result;
  for (const Index size : job.target_sizes) result.targets.emplace_back(at(size));
  result.digests.assign(at(job.ranks[0].lines), 0);
  for (std::size_t number = 0; number < job.ranks[0].rounds.size(); ++number) {
    std::vector<std::vector<Bytes>> slots(job.ranks.size());
    for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
      const FakeSchedule& schedule = job.ranks[rank];
      for (const Index bytes : schedule.slots) slots[rank].emplace_back(at(bytes));
      const plan::Round& round = schedule.rounds[number];
      const auto slot = [&](Slot kind) { return slots[rank][static_cast<std::size_t>(kind)].data(); };
      for (const plan::Read& read : round.reads) {
        std::memcpy(slot(Slot::source) + read.slot_offset, job.sources[read.file].data() + read.offset,
                    at(read.length));
      }
      for (const Copy& copy : round.pack) naive_run(copy, slot(Slot::source), slot(Slot::outgoing));
    }
    for (std::size_t rank = 0; rank < job.ranks.size(); ++rank) {
      const plan::Round& round = job.ranks[rank].rounds[number];
      const auto slot = [&](std::size_t r, Slot kind) { return slots[r][static_cast<std::size_t>(kind)].data(); };
      for (const plan::Message& receive : round.receives) {
        const auto peer = static_cast<std::size_t>(receive.peer);
        for (const plan::Message& send : job.ranks[peer].rounds[number].sends) {
          if (static_cast<std::size_t>(send.peer) != rank) continue;
          std::memcpy(slot(rank, Slot::received) + receive.slot_offset, slot(peer, Slot::outgoing) + send.slot_offset,
                      at(send.length));
        }
      }
      for (const plan::Constant& constant : round.constants) {
        std::byte* const to = slot(rank, Slot::output) + constant.slot_offset;
        if (constant.bytes) {
          std::memcpy(to, constant.bytes, at(constant.length));
        } else {
          std::memset(to, 0, at(constant.length));
        }
      }
      for (const Copy& copy : round.place) {
        const std::uint64_t digest = naive_run(copy, slot(rank, copy.src_slot), slot(rank, Slot::output));
        if (copy.line != plan::kNoLine) result.digests[at(copy.line)] += digest;
      }
      for (const plan::Write& write : round.writes) {
        std::memcpy(result.targets[write.file].data() + write.offset, slot(rank, Slot::output) + write.slot_offset,
                    at(write.length));
      }
    }
  }
  return result;
}

void Throttle::pass(Index bytes) {
  using Clock = std::chrono::steady_clock;
  if (bytes_per_s_ <= 0) return;
  Clock::time_point until;
  {
    const std::lock_guard lock(mutex_);
    const std::chrono::duration<double> time(static_cast<double>(bytes) / bytes_per_s_);
    free_ = std::max(free_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(time);
    until = free_;
  }
  std::this_thread::sleep_until(until);
}

Expected<std::shared_ptr<io::Source>> MemorySources::open(std::uint32_t file) {
  return std::shared_ptr<io::Source>(std::make_shared<MemorySource>(*this, files_[file], file));
}

Status MemorySink::consume(const plan::Round& round, std::size_t write, std::span<const std::byte> output,
                           std::span<const std::uint64_t>) {
  const plan::Write& w = round.writes[write];
  if (before) RESHARD_CHECK(before(w));
  std::memcpy(targets_[w.file].data() + w.offset, output.data() + w.slot_offset, at(w.length));
  return {};
}

Status MemorySink::finish() {
  ++finished;
  return finish_status;
}

void expect_naive_result(comm::Comm& comm, const Job& job, const exec::Options& options) {
  const JobResult expected = naive_execute(job);
  const FakeSchedule& mine = job.ranks[static_cast<std::size_t>(comm.rank())];
  std::vector<Bytes> targets;
  for (const Index size : job.target_sizes) targets.emplace_back(static_cast<std::size_t>(size));
  MemorySources sources(job.sources);
  MemorySink sink(targets);
  const auto outcome = exec::execute(mine, sources, sink, comm, options);
  ASSERT_TRUE(outcome) << outcome.error().message;
  EXPECT_EQ(outcome->totals, mine.totals());
  std::vector<std::uint64_t> digests = outcome->digests;
  comm.sum(digests);
  EXPECT_EQ(digests, expected.digests);
  for (const plan::Round& round : mine.rounds) {
    for (const plan::Write& write : round.writes) {
      const auto begin = static_cast<std::ptrdiff_t>(write.offset);
      const Bytes& got = targets[write.file];
      ASSERT_TRUE(std::equal(got.begin() + begin, got.begin() + begin + static_cast<std::ptrdiff_t>(write.length),
                             expected.targets[write.file].begin() + begin));
    }
  }
}

}  // namespace reshard::test
