// SPDX-License-Identifier: Apache-2.0
#include "reshard/repack/op_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "src/repack/op_kernel.h"
#include "src/repack/op_maker.h"
#include "tests/support/device_copies.h"
#include "tests/support/random_copies.h"
#include "tests/support/seed.h"

namespace reshard {
namespace {

using plan::Copy;
using plan::Slot;
using repack::Op;
using repack::OpTable;
using repack::Task;
using test::DeviceCase;
using test::HostSlots;
using test::make_copy;

/// Memory that looks at every access: inside the slots, aligned to its width, no byte written twice.
class WatchedMemory {
 public:
  explicit WatchedMemory(HostSlots& slots) : bases_(slots.bases()) {
    for (int slot = 0; slot < 4; ++slot) {
      sizes_[slot] = slots.size(slot);
      written_[slot].resize(static_cast<std::size_t>(sizes_[slot]));
    }
  }

  template <unsigned kBytes>
  repack::Words<kBytes> load(const std::byte* from) {
    repack::Words<kBytes> words;
    if (find(from, kBytes) >= 0) std::memcpy(words.word, from, kBytes);
    return words;
  }

  template <unsigned kBytes>
  void store(std::byte* to, const repack::Words<kBytes>& words) {
    const int slot = find(to, kBytes);
    if (slot < 0) return;
    std::memcpy(to, words.word, kBytes);
    for (unsigned i = 0; i < kBytes; ++i) {
      char& written = written_[slot][static_cast<std::size_t>(to - bases_.at[slot]) + i];
      if (written) ++faults;
      written = 1;
    }
    widest = std::max(widest, kBytes);
  }

  const std::vector<char>& written(Slot slot) const { return written_[static_cast<int>(slot)]; }

  int faults = 0;
  unsigned widest = 0;  ///< store

 private:
  int find(const std::byte* at, Index bytes) {
    for (int slot = 0; slot < 4; ++slot) {
      const Index begin = at - bases_.at[slot];
      if (begin < 0 || begin + bytes > sizes_[slot]) continue;
      if (begin % bytes != 0) ++faults;
      return slot;
    }
    ++faults;
    return -1;
  }

