// SPDX-License-Identifier: Apache-2.0
#include "replicas.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>

#include "source_files.h"

namespace reshard::app {
namespace {

/// Arrays that hold elements of which another array comes first.
std::vector<std::uint32_t> replicated_arrays(const layout::Layout& layout) {
  std::vector<bool> found(layout.arrays().size(), false);
  std::vector<layout::Piece> pieces;
  for (std::uint32_t t = 0; t < layout.canon().tensors().size(); ++t) {
    layout::Fusion unfused;
    unfused.first.resize(layout.canon().tensors()[t].axes.size());
    std::iota(unfused.first.begin(), unfused.first.end(), 0);
    pieces.clear();
    layout.pieces(t, unfused, pieces);
    for (const layout::Piece& piece : pieces) {
      if (piece.replica) found[piece.array] = true;
    }
  }
  std::vector<std::uint32_t> arrays;
  for (std::uint32_t a = 0; a < found.size(); ++a) {
    if (found[a]) arrays.push_back(a);
  }
  return arrays;
}

/// Is element `position` of an array inside one of its fills?
bool is_fill(const std::vector<layout::Piece>& fills, Index position) {
  return std::any_of(fills.begin(), fills.end(), [&](const layout::Piece& fill) {
    std::vector<int> order(static_cast<std::size_t>(fill.rank));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return fill.stride[a] > fill.stride[b]; });
    Index rest = position - fill.offset;
    for (const int k : order) {
      if (rest < 0) return false;
      const Index at = std::min(rest / fill.stride[k], fill.size[k] - 1);
      rest -= at * fill.stride[k];
    }
    return rest == 0;
  });
}

/// Compares rebuilt files with what they are rebuilt from.
class ReplicaSink : public exec::Sink {
 public:
  ReplicaSink(const format::Checkpoint& checkpoint, const std::vector<std::uint32_t>& arrays)
      : checkpoint_(checkpoint), files_({&checkpoint}), differing_(arrays.size(), 0) {
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      const format::Directory::Entry& entry = checkpoint.probe.directory.entries[checkpoint.locations[arrays[i]]];
      stored_[{entry.file, entry.entry.offset + entry.entry.length}] = {i, arrays[i], entry.entry.offset};
    }
  }

  Status probe() { return files_.probe(); }

  Status consume(const plan::Round& round, std::size_t number, std::span<const std::byte> output,
                 std::span<const std::uint64_t>) override {
    const plan::Write& write = round.writes[number];
    const std::byte* rebuilt = output.data() + (write.slot_offset - write.offset);
    std::vector<std::byte> bytes;
    for (auto at = stored_.upper_bound({write.file, write.offset}); at != stored_.end(); ++at) {
      const Stored& stored = at->second;
      const Index begin = std::max(stored.begin, write.offset);
      const Index end = std::min(at->first.second, write.offset + write.length);
      if (at->first.first != write.file || begin >= end) break;
      bytes.resize(static_cast<std::size_t>(end - begin));
      RESHARD_TRY(const std::shared_ptr<io::Source> source, files_.open(write.file));
      RESHARD_CHECK(source->read_at(bytes, begin));
      if (std::memcmp(bytes.data(), rebuilt + begin, bytes.size()) != 0) {
        count(stored, begin, end, bytes.data() - begin, rebuilt);
      }
    }
    return {};
  }
  Status finish() override { return {}; }

  /// Differing elements of each array.
  std::vector<std::uint64_t>& differing() { return differing_; }

 private:
  struct Stored {
    std::size_t number;
    std::uint32_t array;
    Index begin;
  };

  /// `a` and `b` point at what would be byte 0 of the file.
  void count(const Stored& stored, Index begin, Index end, const std::byte* a, const std::byte* b) {
    const layout::Layout& layout = *checkpoint_.layout;
    const Index element = bytes_of(layout.arrays()[stored.array].dtype);
    const std::vector<layout::Piece> fills = layout.fills(stored.array);
    std::uint64_t differing = 0;
    for (Index at = begin; at < end; at += element) {
      if (std::memcmp(a + at, b + at, static_cast<std::size_t>(element)) != 0 &&
          !is_fill(fills, (at - stored.begin) / element)) {
        ++differing;
      }
    }
    const std::lock_guard lock(mutex_);
    differing_[stored.number] += differing;
  }

  const format::Checkpoint& checkpoint_;
  CheckpointFiles files_;
  std::map<std::pair<std::uint32_t, Index>, Stored> stored_;  // by file and end
  std::mutex mutex_;
  std::vector<std::uint64_t> differing_;
};

}  // namespace

Expected<ReplicaResult> compare_replicas(Context& context, const format::Checkpoint& checkpoint,
                                         const Options& options) {
  constexpr std::size_t kNamed = 20;
  const std::vector<std::uint32_t> arrays = replicated_arrays(*checkpoint.layout);
  ReplicaResult result;
  result.replicated_arrays = std::ssize(arrays);
  if (arrays.empty()) return result;

  plan::Transfer transfer{checkpoint.layout.get(), places_of(checkpoint), checkpoint.layout.get(),
                          places_of(checkpoint), 0};
  std::vector<plan::TargetFile> files;
  for (const io::Fingerprint& fingerprint : checkpoint.probe.directory.fingerprints) {
    files.push_back({fingerprint.size, {}});
  }
  plan::Options plan_options;
  plan_options.ranks = context.comm.size();
  plan_options.memory_budget = options.memory_budget;
  plan_options.table_bytes = table_bytes(checkpoint);
  plan_options.route = options.route;
  RESHARD_TRY(const plan::Plan plan, make_plan(context, {std::move(transfer)}, std::move(files), plan_options));
  ReplicaSink sink(checkpoint, arrays);
  RESHARD_CHECK(comm::agree(context.comm, sink.probe()));
  RESHARD_TRY(const Streamed streamed, run_stream(context, plan, {&checkpoint}, sink));
  context.comm.sum(sink.differing());
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const std::uint64_t differing = sink.differing()[i];
    if (differing == 0) continue;
    result.differing_elements += static_cast<Index>(differing);
    if (result.problems.size() == kNamed) continue;
    const format::Directory::Entry& entry = checkpoint.probe.directory.entries[checkpoint.locations[arrays[i]]];
    result.problems.push_back(fmt::format("{}: {}: {} elements differ from their first copy",
                                          checkpoint.probe.directory.files[entry.file], entry.entry.name, differing));
  }
  return result;
}

}  // namespace reshard::app
