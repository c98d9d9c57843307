// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "reshard/exec/executor.h"
#include "slots.h"
#include "work.h"

namespace reshard::exec {

/// What one rank does by itself: threads that read, repack and write rounds, several rounds at once, and the credits
/// between them. A stage takes a round's work when its input is there and the slot it fills was freed by the round
/// `depth` before; whoever finishes something wakes those who may go on. The exchange (another thread, the only one
/// that talks to other ranks) asks for rounds that are ready for it and reports transfers that are done. Thread-safe.
class Pipeline {
 public:
  /// `device_slots` are those of options.engine.device, if it has one.
  Pipeline(const plan::Schedule& schedule, const Slots& slots, const Slots* device_slots, SourceFiles& sources,
           Sink& sink, const Options& options);
  ~Pipeline();  ///< stops

  /// Starts the threads. Errors (failed): the system gives none. Local.
  Status start();
  /// Lets the threads end after what they are at; nobody waits. `idle` is true when the last one has.
  void stop();
  bool idle() const { return running_ == 0; }

  /// The round if its receives (sends) may be posted now, else nothing.
  std::shared_ptr<const RoundWork> ready_to_receive(Index number) const;
  std::shared_ptr<const RoundWork> ready_to_send(Index number) const;
  void finish_receives(Index number, Index bytes);
  void finish_sends(Index number, Index bytes);

  /// Remembers the first error and stops.
  void fail(Error error);
  bool failed() const;
  /// The first error, if any. Only when idle.
  Status status() const;
  /// True when all rounds are complete and the sink has finished.
  bool finished() const;

  /// Waits until something happened since the last call that the exchange may care about, at most `timeout`.
  void wait(std::chrono::nanoseconds timeout);

  void add_busy(Stage stage, std::chrono::nanoseconds time) {
    busy_ns_[static_cast<std::size_t>(stage)] += static_cast<std::uint64_t>(time.count());
  }
  Progress progress() const;
  /// Counters and digests. Only when idle.
  Outcome outcome() const;

 private:
  using Lock = std::unique_lock<std::mutex>;
  using Work = std::shared_ptr<RoundWork>;

  void run(Stage stage);
  // One step of a thread: true if there was something to do, false after waiting for it.
  bool read_step(Lock& lock);
  bool repack_step(Lock& lock);
  bool device_step(Lock& lock);
  bool write_step(Lock& lock);

  bool may_open() const;
  void open_round(Lock& lock);
  void read_piece(Lock& lock, const Work& work);
  void repack_batch(Lock& lock, const Work& work, Batches& batches);
  void repack_item(RoundWork& work, const Batches& batches, const Batches::Item& item);
  void place_constant(const RoundWork& work, const plan::Constant& constant);
  bool test_steps();
  bool may_begin(const RoundWork& work, DeviceSteps::Step step) const;
  void begin_step(Lock& lock, const Work& work, DeviceSteps::Step step);
  Expected<std::unique_ptr<device::Pending>> give_step(RoundWork& work, DeviceSteps::Step step);
  void end_step(const Work& work, DeviceSteps::Step step);
  void finish_device(Lock& lock);
  void write_one(Lock& lock, const Work& work);
  void finish_sink(Lock& lock);

  // Under the mutex:
  const Work* find(Index number) const;
  bool slot_is_free(plan::Slot slot, Index number) const;
  bool device_slot_is_free(plan::Slot slot, Index number) const;
  void retire();
  void count_digests(const RoundWork& work);
  void wake_all();
  void set_error(Error error);

  const plan::Schedule& schedule_;
  const Slots& slots_;
  const Slots* const device_slots_;
  SourceFiles& sources_;
  Sink& sink_;
  const Options& options_;
  const Grain grain_;
  const Index num_rounds_, depth_;

  mutable std::mutex mutex_;
  std::condition_variable reads_, repacks_, writes_, events_;
  std::deque<Work> window_;  // opened and not complete, or behind one that is not
  Index retired_ = 0;        // number of the first round of the window
  Index next_open_ = 0;
  bool opening_ = false;
  bool stop_ = false;
  enum class Finish { not_yet, running, done } finish_ = Finish::not_yet;
  bool event_ = false;
  Index steps_running_ = 0;  // of the device
  std::chrono::steady_clock::time_point steps_tested_{};
  std::optional<Error> error_;
  std::vector<std::uint64_t> digests_;

  std::atomic<Index> bytes_read_{0}, bytes_sent_{0}, bytes_received_{0}, bytes_written_{0}, rounds_{0};
  std::array<std::atomic<std::uint64_t>, kStages> busy_ns_{};
  std::atomic<int> running_{0};
  std::vector<std::jthread> threads_;  // last: joined first
};

}  // namespace reshard::exec
