// SPDX-License-Identifier: Apache-2.0
#include "reshard/exec/executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>

#include "beat.h"
#include "exchange.h"
#include "pipeline.h"
#include "slots.h"

namespace reshard::exec {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr auto kProgressInterval = milliseconds(100);

/// The part of a stream that the calling thread does: it alone talks to other ranks, and it sleeps when there is
/// nothing to say.
class Conductor {
 public:
  /// `exchange` is none where nothing is exchanged.
  Conductor(Pipeline& pipeline, Exchange* exchange, comm::Comm& comm, const Options& options)
      : pipeline_(pipeline),
        exchange_(exchange),
        comm_(comm),
        options_(options),
        beat_(comm, options.agreement_timeout_s) {}

  /// Returns when all ranks are done or all have stopped. Collective.
  void run() {
    while (!step()) continue;
  }

 private:
  // True when the stream is over, on all ranks alike.
  bool step() {
    const Clock::time_point before = Clock::now();
    const bool sending = exchange_ && exchange_->sending();
    const bool moved = exchange_ && exchange_->step();
    if (options_.interruption) {
      if (std::string why = options_.interruption(); !why.empty()) pipeline_.fail(run_error(std::move(why)));
    }
    const bool finished = pipeline_.finished(), failed = pipeline_.failed();
    std::optional<Pulse> pulse;
    if (comm_.size() == 1) {
      pulse = Pulse{failed, !finished, pipeline_.progress()};
    } else {
      pulse = beat_.step(failed, !finished, pipeline_.progress());
    }
    if (pulse) {
      const bool over = pulse->failed || !pulse->busy;
      show(*pulse, over);
      if (pulse->failed) wind_up();
      if (over) return true;
    }
    if (!moved) pause();
    if (sending) pipeline_.add_busy(Stage::exchange, Clock::now() - before);
    backoff_ = moved ? kShortest : std::min<Clock::duration>(2 * backoff_, kLongest);
    return false;
  }

  // Some rank failed, and all know it: no rank posts more rounds than any other has, those are finished with whatever
  // the slots hold, and then nobody waits for anybody.
  void wind_up() {
    pipeline_.stop();
    if (exchange_) exchange_->stop();
    const Clock::time_point deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                          std::chrono::duration<double>(options_.agreement_timeout_s));
    const auto wait_until = [&](const char* what, const auto& reached) {
      while (!reached()) {
        if (Clock::now() > deadline) give_up(what);
        pipeline_.wait(kLongest);
      }
    };
    std::int64_t bound = exchange_ ? exchange_->posted() : 0;
    const auto request = comm_.start_maximum({&bound, 1});
    const auto keep_testing = [&] { return exchange_ && exchange_->test(); };
    wait_until("other ranks do not answer", [&] { return keep_testing(), request->test(); });
    wait_until("a read or write does not return", [&] { return keep_testing(), pipeline_.idle(); });
    if (!exchange_) return;
    wait_until("messages of other ranks do not arrive", [&] { return exchange_->drain(bound); });
  }

  void give_up(const char* what) {
    const Status status = pipeline_.status();
    comm_.abort(status ? Code::failed : status.error().code,
                fmt::format("rank {}: {} for {} s after a failure{}{}", comm_.rank(), what,
                            options_.agreement_timeout_s, status ? "" : ": ", status ? "" : status.error().message));
  }

  void pause() {
    if (exchange_ && exchange_->pending()) return pipeline_.wait(backoff_);
    if (beat_.under_way()) return pipeline_.wait(milliseconds(1));
    pipeline_.wait(comm_.size() == 1 ? kProgressInterval : milliseconds(10));
  }

  void show(const Pulse& pulse, bool last) {
    const Clock::time_point now = Clock::now();
    if (comm_.rank() != 0 || !options_.progress || (!last && now < next_show_)) return;
    next_show_ = now + kProgressInterval;
    options_.progress(pulse.all_ranks, std::chrono::duration<double>(now - start_).count());
  }

  // Between looks at messages under way.
  static constexpr Clock::duration kShortest = microseconds(10);
  static constexpr Clock::duration kLongest = microseconds(50);

  Pipeline& pipeline_;
  Exchange* const exchange_;
  comm::Comm& comm_;
  const Options& options_;
  Beat beat_;
  Clock::duration backoff_ = kShortest;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_show_ = start_ + kProgressInterval;
};

/// The slots of a stream, in the host's memory and, if a device repacks, in the device's.
struct Memory {
  std::optional<Slots> host, device;
  std::shared_ptr<void> pinned;

  Status make(const plan::Schedule& schedule, const Engine& engine) {
    RESHARD_TRY(host, Slots::make(schedule, !engine.carries_on_device()));
    if (!engine.device) return {};
    RESHARD_TRY(device, Slots::make_on(*engine.device, schedule));
    RESHARD_TRY(pinned, engine.device->pin(host->memory()));
    return {};
  }
};

}  // namespace

Expected<Outcome> execute(const plan::Schedule& schedule, SourceFiles& sources, Sink& sink, comm::Comm& comm,
                          const Options& options) {
  const Engine& engine = options.engine;
  Memory memory;
  RESHARD_CHECK(comm::agree(comm, memory.make(schedule, engine)));
  const Slots* const on_device = memory.device ? &*memory.device : nullptr;
  Pipeline pipeline(schedule, *memory.host, on_device, sources, sink, options);
  std::unique_ptr<Exchange> exchange;
  if (schedule.exchanges() && engine.groups) {
    exchange = std::make_unique<GroupExchange>(*on_device, pipeline, *engine.groups);
  } else if (schedule.exchanges()) {
    const Slots& slots = engine.messages_on_device ? *on_device : *memory.host;
    exchange = std::make_unique<MessageExchange>(schedule, slots, pipeline, comm);
  }
  if (Status started = pipeline.start(); !started) pipeline.fail(std::move(started).error());
  Conductor(pipeline, exchange.get(), comm, options).run();
  RESHARD_CHECK(comm::agree(comm, pipeline.status()));
  return pipeline.outcome();
}

}  // namespace reshard::exec
