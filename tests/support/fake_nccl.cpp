// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fake_nccl.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "tests/support/host_device.h"

namespace reshard::test {

using Result = device::Nccl::Result;

namespace {

constexpr int kVersion = 22809;
constexpr Result kRemoteError{6};
constexpr std::byte kIdByte{0x5A};

}  // namespace

void NcclWorld::start(int rank, Group group) {
  const std::lock_guard lock(mutex_);
  auto& groups = ranks_[static_cast<std::size_t>(rank)].groups;
  groups.push_back(std::move(group));
  match(groups.size() - 1);
}

// Pairs the sends of a group number with the receives of the same number, as far as both sides have come.
void NcclWorld::match(std::size_t number) {
  for (std::size_t from = 0; from < ranks_.size(); ++from) {
    if (ranks_[from].groups.size() <= number) continue;
    for (std::size_t to = 0; to < ranks_.size(); ++to) {
      if (ranks_[to].groups.size() <= number) continue;
      std::vector<Part*> sends, receives;
      for (Part& part : ranks_[from].groups[number].sends) {
        if (part.peer == static_cast<int>(to)) sends.push_back(&part);
      }
      for (Part& part : ranks_[to].groups[number].receives) {
        if (part.peer == static_cast<int>(from)) receives.push_back(&part);
      }
      bool fits = sends.size() == receives.size();
      for (std::size_t i = 0; fits && i < sends.size(); ++i) fits = sends[i]->length == receives[i]->length;
      if (!fits) {
        violations_.push_back(
            fmt::format("group {}: sends from {} to {} are not those that are received", number, from, to));
        continue;
      }
      for (std::size_t i = 0; i < sends.size(); ++i) {
        if (!sends[i]->done) std::memcpy(receives[i]->bytes, sends[i]->bytes, sends[i]->length);
        sends[i]->done = receives[i]->done = true;
      }
    }
  }
}

bool NcclWorld::finished(int rank, std::size_t number) {
  const std::lock_guard lock(mutex_);
  const Rank& own = ranks_[static_cast<std::size_t>(rank)];
  if (own.aborted) return true;
  const Group& group = own.groups[number];
  const auto all_done = [](const std::vector<Part>& parts) {
    return std::all_of(parts.begin(), parts.end(), [](const Part& part) { return part.done; });
  };
  return all_done(group.sends) && all_done(group.receives);
}

void NcclWorld::abort(int rank) {
  const std::lock_guard lock(mutex_);
  ranks_[static_cast<std::size_t>(rank)].aborted = true;
}

bool NcclWorld::any_aborted() {
  const std::lock_guard lock(mutex_);
  return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.aborted; });
}

std::vector<std::string> NcclWorld::violations() {
  const std::lock_guard lock(mutex_);
  return violations_;
}

std::size_t NcclWorld::num_groups(int rank) {
  const std::lock_guard lock(mutex_);
  return ranks_[static_cast<std::size_t>(rank)].groups.size();
}

void FakeNccl::violate(const std::string& what) {
  const std::lock_guard lock(world_.mutex_);
  world_.violations_.push_back(fmt::format("rank {}: {}", rank_, what));
}

int FakeNccl::version() {
  const auto other = world_.versions.find(rank_);
  return other == world_.versions.end() ? kVersion : other->second;
}

std::string FakeNccl::text_of(Result error, Communicator) {
  return error == kRemoteError ? "remote process exited or there was a network error" : "unhandled error";
}

Result FakeNccl::get_unique_id(Id& id) {
  if (rank_ != 0) violate("an id of its own");
  id.fill(static_cast<char>(kIdByte));
  return Result::success;
}

Result FakeNccl::init_rank(Communicator& communicator, int size, const Id& id, int rank) {
  if (rank != rank_ || size != static_cast<int>(world_.ranks_.size())) violate("another rank or size");
  if (id.back() != static_cast<char>(kIdByte)) violate("another id than rank 0's");
  communicator = this;
  polls_left_ = rank_ == world_.silent_rank ? 1 << 30 : world_.polls;
  return Result::in_progress;
}

Result FakeNccl::group_start() {
  if (in_group_ || gone_) violate("a group in a group, or after the end");
  if (polls_left_ > 0) violate("a group while a call is in progress");
  in_group_ = true;
  group_failed_ = false;
  group_ = {};
  return Result::success;
}

Result FakeNccl::send(const std::byte* bytes, std::size_t length, int peer, Communicator communicator, void* queue) {
  if (!in_group_ || communicator != this) violate("a send outside of a group");
  if (!HostDevice::owns(bytes, static_cast<Index>(length))) violate("a send from memory of the host");
  if (sees_error()) {
    group_failed_ = true;
    return kRemoteError;
  }
  queue_ = queue;
  group_.sends.push_back({const_cast<std::byte*>(bytes), length, peer});
  return group_.sends.size() % 3 == 2 ? Result::in_progress : Result::success;
}

Result FakeNccl::receive(std::byte* bytes, std::size_t length, int peer, Communicator communicator, void* queue) {
  if (!in_group_ || communicator != this) violate("a receive outside of a group");
  if (!HostDevice::owns(bytes, static_cast<Index>(length))) violate("a receive into memory of the host");
  queue_ = queue;
  group_.receives.push_back({bytes, length, peer});
  return group_.receives.size() % 2 == 1 ? Result::in_progress : Result::success;
}

Result FakeNccl::group_end() {
  if (!in_group_) violate("the end of no group");
  in_group_ = false;
  if (group_failed_) return kRemoteError;
  const std::size_t number = next_group_++;
  const bool fails = rank_ == world_.failing_rank && number == world_.failing_group;
  failed_ = failed_ || fails;
  const bool empty = group_.sends.empty() && group_.receives.empty();
  // A group that fails reaches nobody.
  if (!fails) world_.start(rank_, std::move(group_));
  if (!empty && !fails) {
    static_cast<HostQueue*>(queue_)->push([this, number] { return world_.finished(rank_, number); });
  }
  polls_left_ = world_.polls;
  return Result::in_progress;
}

Result FakeNccl::async_error(Communicator) {
  if (polls_left_ > 0) {
    --polls_left_;
    return Result::in_progress;
  }
  return sees_error() ? kRemoteError : Result::success;
}

bool FakeNccl::sees_error() const { return failed_ || (world_.echoes && world_.any_aborted()); }

Result FakeNccl::finalize(Communicator) {
  if (gone_) violate("finalized after the end");
  polls_left_ = world_.polls;
  return Result::in_progress;
}

Result FakeNccl::destroy(Communicator) {
  if (gone_ || polls_left_ > 0) violate("destroyed after the end, or while a call is in progress");
  gone_ = true;
  return Result::success;
}

Result FakeNccl::abort(Communicator) {
  if (gone_) violate("aborted after the end");
  gone_ = true;
  world_.abort(rank_);
  // Who calls may be gone when this returns.
  if (const auto hold = world_.hold_aborts) hold->wait();
  return Result::success;
}

}  // namespace reshard::test
