// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "reshard/device/groups.h"

namespace reshard::device {
namespace {

using Clock = std::chrono::steady_clock;
using Result = Nccl::Result;

/// A communicator of this rank, made in steps that never block.
class NcclGroups : public Groups {
 public:
  NcclGroups(Nccl& nccl, Device& device, std::chrono::duration<double> patience)
      : nccl_(nccl), device_(device), patience_(patience) {}

  ~NcclGroups() override {
    if (communicator_ != nullptr && !aborting_) {
      Result result = nccl_.finalize(communicator_);
      if (result == Result::in_progress) result = settled(end_patience_);
      if (result == Result::success) {
        nccl_.destroy(communicator_);
      } else {
        abort();
      }
    }
    if (!aborter_.joinable()) return;
    for (const auto start = Clock::now(); !*aborted_ && Clock::now() - start < end_patience_;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    // One that hangs is left behind: the process is about to end.
    if (*aborted_) {
      aborter_.join();
    } else {
      aborter_.detach();
    }
  }

  Status init(int size, const Nccl::Id& id, int rank) {
    const Result result = nccl_.init_rank(communicator_, size, id, rank);
    if (result != Result::success && result != Result::in_progress) return failure("start NCCL", result);
    const Result state = settled(patience_);
    if (state == Result::success) return {};
    if (state != Result::in_progress) return failure("start NCCL", state);
    return run_error(
        fmt::format("NCCL did not start within {:.0f} s: do all ranks reach each other "
                    "(NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO tells more)?",
                    patience_.count()));
  }

  bool ready() override {
    settle();
    return launching_ == nullptr;
  }

  Expected<std::unique_ptr<Pending>> start(const std::vector<Part>& sends, const std::vector<Part>& receives) override {
    if (aborting_) return run_error("NCCL was stopped");
    void* const queue = device_.exchange_queue();
    const auto goes_on = [](Result result) { return result == Result::success || result == Result::in_progress; };
    Result result = nccl_.group_start();
    for (const Part& part : sends) {
      if (!goes_on(result)) break;
      result = nccl_.send(part.bytes, static_cast<std::size_t>(part.length), part.peer, communicator_, queue);
    }
    for (const Part& part : receives) {
      if (!goes_on(result)) break;
      result = nccl_.receive(part.bytes, static_cast<std::size_t>(part.length), part.peer, communicator_, queue);
    }
    // A group that was begun is ended, whatever came between.
    const Result ended = nccl_.group_end();
    if (goes_on(result)) result = ended;
    if (!goes_on(result)) return failure("exchange by NCCL", result);
    launching_ = std::make_shared<Launch>();
    auto group = std::make_unique<Group>(*this, launching_);
    settle();
    return std::unique_ptr<Pending>(std::move(group));
  }

  void abort() override {
    if (communicator_ == nullptr || aborting_) return;
    aborting_ = true;
    // It may wait for NCCL's own threads; the caller has deadlines.
    aborter_ = std::thread([&nccl = nccl_, communicator = communicator_, aborted = aborted_] {
      nccl.abort(communicator);
      *aborted = true;
    });
  }

 private:
  /// What became of the start of a group.
  struct Launch {
    std::unique_ptr<Pending> done;  // set when all of it is in the queue
    std::optional<Error> error;
  };

  class Group : public Pending {
   public:
    Group(NcclGroups& groups, std::shared_ptr<Launch> launch) : groups_(groups), launch_(std::move(launch)) {}
    Expected<bool> test() override {
      if (groups_.aborting_) return test_aborted();
      groups_.settle();
      if (launch_->error) return *launch_->error;
      if (!launch_->done) return false;
      const Result state = groups_.nccl_.async_error(groups_.communicator_);
      if (state != Result::success && state != Result::in_progress) {
        return groups_.failure("exchange by NCCL", state);
      }
      return launch_->done->test();
    }

   private:
    // What the device still works on is waited for.
    Expected<bool> test_aborted() {
      if (!*groups_.aborted_) return false;
      if (!launch_->done) {
        RESHARD_TRY(launch_->done, groups_.device_.mark_exchange());
      }
      RESHARD_TRY(const bool done, launch_->done->test());
      if (done) return run_error("NCCL was stopped");
      return false;
    }

    NcclGroups& groups_;
    std::shared_ptr<Launch> launch_;
  };

  // Marks the end of the group that was started last as soon as all of it is in the queue, before the next one is.
  void settle() {
    if (launching_ == nullptr || aborting_) return;
    const Result state = nccl_.async_error(communicator_);
    if (state == Result::in_progress) return;
    if (state == Result::success) {
      auto marked = device_.mark_exchange();
      if (marked) {
        launching_->done = *std::move(marked);
      } else {
        launching_->error = marked.error();
      }
    } else {
      launching_->error = failure("exchange by NCCL", state);
    }
    launching_.reset();
  }

  // What the communicator's call in progress came to; in_progress, if it takes longer than that.
  Result settled(std::chrono::duration<double> patience) {
    const auto start = Clock::now();
    while (true) {
      const Result state = nccl_.async_error(communicator_);
      if (state != Result::in_progress || Clock::now() - start > patience) return state;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  Error failure(const char* what, Result result) {
    return run_error(
        fmt::format("cannot {}: {}; NCCL_DEBUG=INFO tells more", what, nccl_.text_of(result, communicator_)));
  }

  Nccl& nccl_;
  Device& device_;
  const std::chrono::duration<double> patience_;
  const std::chrono::duration<double> end_patience_ = std::min(patience_, std::chrono::duration<double>(10));
  Nccl::Communicator communicator_ = nullptr;
  std::shared_ptr<Launch> launching_;  // of the group that is not all in the queue yet
  bool aborting_ = false;
  const std::shared_ptr<std::atomic<bool>> aborted_ = std::make_shared<std::atomic<bool>>(false);
  std::thread aborter_;
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

  auto groups = std::make_unique<NcclGroups>(nccl, device, std::chrono::duration<double>(timeout_s));
  const Status started = groups->init(comm.size(), id, comm.rank());
  if (!started) groups->abort();
  const Status agreed = comm::agree(comm, Status(started));
  if (!agreed) {
    groups->abort();
    return agreed.error();
  }
  return std::unique_ptr<Groups>(std::move(groups));
}

}  // namespace reshard::device
