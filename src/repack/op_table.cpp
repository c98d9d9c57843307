// SPDX-License-Identifier: Apache-2.0
#include "reshard/repack/op_table.h"

#include <cstring>

#include "op_kernel.h"
#include "op_maker.h"

namespace reshard::repack {
namespace {

struct HostMemory {
  template <unsigned kBytes>
  Words<kBytes> load(const std::byte* from) {
    Words<kBytes> words;
    std::memcpy(words.word, from, kBytes);
    return words;
  }
  template <unsigned kBytes>
  void store(std::byte* to, const Words<kBytes>& words) {
    std::memcpy(to, words.word, kBytes);
  }
};

}  // namespace

OpTable OpTable::make(const std::vector<plan::Copy>& all, std::span<const std::uint32_t> copies,
                      const std::vector<plan::Constant>& zero_fills) {
  OpTable table;
  for (std::uint32_t i : copies) append_ops(all[i], i, table.ops_);
  for (const plan::Constant& fill : zero_fills) {
    if (!fill.bytes) append_zeros(fill.slot_offset, fill.length, table.ops_);
  }
  for (std::uint32_t i = 0; i < table.ops_.size(); ++i) {
    for (std::uint32_t part = 0; part < table.ops_[i].num_parts; ++part) table.tasks_.push_back({i, part});
  }
  return table;
}

void emulate(std::span<const Op> ops, std::span<const Task> tasks, const SlotBases& slots, std::uint64_t* digests) {
  HostMemory memory;
  for (const Task& task : tasks) {
    const Op& op = ops[task.op];
    for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
      const std::uint64_t sum = run_thread(memory, op, task.part, thread, slots);
      if (op.counts) digests[op.digest] += sum;
    }
  }
}

}  // namespace reshard::repack
