// SPDX-License-Identifier: Apache-2.0
#include "ties.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace reshard::format {

namespace {

constexpr Index kBlock = 4 * kMiB;
constexpr const char* kTied = "tie_word_embeddings";

// Entry of the array that holds all of a tensor under a fixed name; nullptr if there is none.
const Directory::Entry* find_whole(const layout::Table& table, const Directory& directory, std::string_view tensor) {
  for (const layout::ArrayRule& rule : table.rules) {
    if (rule.tensor != tensor || !rule.shards.empty()) continue;
    for (const Directory::Entry& entry : directory.entries) {
      if (entry.entry.name == (rule.entry.empty() ? rule.array : rule.entry)) return &entry;
    }
  }
  return nullptr;
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

Status settle_ties(const layout::Table& table, io::Follow follow, comm::Comm& comm, Probe& probe,
                   std::set<std::uint32_t>& dropped) {
  if (!probe.spec.flag(kTied)) return {};
  const Directory& directory = probe.directory;
  const Directory::Entry* head = find_whole(table, directory, "head");
  const Directory::Entry* embed = find_whole(table, directory, "embed");
  if (head == nullptr || embed == nullptr) return {};

  bool equal = head->entry.dtype == embed->entry.dtype && head->entry.shape == embed->entry.shape;
  if (equal) {
    Index bytes_read = 0;
    const Expected<bool> share = is_share_equal(directory, *embed, *head, follow, comm, bytes_read);
    RESHARD_CHECK(agree(comm, share ? Status() : Status(share.error())));
    std::int64_t differs[] = {*share ? 0 : 1};
    comm.maximum(differs);
    std::uint64_t total[] = {static_cast<std::uint64_t>(bytes_read)};
    comm.sum(total);
    probe.bytes_read += static_cast<Index>(total[0]);
    equal = differs[0] == 0;
  }
  if (equal) {
    dropped.insert(static_cast<std::uint32_t>(head - directory.entries.data()));
    probe.notes.push_back(head->entry.name + " equals " + embed->entry.name + ", to which the config ties it: dropped");
  } else {
    probe.spec.fields[kTied] = false;
    probe.notes.push_back("warning: the config ties " + head->entry.name + " to " + embed->entry.name +
                          ", but they differ: the model is taken as untied");
  }
  return {};
}

}  // namespace reshard::format