  repack::SlotBases bases_;
  Index sizes_[4];
  std::vector<char> written_[4];
};

/// What the kernel's code takes by value.
struct Watch {
  WatchedMemory* memory;
  template <unsigned kBytes>
  repack::Words<kBytes> load(const std::byte* from) {
    return memory->load<kBytes>(from);
  }
  template <unsigned kBytes>
  void store(std::byte* to, const repack::Words<kBytes>& words) {
    memory->store<kBytes>(to, words);
  }
};

/// Runs tasks in random order in watched memory. Returns the digests.
std::vector<std::uint64_t> run_watched(const DeviceCase& c, std::span<const Op> ops, std::span<const Task> tasks,
                                       HostSlots& slots, WatchedMemory& memory, std::mt19937_64& random) {
  std::vector<std::uint64_t> digests(c.copies.size());
  std::vector<Task> order(tasks.begin(), tasks.end());
  std::shuffle(order.begin(), order.end(), random);
  for (const Task& task : order) {
    for (std::uint32_t thread = 0; thread < repack::kThreads; ++thread) {
      const Op& op = ops[task.op];
      const std::uint64_t sum = repack::run_thread(Watch{&memory}, op, task.part, thread, slots.bases());
      if (op.counts) digests[op.digest] += sum;
    }
  }
  return digests;
}

/// Bytes that a case writes, found by writing twice over different grounds.
std::vector<char> bytes_written(const DeviceCase& c, const HostSlots& before, Slot slot) {
  std::vector<char> written(static_cast<std::size_t>(before.size(static_cast<int>(slot))));
  for (int ground : {0, 255}) {
    HostSlots slots = before;
    std::byte* const bytes = slots.bases().at[static_cast<int>(slot)];
    std::memset(bytes, ground, written.size());
    test::run_on_cpu(c, slots);
    for (std::size_t i = 0; i < written.size(); ++i) written[i] |= bytes[i] != static_cast<std::byte>(ground);
  }
  return written;
}

/// One table does what the CPU does: the same bytes and digests, each target byte once, every access in its place.
void check(const DeviceCase& c, std::mt19937_64& random) {
  SCOPED_TRACE(c.name);
  const HostSlots before(c, random);
  HostSlots expected = before, emulated = before, watched = before;
  const std::vector<std::uint64_t> sums = test::run_on_cpu(c, expected);
  const OpTable table = test::make_table(c);
  std::vector<std::uint64_t> digests(c.copies.size());
  repack::emulate(table.ops(), table.tasks(), emulated.bases(), digests.data());
  ASSERT_TRUE(emulated == expected);
  ASSERT_EQ(digests, sums);
  WatchedMemory memory(watched);
  ASSERT_EQ(run_watched(c, table.ops(), table.tasks(), watched, memory, random), sums);
  ASSERT_TRUE(watched == expected);
  ASSERT_EQ(memory.faults, 0);
  for (Slot slot : {Slot::outgoing, Slot::output}) {
    ASSERT_TRUE(memory.written(slot) == bytes_written(c, before, slot)) << static_cast<int>(slot);
  }
}

void check_all(const std::vector<DeviceCase>& cases, std::mt19937_64& random) {
  for (const DeviceCase& c : cases) ASSERT_NO_FATAL_FAILURE(check(c, random));
}

TEST(OpTable, EveryTypeAsTheCpu) {
  std::mt19937_64 random(1);
  check_all(test::every_type(random), random);
}

TEST(OpTable, EveryAlignmentAsTheCpu) {
  std::mt19937_64 random(2);
  check_all(test::every_alignment(), random);
}

TEST(OpTable, TransposesAsTheCpu) {
  std::mt19937_64 random(3);
  check_all(test::transposes(random), random);
}

TEST(OpTable, RandomCopiesAsTheCpu) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  check_all(test::random_cases(random, 1500), random);
}

TEST(OpTable, CrowdsAndZerosAsTheCpu) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 5; ++i) ASSERT_NO_FATAL_FAILURE(check(test::crowd(random), random));
}

TEST(OpTable, ConversionsAsTheCpu) {
  std::mt19937_64 random(5);
  check_all(test::conversions(), random);
}

TEST(OpTable, EverySixteenBitCodeAsTheCpu) {
  for (DType src : {DType::bf16, DType::f16}) {
    for (DType dst : {DType::bf16, DType::f16, DType::f32}) {
      for (bool transposed : {false, true}) {
        const auto loops = transposed ? std::vector<layout::Loop>{{256, 256, 1, 256}, {256, 1, 256, 1}}
                                      : std::vector<layout::Loop>{{65536, 1, 1, 1}};
        const DeviceCase c = test::one_copy("codes", make_copy(src, dst, loops));
        std::mt19937_64 random(6);
        HostSlots slots(c, random);
        std::vector<std::uint16_t> codes(65536);
        std::iota(codes.begin(), codes.end(), std::uint16_t{0});
        std::memcpy(slots.bases().at[0], codes.data(), 2 * codes.size());
        HostSlots expected = slots;
        std::vector<std::uint64_t> digest(1);
        const OpTable table = test::make_table(c);
        repack::emulate(table.ops(), table.tasks(), slots.bases(), digest.data());
        EXPECT_EQ(digest, test::run_on_cpu(c, expected));
        EXPECT_TRUE(slots == expected) << to_string(src) << " to " << to_string(dst);
      }
    }
  }
}

// --- what the device gains by -------------------------------------------------------------------------------------

const Op& largest(const std::vector<Op>& ops) {
  return *std::max_element(ops.begin(), ops.end(), [](const Op& a, const Op& b) { return a.num_parts < b.num_parts; });
}

