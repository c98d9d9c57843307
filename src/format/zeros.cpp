// SPDX-License-Identifier: Apache-2.0
#include "zeros.h"

#include <fmt/format.h>

#include <algorithm>

#include "directory.h"
#include "reshard/base/text.h"

namespace reshard::format {

namespace {

constexpr Index kBlock = 4 * kMiB;

// An array, and what the config says that makes it zeros.
struct Claim {
  const Directory::Entry* entry;
  const std::string* reason;
};

// Adds what it reads to `bytes_read`.
Status check_claim(const Probe& probe, const Claim& claim, io::Follow follow, Index& bytes_read) {
  const Directory& directory = probe.directory;
  const Directory::Entry& entry = *claim.entry;
  const std::string& file = directory.files[entry.file];
  RESHARD_TRY(const auto source, io::open_source(directory.root, file, follow, {}));
  std::vector<std::byte> block;
  for (Index at = 0; at < entry.entry.length; at += kBlock) {
    block.resize(static_cast<std::size_t>(std::min(kBlock, entry.entry.length - at)));
    RESHARD_CHECK(source->read_at(block, entry.entry.offset + at));
    bytes_read += std::ssize(block);
    if (std::all_of(block.begin(), block.end(), [](std::byte byte) { return byte == std::byte{0}; })) continue;
    return input_error(fmt::format(
        "{}: tensor {} is not all zeros, but {} says that {}: correct that, if the tensor was trained since",
        path_of(directory.root, file), entry.entry.name, probe.config_path, *claim.reason));
  }
  return {};
}

}  // namespace

Status check_zeros(const std::map<std::string, std::string>& zeros, const std::vector<std::uint32_t>& entries,
                   io::Follow follow, comm::Comm& comm, Probe& probe) {
  std::vector<Claim> claims;
  for (const std::uint32_t e : entries) {
    const Directory::Entry& entry = probe.directory.entries[e];
    for (const auto& [glob, reason] : zeros) {
      if (matches_glob(glob, entry.entry.name)) claims.push_back({&entry, &reason});
    }
  }
  if (claims.empty()) return {};
  // Each rank takes its share of them.
  Status share;
  Index here = 0;
  for (auto i = static_cast<std::size_t>(comm.rank()); i < claims.size() && share;
       i += static_cast<std::size_t>(comm.size())) {
    share = check_claim(probe, claims[i], follow, here);
  }
  RESHARD_CHECK(agree(comm, std::move(share)));
  std::uint64_t total[] = {static_cast<std::uint64_t>(here)};
  comm.sum(total);
  probe.bytes_read += static_cast<Index>(total[0]);
  return {};
}

}  // namespace reshard::format
