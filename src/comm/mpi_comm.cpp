// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>

#include "reshard/comm/comm.h"

namespace reshard::comm {
namespace {

// MPI 3.1 counts are ints: longer transfers go in parts.
constexpr Index kPartBytes = kGiB;

// Ranks often give up together, for one reason. Each waits for its turn: the first one that speaks ends the others.
constexpr auto kTurn = std::chrono::milliseconds(250);
constexpr int kMaxTurns = 40;

[[noreturn]] void abort_job(int rank, Code code, const std::string& message) {
  std::this_thread::sleep_for(std::min(rank, kMaxTurns) * kTurn);
  std::fprintf(stderr, "reshard: %s\n", message.c_str());
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code));
  std::abort();
}

// Installed on every communicator, so that no call's result needs a look.
void on_error(MPI_Comm* comm, int* code, ...) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0, rank = -1;
  MPI_Error_string(*code, text, &length);
  MPI_Comm_rank(*comm, &rank);
  abort_job(rank, Code::failed, fmt::format("rank {}: MPI failed: {}", rank, text));
}

class MpiRequest : public Request {
 public:
  std::vector<MPI_Request> parts;
  bool test() override {
    int done = 0;
    MPI_Testall(static_cast<int>(parts.size()), parts.data(), &done, MPI_STATUSES_IGNORE);
    return done != 0;
  }
};