TEST(OpTable, LongRunsAndTransposesAreWide) {
  const auto ops_of = [](Copy copy, Index src_byte, Index dst_byte) {
    copy.src_byte = src_byte;
    copy.dst_byte = dst_byte;
    std::vector<Op> ops;
    repack::append_ops(copy, 0, ops);
    return ops;
  };
  const Copy run = make_copy(DType::bf16, DType::bf16, {{1 << 20, 1, 1, 1}});
  EXPECT_EQ(largest(ops_of(run, 0, 0)).width, 8);
  EXPECT_EQ(ops_of(run, 0, 0).size(), 1u);
  EXPECT_EQ(largest(ops_of(run, 6, 22)).width, 8);  // the same modulo 16: ends of their own
  EXPECT_EQ(ops_of(run, 6, 22).size(), 3u);
  EXPECT_EQ(largest(ops_of(run, 0, 8)).width, 4);
  EXPECT_EQ(largest(ops_of(run, 0, 2)).width, 1);
  Copy bits = run;
  bits.line = plan::kNoLine;
  EXPECT_EQ(largest(ops_of(bits, 0, 0)).width, 16);
  EXPECT_EQ(largest(ops_of(bits, 8, 0)).width, 8);
  EXPECT_EQ(largest(ops_of(bits, 0, 4)).width, 4);
  const Copy transpose = make_copy(DType::bf16, DType::bf16, {{1024, 2048, 1, 2048}, {2048, 1, 1024, 1}});
  EXPECT_EQ(ops_of(transpose, 0, 0).size(), 1u);
  for (Index src_byte : {0, 8}) {  // headers end at multiples of 8
    const std::vector<Op> ops = ops_of(transpose, src_byte, 24);
    EXPECT_TRUE(largest(ops).blocks && largest(ops).wide);
  }
}

TEST(OpTable, TasksAreOfOneSize) {
  std::vector<Op> ops;
  repack::append_ops(make_copy(DType::bf16, DType::bf16, {{1 << 24, 1, 1, 1}}), 0, ops);
  repack::append_ops(make_copy(DType::bf16, DType::bf16, {{8192, 8192, 1024, 8192}, {1024, 1, 1, 1}}), 0, ops);
  repack::append_ops(make_copy(DType::bf16, DType::bf16, {{8192, 1024, 1, 1024}, {1024, 1, 8192, 1}}), 0, ops);
  ASSERT_EQ(ops.size(), 3u);
  EXPECT_EQ(ops[0].num_parts, (2u << 24) / (32u << 10));
  EXPECT_EQ(ops[1].num_parts, (16u << 20) / (32u << 10));
  EXPECT_EQ(ops[2].num_parts, (16u << 20) / (32u << 10));
}

// --- index arithmetic without memory -------------------------------------------------------------------------------

TEST(Divider, IsExact) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20000; ++i) {
    const auto d = std::max(1u, static_cast<std::uint32_t>(random() >> (32 + random() % 32)));
    const repack::Divider divider = repack::make_divider(d);
    for (std::uint32_t n : {0u, 1u, d - 1, d, d + 1, 2 * d - 1, 2 * d, 0xFFFFFFFFu, 0xFFFFFFFFu / d * d,
                            0xFFFFFFFFu / d * d - 1, static_cast<std::uint32_t>(random())}) {
      ASSERT_EQ(repack::divide(n, divider), n / d) << n << " / " << d;
    }
  }
}

struct Place {
  Index src, dst;
  std::uint64_t x;
  bool operator==(const Place&) const = default;
};

