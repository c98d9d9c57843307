// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <tuple>

#include "reshard/comm/comm.h"

namespace reshard::comm {
namespace {

// One side of a transfer. Done by whoever finds the other side.
struct Side {
  std::byte* bytes;
  std::size_t length;
  bool done = false;  // under World::mutex
};

// What all ranks share.
struct World {
  explicit World(int ranks, CopyMessage copy_ = {})
      : size(ranks), copy(std::move(copy_)), slots(static_cast<std::size_t>(ranks)) {}

  const int size;
  const CopyMessage copy;
  std::mutex mutex;
  std::condition_variable changed;

  // Transfers that wait for their other side, by (source, destination, tag), in order.
  struct Channel {
    std::deque<std::shared_ptr<Side>> sends, receives;
  };
  std::map<std::tuple<int, int, int>, Channel> channels;

  // all_gather: ranks fill their slots, the last one opens the next generation.
  std::vector<std::string> slots;
  std::shared_ptr<const std::vector<std::string>> gathered;
  int arrived = 0;
  std::uint64_t generation = 0;

  // Reductions under way, by their number; gone when all ranks have fetched the result.
  struct Reduction {
    std::vector<std::uint64_t> values;
    int contributed = 0, fetched = 0;
  };
  std::map<std::uint64_t, Reduction> reductions;
};

class TransferRequest : public Request {
 public:
  TransferRequest(World& world, std::shared_ptr<Side> side) : world_(world), side_(std::move(side)) {}
  bool test() override {
    const std::lock_guard lock(world_.mutex);
    return side_->done;
  }

 private:
  World& world_;
  std::shared_ptr<Side> side_;
};

template <class T>
class ReductionRequest : public Request {
 public:
  ReductionRequest(World& world, std::uint64_t number, std::span<T> values)
      : world_(world), number_(number), values_(values) {}
  bool test() override {
    if (done_) return true;
    const std::lock_guard lock(world_.mutex);
    const auto it = world_.reductions.find(number_);
    if (it->second.contributed < world_.size) return false;
    std::transform(it->second.values.begin(), it->second.values.end(), values_.begin(),
                   [](std::uint64_t v) { return static_cast<T>(v); });
    if (++it->second.fetched == world_.size) world_.reductions.erase(it);
    return done_ = true;
  }

 private:
  World& world_;
  std::uint64_t number_;
  std::span<T> values_;
  bool done_ = false;
};

class VirtualComm : public Comm {
 public:
  VirtualComm(std::shared_ptr<World> world, int rank) : world_(std::move(world)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return world_->size; }
  int local_rank() const override { return rank_; }
  int local_size() const override { return world_->size; }
  std::vector<int> node_of_ranks() const override { return std::vector<int>(static_cast<std::size_t>(size()), 0); }

  void barrier() override { gather({}); }
  void broadcast(std::string& bytes, int root) override {
    const auto all = gather(rank_ == root ? bytes : std::string());
    if (rank_ != root) bytes = (*all)[static_cast<std::size_t>(root)];
  }
  std::vector<std::string> all_gather(const std::string& bytes) override { return *gather(bytes); }
  void sum(std::span<std::uint64_t> values) override {
    reduce(values, [](std::uint64_t a, std::uint64_t b) { return a + b; });
  }
  void maximum(std::span<std::int64_t> values) override {
    reduce(values, [](std::int64_t a, std::int64_t b) { return std::max(a, b); });
  }

  std::unique_ptr<Request> send(std::span<const std::byte> bytes, int peer, int tag) override {
    // The bytes are only read: the pointer is shared with the receiving side's type.
    auto side = std::make_shared<Side>(Side{const_cast<std::byte*>(bytes.data()), bytes.size()});
    meet(side, {rank_, peer, tag}, &World::Channel::sends, &World::Channel::receives);
    return std::make_unique<TransferRequest>(*world_, std::move(side));
  }
  std::unique_ptr<Request> receive(std::span<std::byte> bytes, int peer, int tag) override {
    auto side = std::make_shared<Side>(Side{bytes.data(), bytes.size()});
    meet(side, {peer, rank_, tag}, &World::Channel::receives, &World::Channel::sends);
    return std::make_unique<TransferRequest>(*world_, std::move(side));
  }

  std::unique_ptr<Request> start_maximum(std::span<std::int64_t> values) override {
    return start(values, [](std::uint64_t a, std::uint64_t b) {
      return static_cast<std::int64_t>(a) < static_cast<std::int64_t>(b) ? b : a;
    });
  }
  std::unique_ptr<Request> start_sum(std::span<std::uint64_t> values) override {
    return start(values, [](std::uint64_t a, std::uint64_t b) { return a + b; });
  }

