// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "reshard/device/groups.h"

namespace reshard::device {
namespace {

using Clock = std::chrono::steady_clock;
using Result = Nccl::Result;

/// A communicator of this rank, made in steps that never block.
class NcclGroups : public Groups {
 public:
  NcclGroups(Nccl& nccl, Device& device) : nccl_(nccl), device_(device) {}

  ~NcclGroups() override {
    if (communicator_ == nullptr) return;
    const Result result = nccl_.finalize(communicator_);
    const bool final = result == Result::success || (result == Result::in_progress && settled());
    if (final) {
      nccl_.destroy(communicator_);
    } else {
      abort();
    }
  }

  Status init(int size, const Nccl::Id& id, int rank, std::chrono::duration<double> patience) {
    const Result result = nccl_.init_rank(communicator_, size, id, rank);
    if (result != Result::success && result != Result::in_progress) return failure("start NCCL", result);
    const Clock::time_point deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(patience);
    while (true) {
      const Result state = nccl_.async_error(communicator_);
      if (state == Result::success) return {};
      if (state != Result::in_progress) return failure("start NCCL", state);
      if (Clock::now() > deadline) {
        return run_error(
            fmt::format("NCCL did not start within {:.0f} s: do all ranks reach each other "
                        "(NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO tells more)?",
                        patience.count()));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  bool ready() override { return !aborted_ && !launching_; }

  Expected<std::unique_ptr<Pending>> start(const std::vector<Part>& sends, const std::vector<Part>& receives) override {
    void* const queue = device_.exchange_queue();
    Result result = nccl_.group_start();
    for (const Part& part : sends) {
      if (result != Result::success) break;
      result = nccl_.send(part.bytes, static_cast<std::size_t>(part.length), part.peer, communicator_, queue);
    }
    for (const Part& part : receives) {
      if (result != Result::success) break;
      result = nccl_.receive(part.bytes, static_cast<std::size_t>(part.length), part.peer, communicator_, queue);
    }
    // A group that was begun is ended, whatever came between.
    const Result ended = nccl_.group_end();
    if (result == Result::success) result = ended;
    if (result != Result::success && result != Result::in_progress) return failure("exchange by NCCL", result);
    launching_ = true;
    return std::unique_ptr<Pending>(std::make_unique<Group>(*this));
  }

  void abort() override {
    if (communicator_ != nullptr && !aborted_) nccl_.abort(communicator_);
    aborted_ = true;
    communicator_ = nullptr;
  }

 private:
  static constexpr std::chrono::seconds kPatience{10};

  class Group : public Pending {
   public:
    explicit Group(NcclGroups& groups) : groups_(groups) {}
    Expected<bool> test() override {
      if (!groups_.aborted_) {
        const Result state = groups_.nccl_.async_error(groups_.communicator_);
        if (state == Result::in_progress) return false;
        groups_.launching_ = false;
        if (state != Result::success) return groups_.failure("exchange by NCCL", state);
      }
      // Only now is all of the group in the queue; of one that was aborted, what the device still works on.
      if (!done_) {
        RESHARD_TRY(done_, groups_.device_.mark_exchange());
      }
      RESHARD_TRY(const bool done, done_->test());
      if (done && groups_.aborted_) return run_error("NCCL was stopped");
      return done;
    }

   private:
    NcclGroups& groups_;
    std::unique_ptr<Pending> done_;
  };

  bool settled() {
    for (const auto deadline = Clock::now() + kPatience; Clock::now() < deadline;) {
      const Result state = nccl_.async_error(communicator_);
      if (state != Result::in_progress) return state == Result::success;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  Error failure(const char* what, Result result) {
    return run_error(
        fmt::format("cannot {}: {}; NCCL_DEBUG=INFO tells more", what, nccl_.text_of(result, communicator_)));
  }

  Nccl& nccl_;
  Device& device_;
  Nccl::Communicator communicator_ = nullptr;
  bool launching_ = false;  // a group is not in the queue yet
  bool aborted_ = false;
};

}  // namespace

std::string version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

Expected<std::unique_ptr<Groups>> make_nccl_groups(Nccl& nccl, Device& device, comm::Comm& comm, double timeout_s) {
  const std::vector<std::string> versions = comm.all_gather(version_text(nccl.version()));
  for (std::size_t rank = 1; rank < versions.size(); ++rank) {
    if (versions[rank] == versions[0]) continue;
    return run_error(fmt::format("rank {} has NCCL {}, rank 0 has {}: all must have the same (LD_LIBRARY_PATH?)", rank,
                                 versions[rank], versions[0]));
  }
  Nccl::Id id{};
  const Result result = comm.rank() == 0 ? nccl.get_unique_id(id) : Result::success;
  RESHARD_CHECK(comm::agree(comm, result == Result::success ? Status()
                                                            : run_error(fmt::format("cannot start NCCL: {}",
                                                                                    nccl.text_of(result, nullptr)))));
  std::string packed(id.begin(), id.end());
  comm.broadcast(packed, 0);
  std::copy(packed.begin(), packed.end(), id.begin());

  auto groups = std::make_unique<NcclGroups>(nccl, device);
  const Status started = groups->init(comm.size(), id, comm.rank(), std::chrono::duration<double>(timeout_s));
  if (!started) groups->abort();
  const Status agreed = comm::agree(comm, Status(started));
  if (!agreed) {
    groups->abort();
    return agreed.error();
  }
  return std::unique_ptr<Groups>(std::move(groups));
}

}  // namespace reshard::device
