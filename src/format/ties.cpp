// SPDX-License-Identifier: Apache-2.0
#include "ties.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace reshard::format {

namespace {

constexpr Index kBlock = 4 * kMiB;
constexpr const char* kTied = "tie_word_embeddings";
constexpr std::uint32_t kNone = ~std::uint32_t{0};

// An array and another name for it, in one file.
struct Pair {
  std::uint32_t repeated, repeat;  // entries
};

std::vector<Pair> find_pairs(const layout::Table& table, const Directory& directory) {
  std::vector<Pair> pairs;
  const auto name_of = [](const layout::ArrayRule& rule) { return rule.entry.empty() ? rule.array : rule.entry; };
  for (const layout::ArrayRule& rule : table.rules) {
    if (rule.alias < 0) continue;
    const std::string repeat = name_of(rule), repeated = name_of(table.rules[static_cast<std::size_t>(rule.alias)]);
    for (std::uint32_t a = 0; a < directory.entries.size(); ++a) {
      if (directory.entries[a].entry.name != repeat) continue;
      // Those of a sharded file are neighbours of each other, those of several files may have their own order.
      std::uint32_t found = kNone;
      for (std::uint32_t b = 0; b < directory.entries.size(); ++b) {
        if (directory.entries[b].entry.name != repeated) continue;
        if (found == kNone || directory.entries[b].file == directory.entries[a].file) found = b;
      }
      if (found != kNone) pairs.push_back({found, a});
    }
  }
  return pairs;
}

bool is_same_extent(const Directory::Entry& a, const Directory::Entry& b) {
  return a.file == b.file && a.entry.offset == b.entry.offset && a.entry.length == b.entry.length;
}

// Compares this rank's share of the blocks; true if it is equal.
Expected<bool> is_share_equal(const Directory& directory, const Directory::Entry& a, const Directory::Entry& b,
                              io::Follow follow, comm::Comm& comm, Index& bytes_read) {
  RESHARD_TRY(const auto a_file, io::open_source(directory.root, directory.files[a.file], follow, {}));
  RESHARD_TRY(const auto b_file, io::open_source(directory.root, directory.files[b.file], follow, {}));
  std::vector<std::byte> a_block, b_block;
  for (Index at = comm.rank() * kBlock; at < a.entry.length; at += comm.size() * kBlock) {
    const auto length = static_cast<std::size_t>(std::min(kBlock, a.entry.length - at));
    a_block.resize(length);
    b_block.resize(length);
    RESHARD_CHECK(a_file->read_at(a_block, a.entry.offset + at));
    RESHARD_CHECK(b_file->read_at(b_block, b.entry.offset + at));
    bytes_read += 2 * static_cast<Index>(length);
    if (std::memcmp(a_block.data(), b_block.data(), length) != 0) return false;
  }
  return true;
}

}  // namespace

Expected<bool> is_equal(const Directory& directory, const Directory::Entry& a, const Directory::Entry& b,
                        io::Follow follow, comm::Comm& comm, Index& bytes_read) {
  if (a.entry.dtype != b.entry.dtype || a.entry.shape != b.entry.shape || a.entry.strides != b.entry.strides)
    return false;
  if (is_same_extent(a, b)) return true;
  Index here = 0;
  const Expected<bool> share = is_share_equal(directory, a, b, follow, comm, here);
  RESHARD_CHECK(agree(comm, share ? Status() : Status(share.error())));
  std::int64_t differs[] = {*share ? 0 : 1};
  comm.maximum(differs);
  std::uint64_t total[] = {static_cast<std::uint64_t>(here)};
  comm.sum(total);
  bytes_read += static_cast<Index>(total[0]);
  return differs[0] == 0;
}

Status settle_ties(const layout::Table& table, io::Follow follow, comm::Comm& comm, Probe& probe,
                   std::set<std::uint32_t>& dropped) {
  if (!probe.ties_unknown && !probe.spec.flag(kTied)) return {};
  const Directory& directory = probe.directory;
  const std::vector<Pair> pairs = find_pairs(table, directory);
  if (probe.ties_unknown) probe.spec.fields[kTied] = !pairs.empty();
  for (const Pair& pair : pairs) {
    const Directory::Entry &a = directory.entries[pair.repeated], &b = directory.entries[pair.repeat];
    RESHARD_TRY(const bool equal, is_equal(directory, a, b, follow, comm, probe.bytes_read));
    if (equal) {
      dropped.insert(pair.repeat);
      if (!probe.ties_unknown && !is_same_extent(a, b)) {
        probe.notes.push_back(b.entry.name + " equals " + a.entry.name + ", to which the config ties it: dropped");
      }
      continue;
    }
    for (const Pair& other : pairs) dropped.erase(other.repeat);
    probe.spec.fields[kTied] = false;
    if (!probe.ties_unknown) {
      probe.notes.push_back("warning: the config ties " + b.entry.name + " to " + a.entry.name +
                            ", but they differ: the model is taken as untied");
    }
    break;
  }
  return {};
}

}  // namespace reshard::format