// Element number n of the loops, the last one fastest.
Place place_of(const std::vector<layout::Loop>& loops, Index n, Index src_bytes, Index dst_bytes) {
  Place place{0, 0, repack::kDigestStep};
  for (std::size_t k = loops.size(); k-- > 0;) {
    const Index i = n % loops[k].size;
    n /= loops[k].size;
    place.src += i * loops[k].src * src_bytes;
    place.dst += i * loops[k].dst * dst_bytes;
    place.x += static_cast<std::uint64_t>(i * loops[k].canonical) * repack::kDigestStep;
  }
  return place;
}

TEST(Locate, VectorsBeyondFourGiB) {
  std::mt19937_64 random(8);
  const std::vector<std::vector<layout::Loop>> forms = {
      {{Index{1} << 40, 1, 1, 1}},
      {{(Index{1} << 34) + 16, 1, 1, 1}},
      {{Index{3} << 20, Index{1} << 36, Index{1} << 13, Index{1} << 13}, {8192, 1, 1, 1}},
      {{100003, 1 << 21, 1 << 20, 1 << 20}, {1001, 2096, 1048, 1048}, {1000, 1, 1, 1}},
      {{70001, 8 * 60013, 8 * 60013, 8 * 60013}, {60013, 8, 8, 8}, {8, 1, 1, 1}},
  };
  for (const auto& loops : forms) {
    std::vector<Op> ops;
    repack::append_ops(make_copy(DType::bf16, DType::f32, loops), 0, ops);
    ASSERT_EQ(ops.size(), 1u);
    const Op& op = ops[0];
    ASSERT_EQ(op.width, 8);
    Index volume = 1;
    for (const auto& loop : loops) volume *= loop.size;
    // Items of a task follow each other; tasks too, where the segments of the cut level are whole.
    for (int i = 0; i < 3000; ++i) {
      const auto part = i == 0 ? op.num_parts - 1 : static_cast<std::uint32_t>(random() % op.num_parts);
      const repack::VectorPart at = repack::locate_vector_part(op, part);
      ASSERT_LE(at.items, 8192u);
      const auto item = i % 3 == 0 ? at.items - 1 : static_cast<std::uint32_t>(random() % at.items);
      repack::Position found[1];
      repack::locate_vectors(op, at.first, item, found);
      // The number of the part's first item, by the definition of cut and segment.
      Index inner = 1, number = part;
      for (int k = 0; k < op.cut; ++k) inner *= op.levels[k].size;
      const Index segments = ceil_div(op.levels[op.cut].size, op.segment);
      number = number / segments * op.levels[op.cut].size + number % segments * op.segment;
      const Place expected = place_of(loops, (number * inner + item) * op.width, 2, 4);
      ASSERT_EQ((Place{found[0].src, found[0].dst, found[0].x}), expected) << "part " << part << " item " << item;
      if (i == 0) {
        ASSERT_EQ((number * inner + at.items) * op.width, volume);
      }
    }
  }
}

