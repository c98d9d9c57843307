// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "reshard/base/expected.h"
#include "reshard/base/index.h"

namespace reshard::comm {

/// A transfer under way. Destroying one that is not done is a bug; its buffer must live until it is done.
class Request {
 public:
  virtual ~Request() = default;
  virtual bool test() = 0;  ///< true once the buffer may be reused
};

/// The ranks of the job. All calls come from one thread per rank. Implementations: MPI, one process alone, and virtual
/// ranks (threads of one process) for tests.
class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Index of this rank on its node, ranks on the node, number of the node.
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;
  virtual std::vector<int> node_of_ranks() const = 0;

  virtual void barrier() = 0;                                                 ///< collective
  virtual void broadcast(std::string& bytes, int root) = 0;                   ///< collective; any length
  virtual std::vector<std::string> all_gather(const std::string& bytes) = 0;  ///< collective; any lengths
  virtual void sum(std::span<std::uint64_t> values) = 0;                      ///< collective, modulo 2^64, on all ranks
  virtual void maximum(std::span<std::int64_t> values) = 0;                   ///< collective, on all ranks

  /// Byte transfers of any length (split below 1 GiB); matched per peer and tag in order. Local.
  virtual std::unique_ptr<Request> send(std::span<const std::byte> bytes, int peer, int tag) = 0;
  virtual std::unique_ptr<Request> receive(std::span<std::byte> bytes, int peer, int tag) = 0;
  /// Element-wise maximum or sum (modulo 2^64) of `values` over all ranks, in place, without waiting. Collective: all
  /// ranks start the same ones in the same order.
  virtual std::unique_ptr<Request> start_maximum(std::span<std::int64_t> values) = 0;
  virtual std::unique_ptr<Request> start_sum(std::span<std::uint64_t> values) = 0;
  /// Ends the job from one rank when nothing else can: prints `message`, never returns. Of several ranks that do so at
  /// about the same time, the lowest speaks.
  [[noreturn]] virtual void abort(Code code, const std::string& message) = 0;
};

/// Agreement at the end of a phase: if any rank holds an error, all get that of the lowest such rank, with its rank
/// number in front unless all ranks say the same. Collective.
Status agree(Comm& comm, Status status);

/// How this process was started, told from the environment (`get` is std::getenv outside of tests).
enum class Launch {
  alone,    ///< by no launcher of ranks: MPI is not even initialised, which takes longer than small commands run
  by_ranks  ///< by mpirun, srun --mpi=pmix or the like
};
/// Open MPI names its ranks (OMPI_COMM_WORLD_SIZE), PMIx and PMI theirs (PMIX_RANK, PMI_RANK). Errors (usage): a Slurm
/// step of several tasks whose ranks MPI cannot learn of (SLURM_STEP_NUM_TASKS without these): N copies of the job
/// otherwise. Pure.
Expected<Launch> detect_launch(const std::function<const char*(const char*)>& get);

/// The ranks of this process's job: MPI_COMM_WORLD if a launcher started it, else this process alone. Errors (usage):
/// as detect_launch and make_mpi_comm. Collective.
Expected<std::unique_ptr<Comm>> make_comm();

std::unique_ptr<Comm> make_self_comm();
/// MPI_COMM_WORLD, initialised here (FUNNELED) and finalised by the destructor. An error of MPI ends the job with
/// status 4. Errors (usage): the launcher started several tasks but MPI sees one rank. Collective.
Expected<std::unique_ptr<Comm>> make_mpi_comm();
/// How virtual ranks move the bytes of a message; empty: as bytes of the host.
using CopyMessage = std::function<Status(std::byte* to, const std::byte* from, std::size_t bytes)>;
/// Runs `body` on `size` virtual ranks, a thread each; returns when all have returned. An exception of one ends the
/// process, as an error of MPI does. Throws std::system_error if the system gives not that many threads; then none has
/// begun.
void run_virtual_ranks(int size, const std::function<void(Comm&)>& body, const CopyMessage& copy = {});

}  // namespace reshard::comm
