// SPDX-License-Identifier: Apache-2.0
#include "tests/support/comm_checks.h"

#include <gtest/gtest.h>

#include <thread>

namespace reshard::test {
namespace {

std::string pattern(int rank, std::size_t length) {
  std::string text(length, ' ');
  for (std::size_t i = 0; i < length; ++i) text[i] = static_cast<char>(static_cast<std::size_t>(rank) * 31 + i * 7);
  return text;
}

}  // namespace

void check_comm(comm::Comm& comm) {
  const int rank = comm.rank(), size = comm.size();
  const auto ranks = static_cast<std::uint64_t>(size);
  ASSERT_LT(rank, size);
  ASSERT_LT(comm.local_rank(), comm.local_size());
  ASSERT_EQ(comm.node_of_ranks().size(), static_cast<std::size_t>(size));
  comm.barrier();

  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, std::size_t{100000}}) {
    std::string text = rank == size - 1 ? pattern(9, length) : "other";
    comm.broadcast(text, size - 1);
    EXPECT_EQ(text, pattern(9, length));
    const auto all = comm.all_gather(pattern(rank, length * static_cast<std::size_t>(rank)));
    ASSERT_EQ(all.size(), static_cast<std::size_t>(size));
    for (int r = 0; r < size; ++r) {
      EXPECT_EQ(all[static_cast<std::size_t>(r)], pattern(r, length * static_cast<std::size_t>(r)));
    }
  }

  std::vector<std::uint64_t> sums = {1, ~std::uint64_t{0}, static_cast<std::uint64_t>(rank)};
  comm.sum(sums);
  EXPECT_EQ(sums, (std::vector<std::uint64_t>{ranks, std::uint64_t{0} - ranks, ranks * (ranks - 1) / 2}));
  std::vector<std::int64_t> most = {-rank - 1, rank};
  comm.maximum(most);
  EXPECT_EQ(most, (std::vector<std::int64_t>{-1, size - 1}));

  // Everybody to everybody, itself too, beside reductions without waiting.
  std::vector<std::string> out, in;
  for (int peer = 0; peer < size; ++peer) {
    out.push_back(pattern(rank * size + peer, 1000u * static_cast<std::size_t>(peer)));
    in.emplace_back(1000u * static_cast<std::size_t>(rank), ' ');
  }
  std::vector<std::uint64_t> later_sums = {5};
  std::vector<std::int64_t> later_most = {rank, -5};
  std::vector<std::unique_ptr<comm::Request>> requests;
  for (int peer = 0; peer < size; ++peer) {
    const auto p = static_cast<std::size_t>(peer);
    requests.push_back(comm.receive(std::as_writable_bytes(std::span(in[p])), peer, 3));
    requests.push_back(comm.send(std::as_bytes(std::span(out[p])), peer, 3));
  }
  requests.push_back(comm.start_sum(later_sums));
  requests.push_back(comm.start_maximum(later_most));
  for (auto& request : requests) {
    while (!request->test()) std::this_thread::yield();
  }
  for (int peer = 0; peer < size; ++peer) {
    EXPECT_EQ(in[static_cast<std::size_t>(peer)], pattern(peer * size + rank, 1000u * static_cast<std::size_t>(rank)));
  }
  EXPECT_EQ(later_sums[0], 5 * ranks);
  EXPECT_EQ(later_most, (std::vector<std::int64_t>{size - 1, -5}));
  comm.barrier();
}

}  // namespace reshard::test
