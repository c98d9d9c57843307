// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <latch>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "reshard/device/nccl.h"

namespace reshard::test {

/// What stands for NCCL between the virtual ranks of a test: a record of all groups, and the rules that ranks must
/// keep. A group moves its bytes when the groups of the same number of all its peers have been started, and ends then.
class NcclWorld {
 public:
  explicit NcclWorld(int size) : ranks_(static_cast<std::size_t>(size)) {}

  struct Part {
    std::byte* bytes;
    std::size_t length;
    int peer;
    bool done = false;
  };
  struct Group {
    std::vector<Part> sends, receives;
  };

  /// The n-th group of a rank begins; true once its transfers are done. Thread-safe.
  void start(int rank, Group group);
  bool finished(int rank, std::size_t number);
  void abort(int rank);
  bool any_aborted();

  /// Rules that were broken: sends and receives of one group number that do not fit each other. Empty: none.
  std::vector<std::string> violations();
  std::size_t num_groups(int rank);

  // Faults, set before use.
  int failing_rank = -1;  ///< whose group number `failing_group` ends with an error of NCCL
  std::size_t failing_group = 0;
  int polls = 2;                                 ///< how often a call is still in progress when asked
  std::map<int, int> versions = {};              ///< of ranks with another one than 22809
  bool echoes = false;                           ///< peers of a rank that aborted see an error
  int silent_rank = -1;                          ///< whose communicator never comes to be
  std::shared_ptr<std::latch> hold_aborts = {};  ///< if set, calls that abort return only after it

 private:
  friend class FakeNccl;
  void match(std::size_t number);

  std::mutex mutex_;
  struct Rank {
    std::vector<Group> groups;
    bool aborted = false;
  };
  std::vector<Rank> ranks_;
  std::vector<std::string> violations_;
};

/// One rank's library. Counts calls that NCCL forbids as violations.
class FakeNccl : public device::Nccl {
 public:
  FakeNccl(NcclWorld& world, int rank) : world_(world), rank_(rank) {}

  int version() override;
  std::string text_of(Result error, Communicator communicator) override;
  Result get_unique_id(Id& id) override;
  Result init_rank(Communicator& communicator, int size, const Id& id, int rank) override;
  Result group_start() override;
  Result send(const std::byte* bytes, std::size_t length, int peer, Communicator communicator, void* queue) override;
  Result receive(std::byte* bytes, std::size_t length, int peer, Communicator communicator, void* queue) override;
  Result group_end() override;
  Result async_error(Communicator communicator) override;
  Result finalize(Communicator communicator) override;
  Result destroy(Communicator communicator) override;
  Result abort(Communicator communicator) override;

  bool is_gone() const { return gone_; }  ///< destroyed or aborted, once

 private:
  void violate(const std::string& what);
  bool sees_error() const;

  NcclWorld& world_;
  const int rank_;
  int polls_left_ = 0;
  bool in_group_ = false, failed_ = false, group_failed_ = false;
  std::atomic<bool> gone_{false};
  NcclWorld::Group group_;
  void* queue_ = nullptr;
  std::size_t next_group_ = 0;
};

}  // namespace reshard::test