TEST(Locate, BlocksBeyondFourGiB) {
  std::mt19937_64 random(9);
  const Index a = (Index{1} << 33) + 24, b = 136;
  const std::vector<layout::Loop> loops = {{5, a * b, a * b, a * b}, {b, a, 1, a}, {a, 1, b, 1}};
  std::vector<Op> ops;
  repack::append_ops(make_copy(DType::bf16, DType::bf16, loops), 0, ops);
  ASSERT_EQ(ops.size(), 1u);
  const Op& op = ops[0];
  ASSERT_TRUE(op.blocks && op.wide);
  const Index tile[3] = {Index{1} << op.tile_bits[0], Index{1} << op.tile_bits[1], Index{1} << op.tile_bits[2]};
  const Index sizes[3] = {a / 8, b / 8, 5};
  Index found_last = 0;
  for (int i = 0; i < 3000; ++i) {
    const auto part = i < 500 ? op.num_parts - 1 : static_cast<std::uint32_t>(random() % op.num_parts);
    const repack::BlockPart at = repack::locate_block_part(op, part);
    const auto item = static_cast<std::uint32_t>(random() % static_cast<std::uint64_t>(tile[0] * tile[1] * tile[2]));
    // The place of the tile, from the part's number; inside it, the bits as op_table.h tells.
    Index place[3];
    Index number = part;
    for (int k = 0; k < 3; ++k) {
      const Index tiles = ceil_div(sizes[k], tile[k]);
      place[k] = number % tiles * tile[k];
      number /= tiles;
    }
    const int la = op.lane_bits[0], lb = op.lane_bits[1], ta = op.tile_bits[0], tb = op.tile_bits[1];
    const auto bits = [&](int from, int count) { return static_cast<Index>(item >> from & ((1u << count) - 1u)); };
    place[0] += bits(0, la) + (bits(la + lb, ta - la) << la);
    place[1] += bits(la, lb) + (bits(ta + lb, tb - lb) << lb);
    place[2] += item >> (ta + tb);
    const bool inside = place[0] < sizes[0] && place[1] < sizes[1] && place[2] < sizes[2];
    repack::Position found{};
    ASSERT_EQ(repack::locate_block(op, at, item, found), inside);
    if (!inside) continue;
    ++found_last;
    const Place expected = place_of(loops, (place[2] * b + place[1] * 8) * a + place[0] * 8, 2, 2);
    ASSERT_EQ((Place{found.src, found.dst, found.x}), expected) << "part " << part << " item " << item;
  }
  EXPECT_GT(found_last, 100);
}

// --- the tests see faults ------------------------------------------------------------------------------------------

TEST(OpTable, AWrongTableIsSeen) {
  std::mt19937_64 random(10);
  for (const DeviceCase& one :
       {test::one_copy("rows", make_copy(DType::bf16, DType::bf16, {{40, 256, 128, 256}, {128, 1, 1, 1}})),
        test::one_copy("transpose", make_copy(DType::bf16, DType::f32, {{64, 128, 1, 128}, {128, 1, 64, 1}}))}) {
    const HostSlots before(one, random);
    HostSlots expected = before;
    const std::vector<std::uint64_t> sums = test::run_on_cpu(one, expected);
    const OpTable table = test::make_table(one);
    ASSERT_EQ(table.ops().size(), 1u);
    const bool blocks = table.ops()[0].blocks;
    const auto is_seen = [&](auto change) {
      std::vector<Op> ops(table.ops().begin(), table.ops().end());
      std::vector<Task> tasks(table.tasks().begin(), table.tasks().end());
      change(ops[0], tasks);
      HostSlots slots = before;
      WatchedMemory memory(slots);
      const auto digests = run_watched(one, ops, tasks, slots, memory, random);
      return memory.faults > 0 || digests != sums || !(slots == expected) ||
             memory.written(Slot::output) != bytes_written(one, before, Slot::output);
    };
    using Tasks = std::vector<Task>;
    EXPECT_FALSE(is_seen([](Op&, Tasks&) {}));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.src += 16; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.src += 1; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.dst += 16; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.x += 1; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.dx_src += 1; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.levels[0].dst += 16; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.levels[1].src += 16; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.levels[1].x += 1; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.levels[op.blocks ? 0 : op.cut].size -= 1; }));
    EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.counts = false; }));
    EXPECT_TRUE(is_seen([](Op&, Tasks& tasks) { tasks.push_back(tasks.front()); }));
    EXPECT_TRUE(is_seen([](Op&, Tasks& tasks) { tasks.pop_back(); }));
    if (blocks) {
      EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.src_pitch += 16; }));
      EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.dst_pitch += 16; }));
      EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.dx_dst += 1; }));
      EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.rule = repack::Rule::bf16_to_f16; }));
    } else {
      EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.segment -= 1; }));
      EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.width /= 2; }));
      EXPECT_TRUE(is_seen([](Op& op, Tasks&) { op.rule = repack::Rule::f16; }));
    }
  }
}

}  // namespace
}  // namespace reshard