class MpiComm : public Comm {
 public:
  MpiComm() {
    MPI_Errhandler handler;
    MPI_Comm_create_errhandler(&on_error, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    // Own contexts: transfers, and collectives that run beside them. Duplicates keep the error handler.
    MPI_Comm_dup(MPI_COMM_WORLD, &transfers_);
    MPI_Comm_dup(MPI_COMM_WORLD, &background_);
    MPI_Errhandler_free(&handler);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    void* attribute = nullptr;
    int found = 0;
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, static_cast<void*>(&attribute), &found);
    if (found) largest_tag_ = *static_cast<int*>(attribute);

    MPI_Comm node;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &local_rank_);
    MPI_Comm_size(node, &local_size_);
    // A node is known by its lowest rank; nodes are numbered in the order of these.
    int lowest = rank_;
    MPI_Bcast(&lowest, 1, MPI_INT, 0, node);
    MPI_Comm_free(&node);
    node_of_ranks_.resize(static_cast<std::size_t>(size_));
    MPI_Allgather(&lowest, 1, MPI_INT, node_of_ranks_.data(), 1, MPI_INT, MPI_COMM_WORLD);
    std::map<int, int> number;
    for (int node_rank : node_of_ranks_) number.emplace(node_rank, 0);
    int next = 0;
    for (auto& [node_rank, n] : number) n = next++;
    for (int& node_rank : node_of_ranks_) node_rank = number[node_rank];
  }

  ~MpiComm() override {
    MPI_Comm_free(&transfers_);
    MPI_Comm_free(&background_);
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  std::vector<int> node_of_ranks() const override { return node_of_ranks_; }

  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }

  void broadcast(std::string& bytes, int root) override {
    auto length = static_cast<std::int64_t>(bytes.size());
    MPI_Bcast(&length, 1, MPI_INT64_T, root, MPI_COMM_WORLD);
    bytes.resize(static_cast<std::size_t>(length));
    for (Index done = 0; done < length; done += kPartBytes) {
      MPI_Bcast(bytes.data() + done, static_cast<int>(std::min(kPartBytes, length - done)), MPI_BYTE, root,
                MPI_COMM_WORLD);
    }
  }

  std::vector<std::string> all_gather(const std::string& bytes) override {
    const auto ranks = static_cast<std::size_t>(size_);
    const auto mine = static_cast<std::int64_t>(bytes.size());
    std::vector<std::int64_t> lengths(ranks);
    MPI_Allgather(&mine, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, MPI_COMM_WORLD);
    std::vector<std::string> all(ranks);
    for (std::size_t r = 0; r < ranks; ++r) all[r].reserve(static_cast<std::size_t>(lengths[r]));
    // In parts, so that displacements stay below 2^31.
    const Index part = kPartBytes / size_;
    const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    std::vector<int> counts(ranks), displacements(ranks);
    std::string buffer;
    for (Index done = 0; done < longest; done += part) {
      int total = 0;
      for (std::size_t r = 0; r < ranks; ++r) {
        counts[r] = static_cast<int>(std::clamp<Index>(lengths[r] - done, 0, part));
        displacements[r] = total;
        total += counts[r];
      }
      buffer.resize(static_cast<std::size_t>(total));
      const char* from = bytes.data() + std::min(done, mine);
      MPI_Allgatherv(from, counts[static_cast<std::size_t>(rank_)], MPI_BYTE, buffer.data(), counts.data(),
                     displacements.data(), MPI_BYTE, MPI_COMM_WORLD);
      for (std::size_t r = 0; r < ranks; ++r) {
        all[r].append(buffer, static_cast<std::size_t>(displacements[r]), static_cast<std::size_t>(counts[r]));
      }
    }
    return all;
  }

  void sum(std::span<std::uint64_t> values) override {
    for_parts(values, [](std::uint64_t* part, int n) {
      MPI_Allreduce(MPI_IN_PLACE, part, n, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    });
  }
  void maximum(std::span<std::int64_t> values) override {
    for_parts(values, [](std::int64_t* part, int n) {
      MPI_Allreduce(MPI_IN_PLACE, part, n, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
    });
  }

  std::unique_ptr<Request> send(std::span<const std::byte> bytes, int peer, int tag) override {
    auto request = std::make_unique<MpiRequest>();
    for_parts(bytes, [&](const std::byte* part, int n) {
      MPI_Isend(part, n, MPI_BYTE, peer, wrap(tag), transfers_, &request->parts.emplace_back());
    });
    return request;
  }
  std::unique_ptr<Request> receive(std::span<std::byte> bytes, int peer, int tag) override {
    auto request = std::make_unique<MpiRequest>();
    for_parts(bytes, [&](std::byte* part, int n) {
      MPI_Irecv(part, n, MPI_BYTE, peer, wrap(tag), transfers_, &request->parts.emplace_back());
    });
    return request;
  }

  std::unique_ptr<Request> start_maximum(std::span<std::int64_t> values) override {
    auto request = std::make_unique<MpiRequest>();
    for_parts(values, [&](std::int64_t* part, int n) {
      MPI_Iallreduce(MPI_IN_PLACE, part, n, MPI_INT64_T, MPI_MAX, background_, &request->parts.emplace_back());
    });
    return request;
  }
  std::unique_ptr<Request> start_sum(std::span<std::uint64_t> values) override {
    auto request = std::make_unique<MpiRequest>();
    for_parts(values, [&](std::uint64_t* part, int n) {
      MPI_Iallreduce(MPI_IN_PLACE, part, n, MPI_UINT64_T, MPI_SUM, background_, &request->parts.emplace_back());
    });
    return request;
  }

  [[noreturn]] void abort(Code code, const std::string& message) override { abort_job(rank_, code, message); }

 private:
  // Calls f(first, count) for parts of at most kPartBytes.
  template <class T, class F>
  static void for_parts(std::span<T> values, const F& f) {
    constexpr std::size_t kPart = static_cast<std::size_t>(kPartBytes) / sizeof(T);
    for (std::size_t done = 0; done < values.size(); done += kPart) {
      f(values.data() + done, static_cast<int>(std::min(kPart, values.size() - done)));
    }
  }

  // Order per peer and tag keeps transfers apart whose tags meet.
  int wrap(int tag) const { return largest_tag_ == 0x7FFFFFFF ? tag : tag % (largest_tag_ + 1); }

  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  int largest_tag_ = 32767;
  std::vector<int> node_of_ranks_;
  MPI_Comm transfers_ = MPI_COMM_NULL, background_ = MPI_COMM_NULL;
};

}  // namespace

Expected<std::unique_ptr<Comm>> make_mpi_comm() {
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  if (provided < MPI_THREAD_FUNNELED) {
    MPI_Finalize();
    return usage_error("this MPI library cannot be used by a program with threads (MPI_THREAD_FUNNELED)");
  }
  auto comm = std::make_unique<MpiComm>();
  // A launcher of another MPI library: every process would believe to be alone.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* text = std::getenv(name);
    if (!text) continue;
    const long tasks = std::strtol(text, nullptr, 10);
    if (comm->size() == 1 && tasks > 1) {
      return usage_error(fmt::format(
          "the launcher started {} tasks ({}), but MPI sees one rank: use the mpirun of the MPI library that this "
          "program was built with, or srun --mpi=pmix",
          tasks, name));
    }
    break;  // the first that is set is the launcher's own word
  }
  return std::unique_ptr<Comm>(std::move(comm));
}

}  // namespace reshard::comm
