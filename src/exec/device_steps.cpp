// SPDX-License-Identifier: Apache-2.0
#include "device_steps.h"

#include <algorithm>
#include <numeric>

namespace reshard::exec {
namespace {

// A transfer costs what so many bytes do. Nobody looks at what lies between pieces.
constexpr Index kBridgedGap = 64 * kKiB;

/// The places of reads, messages or writes in their slot; those that are close become one.
template <class Pieces>
std::vector<device::Range> ranges_of(const Pieces& pieces) {
  std::vector<device::Range> all;
  for (const auto& piece : pieces) {
    if (piece.length > 0) all.push_back({piece.slot_offset, piece.length});
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  std::vector<device::Range> joined;
  for (const device::Range& range : all) {
    if (!joined.empty() && range.offset - joined.back().offset - joined.back().length <= kBridgedGap) {
      device::Range& last = joined.back();
      last.length = std::max(last.length, range.offset + range.length - last.offset);
    } else {
      joined.push_back(range);
    }
  }
  return joined;
}

}  // namespace

DeviceSteps::DeviceSteps(const plan::Round& round, bool messages_on_device) {
  ranges[upload] = ranges_of(round.reads);
  ranges[download] = ranges_of(round.writes);
  if (!messages_on_device) {
    ranges[fetch] = ranges_of(round.sends);
    ranges[put] = ranges_of(round.receives);
  }
  std::vector<std::uint32_t> packed(round.pack.size()), here, there;
  std::iota(packed.begin(), packed.end(), 0u);
  for (std::uint32_t i = 0; i < round.place.size(); ++i) {
    (round.place[i].src_slot == plan::Slot::source ? here : there).push_back(i);
  }
  tables[pack] = repack::OpTable::make(round.pack, packed, {});
  tables[local] = repack::OpTable::make(round.place, here, round.constants);
  tables[remote] = repack::OpTable::make(round.place, there, {});
}

Stage stage_of(DeviceSteps::Step step) {
  switch (step) {
    case DeviceSteps::upload:
    case DeviceSteps::put:
      return Stage::upload;
    case DeviceSteps::fetch:
    case DeviceSteps::download:
      return Stage::download;
    default:
      return Stage::repack;
  }
}

}  // namespace reshard::exec
