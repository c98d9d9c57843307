// SPDX-License-Identifier: Apache-2.0
#include "work.h"

#include <algorithm>

#include "reshard/io/file.h"
#include "reshard/repack/repack.h"

namespace reshard::exec {
namespace {

// A batch costs about this many bytes of copying; a copy's own overhead is worth kCopyCost bytes.
constexpr Index kBatchBytes = kMiB;
constexpr Index kCopyCost = 2 * kKiB;

class Batcher {
 public:
  Batcher(Batches& batches, bool cut_copies) : batches_(batches), cut_copies_(cut_copies) {}
  ~Batcher() { close(); }

  void add_copy(Batches::Item::Kind kind, std::uint32_t index, const plan::Copy& copy) {
    const Index bytes = repack::moved_bytes(copy);
    if (!cut_copies_ || bytes < 2 * kBatchBytes) return add({kind, index}, bytes);
    for (plan::Copy& part : repack::split(copy, static_cast<int>(ceil_div(bytes, kBatchBytes)))) {
      batches_.parts.push_back(std::move(part));
      add({kind, index, static_cast<std::int32_t>(batches_.parts.size()) - 1}, kBatchBytes);
    }
  }

  void add(Batches::Item item, Index bytes) {
    batches_.items.push_back(item);
    cost_ += bytes + kCopyCost;
    if (cost_ >= kBatchBytes) close();
  }

 private:
  void close() {
    const auto end = static_cast<std::uint32_t>(batches_.items.size());
    if (begin_ != end) batches_.batches.emplace_back(begin_, end);
    begin_ = end;
    cost_ = 0;
  }

  Batches& batches_;
  bool cut_copies_;
  std::uint32_t begin_ = 0;
  Index cost_ = 0;
};

}  // namespace

RoundWork::RoundWork(Index number_, plan::Round round_, const Grain& grain)
    : number(number_),
      round(std::move(round_)),
      digests(round.place.size(), 0),
      sent(!grain.exchanges),
      received(!grain.exchanges) {
  // All threads read at a small round, and no read keeps the store from writes for long.
  Index bytes = 0;
  for (const plan::Read& read : round.reads) bytes += read.length;
  const Index piece = std::min(grain.read_bytes, std::max(kMiB, ceil_div(bytes, 2 * Index{grain.readers})));
  // Cuts lie on pages of the file, so that the pieces between them can go direct.
  const Index step = std::max(io::kPage, piece / io::kPage * io::kPage);
  for (const plan::Read& read : round.reads) {
    const Index end = read.offset + read.length;
    for (Index at = read.offset; at < end;) {
      const Index next = std::min(end, at / io::kPage * io::kPage + step);
      pieces.push_back({read.file, at, next - at, read.slot_offset + (at - read.offset)});
      at = next;
    }
  }
  if (grain.on_device) {
    device.emplace(round, grain.messages_on_device);
    return;
  }
  using Kind = Batches::Item::Kind;
  Batcher packing(pack, grain.cut_copies), here(local, grain.cut_copies), there(remote, grain.cut_copies);
  for (std::uint32_t i = 0; i < round.pack.size(); ++i) packing.add_copy(Kind::pack, i, round.pack[i]);
  for (std::uint32_t i = 0; i < round.constants.size(); ++i) here.add({Kind::constant, i}, round.constants[i].length);
  for (std::uint32_t i = 0; i < round.place.size(); ++i) {
    const bool from_source = round.place[i].src_slot == plan::Slot::source;
    (from_source ? here : there).add_copy(Kind::place, i, round.place[i]);
  }
}

bool RoundWork::frees(plan::Slot slot) const {
  switch (slot) {
    case plan::Slot::source:
      return device ? device->done(DeviceSteps::upload) : read() && pack.finished() && local.finished();
    case plan::Slot::outgoing:
      return packed() && sent;
    case plan::Slot::received:
      return device ? device->done(DeviceSteps::put) : received && remote.finished();
    case plan::Slot::output:
      return written();
  }
  return true;
}

bool RoundWork::frees_on_device(plan::Slot slot) const {
  switch (slot) {
    case plan::Slot::source:
      return device->done(DeviceSteps::pack) && device->done(DeviceSteps::local);
    case plan::Slot::outgoing:
      // Bytes that were fetched are sent from the host.
      return device->done(DeviceSteps::fetch) && (sent || !device->ranges[DeviceSteps::fetch].empty());
    case plan::Slot::received:
      return device->done(DeviceSteps::remote);
    case plan::Slot::output:
      return device->done(DeviceSteps::download);
  }
  return true;
}

bool RoundWork::allows(DeviceSteps::Step step) const {
  switch (step) {
    case DeviceSteps::upload:
      return read();
    case DeviceSteps::pack:
    case DeviceSteps::local:
      return device->done(DeviceSteps::upload);
    case DeviceSteps::fetch:
      return device->done(DeviceSteps::pack);
    case DeviceSteps::put:
      return received;
    case DeviceSteps::remote:
      return device->done(DeviceSteps::put);
    case DeviceSteps::download:
      return device->done(DeviceSteps::local) && device->done(DeviceSteps::remote);
  }
  return false;
}

}  // namespace reshard::exec