  [[noreturn]] void abort(Code code, const std::string& message) override {
    std::fprintf(stderr, "reshard: %s\n", message.c_str());
    std::_Exit(static_cast<int>(code));
  }

 private:
  using Queue = std::deque<std::shared_ptr<Side>> World::Channel::*;

  std::shared_ptr<const std::vector<std::string>> gather(std::string bytes) {
    World& w = *world_;
    std::unique_lock lock(w.mutex);
    w.slots[static_cast<std::size_t>(rank_)] = std::move(bytes);
    const std::uint64_t generation = w.generation;
    if (++w.arrived == w.size) {
      w.gathered = std::make_shared<const std::vector<std::string>>(std::move(w.slots));
      w.slots.assign(static_cast<std::size_t>(w.size), {});
      w.arrived = 0;
      ++w.generation;
      w.changed.notify_all();
    } else {
      w.changed.wait(lock, [&] { return w.generation != generation; });
    }
    return w.gathered;  // of this generation: the next one needs this rank first
  }

  template <class T, class F>
  void reduce(std::span<T> values, const F& join) {
    const auto all = gather(std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      T total{};
      for (std::size_t r = 0; r < all->size(); ++r) {
        T value;
        std::memcpy(&value, (*all)[r].data() + i * sizeof(T), sizeof(T));
        total = r == 0 ? value : join(total, value);
      }
      values[i] = total;
    }
  }

  template <class T, class F>
  std::unique_ptr<Request> start(std::span<T> values, const F& join) {
    const std::uint64_t number = next_reduction_++;
    {
      const std::lock_guard lock(world_->mutex);
      World::Reduction& reduction = world_->reductions[number];
      if (reduction.contributed++ == 0) {
        reduction.values.assign(values.begin(), values.end());
      } else {
        for (std::size_t i = 0; i < values.size(); ++i) {
          reduction.values[i] = join(reduction.values[i], static_cast<std::uint64_t>(values[i]));
        }
      }
    }
    return std::make_unique<ReductionRequest<T>>(*world_, number, values);
  }

  // Pairs a new side with the oldest waiting one of the other kind and copies, or lets it wait.
  void meet(const std::shared_ptr<Side>& side, const std::tuple<int, int, int>& key, Queue own, Queue others) {
    std::shared_ptr<Side> other;
    {
      const std::lock_guard lock(world_->mutex);
      World::Channel& channel = world_->channels[key];
      if ((channel.*others).empty()) {
        (channel.*own).push_back(side);
        return;
      }
      other = std::move((channel.*others).front());
      (channel.*others).pop_front();
      if (channel.sends.empty() && channel.receives.empty()) world_->channels.erase(key);
    }
    const bool sending = own == &World::Channel::sends;
    const Side& from = sending ? *side : *other;
    const Side& to = sending ? *other : *side;
    if (from.length > to.length) abort(Code::failed, "a message is longer than its receive buffer");
    if (from.length > 0 && world_->copy) {
      const Status copied = world_->copy(to.bytes, from.bytes, from.length);
      if (!copied) abort(Code::failed, copied.error().message);
    } else if (from.length > 0) {
      std::memcpy(to.bytes, from.bytes, from.length);
    }
    const std::lock_guard lock(world_->mutex);
    side->done = other->done = true;
  }

  std::shared_ptr<World> world_;
  int rank_;
  std::uint64_t next_reduction_ = 0;
};

}  // namespace

std::unique_ptr<Comm> make_self_comm() { return std::make_unique<VirtualComm>(std::make_shared<World>(1), 0); }

void run_virtual_ranks(int size, const std::function<void(Comm&)>& body, const CopyMessage& copy) {
  const auto world = std::make_shared<World>(size, copy);
  enum class Start { wait, go, never };
  std::atomic<Start> start = Start::wait;
  const auto run = [&](int rank) {
    start.wait(Start::wait);
    if (start == Start::never) return;
    VirtualComm comm(world, rank);
    try {
      body(comm);
    } catch (const std::exception& error) {
      comm.abort(Code::failed, std::string("rank ") + std::to_string(rank) + ": " + error.what());
    }
  };
  std::vector<std::jthread> ranks;
  const auto release = [&](Start how) {
    start = how;
    start.notify_all();
  };
  try {
    for (int rank = 0; rank < size; ++rank) ranks.emplace_back(run, rank);
  } catch (const std::system_error&) {
    release(Start::never);
    throw;
  }
  release(Start::go);
}

}  // namespace reshard::comm
