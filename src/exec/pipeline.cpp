// SPDX-License-Identifier: Apache-2.0
#include "pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <system_error>

#include "reshard/repack/repack.h"

namespace reshard::exec {
namespace {

using Clock = std::chrono::steady_clock;

/// Adds the time until it is destroyed to a stage.
class Busy {
 public:
  Busy(Pipeline& pipeline, Stage stage) : pipeline_(pipeline), stage_(stage) {}
  ~Busy() { pipeline_.add_busy(stage_, Clock::now() - start_); }

 private:
  Pipeline& pipeline_;
  Stage stage_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace

Pipeline::Pipeline(const plan::Schedule& schedule, const Slots& slots, SourceFiles& sources, Sink& sink,
                   const Options& options)
    : schedule_(schedule),
      slots_(slots),
      sources_(sources),
      sink_(sink),
      options_(options),
      grain_{options.io_block_bytes, options.repack_threads > 1, schedule.exchanges()},
      num_rounds_(schedule.num_rounds()),
      depth_(schedule.depth()),
      digests_(static_cast<std::size_t>(schedule.num_lines()), 0) {}

Pipeline::~Pipeline() { stop(); }

Status Pipeline::start() {
  const auto add = [&](Stage stage, int count) {
    for (int i = 0; i < count; ++i) {
      ++running_;
      try {
        threads_.emplace_back([this, stage] { run(stage); });
      } catch (const std::system_error&) {
        --running_;
        throw;
      }
    }
  };
  try {
    add(Stage::read, std::max(1, options_.io_threads));
    add(Stage::repack, std::max(1, options_.repack_threads));
    add(Stage::write, std::max(1, options_.io_threads));
  } catch (const std::system_error& error) {
    return run_error(fmt::format("cannot start threads: {}", error.what()));
  }
  return {};
}

void Pipeline::stop() {
  const std::lock_guard lock(mutex_);
  stop_ = true;
  wake_all();
}

void Pipeline::run(Stage stage) {
  try {
    Lock lock(mutex_);
    while (!stop_ && finish_ != Finish::done) {
      const bool worked = stage == Stage::read     ? read_step(lock)
                          : stage == Stage::repack ? repack_step(lock)
                                                   : write_step(lock);
      if (!worked) (stage == Stage::read ? reads_ : stage == Stage::repack ? repacks_ : writes_).wait(lock);
    }
  } catch (const std::exception& error) {
    fail(run_error(fmt::format("streaming broke off: {}", error.what())));
  }
  const std::lock_guard lock(mutex_);
  --running_;
  event_ = true;
  events_.notify_one();
}

// --- reading ---

bool Pipeline::may_open() const {
  if (opening_ || next_open_ == num_rounds_) return false;
  // One round ahead of those that can be read, so that spelling it out does not hold up the readers; and never far
  // ahead of the oldest round under way, for a round takes memory.
  if (next_open_ - retired_ >= 3 * depth_) return false;
  return next_open_ == 0 || slot_is_free(plan::Slot::source, next_open_ - 1);
}

bool Pipeline::read_step(Lock& lock) {
  if (may_open()) {
    open_round(lock);
    return true;
  }
  for (const Work& work : window_) {
    if (work->pieces_taken < work->pieces.size() && slot_is_free(plan::Slot::source, work->number)) {
      read_piece(lock, Work(work));
      return true;
    }
  }
  return false;
}

void Pipeline::open_round(Lock& lock) {
  opening_ = true;
  const Index number = next_open_;
  lock.unlock();
  auto work = std::make_shared<RoundWork>(number, schedule_.round(number), grain_);
  lock.lock();
  opening_ = false;
  ++next_open_;
  window_.push_back(work);
  advance(work);
}

void Pipeline::read_piece(Lock& lock, const Work& work) {
  const Piece& piece = work->pieces[work->pieces_taken++];
  lock.unlock();
  Status status;
  {
    const Busy busy(*this, Stage::read);
    const std::span<std::byte> slot = slots_.at(plan::Slot::source, work->number);
    auto source = sources_.open(piece.file);
    status = source ? (*source)->read_at(slot.subspan(static_cast<std::size_t>(piece.slot_offset),
                                                      static_cast<std::size_t>(piece.length)),
                                         piece.offset)
                    : Status(std::move(source).error());
  }
  lock.lock();
  if (!status) return set_error(std::move(status).error());
  bytes_read_ += piece.length;
  if (++work->pieces_done == work->pieces.size()) advance(work);
}

// --- repacking ---

bool Pipeline::repack_step(Lock& lock) {
  for (const Work& work : window_) {
    Batches* batches = nullptr;
    if (work->read() && work->pack.available() && slot_is_free(plan::Slot::outgoing, work->number)) {
      batches = &work->pack;
    } else if (slot_is_free(plan::Slot::output, work->number)) {
      if (work->read() && work->local.available()) batches = &work->local;
      if (!batches && work->received && work->remote.available()) batches = &work->remote;
    }
    if (batches) {
      repack_batch(lock, Work(work), *batches);
      return true;
    }
  }
  return false;
}

void Pipeline::repack_batch(Lock& lock, const Work& work, Batches& batches) {
  const auto [begin, end] = batches.batches[batches.taken++];
  lock.unlock();
  {
    const Busy busy(*this, Stage::repack);
    for (std::uint32_t i = begin; i < end; ++i) repack_item(*work, batches, batches.items[i]);
  }
  lock.lock();
  ++batches.done;
  if (!batches.finished()) return;
  if (&batches != &work->pack && work->placed()) count_digests(*work);
  advance(work);
}

void Pipeline::repack_item(RoundWork& work, const Batches& batches, const Batches::Item& item) {
  if (item.kind == Batches::Item::Kind::constant) {
    const plan::Constant& constant = work.round.constants[item.index];
    std::byte* const to = slots_.at(plan::Slot::output, work.number).data() + constant.slot_offset;
    const auto length = static_cast<std::size_t>(constant.length);
    if (constant.bytes) {
      std::memcpy(to, constant.bytes, length);
    } else {
      std::memset(to, 0, length);
    }
    return;
  }
  const bool places = item.kind == Batches::Item::Kind::place;
  const plan::Copy& copy = item.part >= 0 ? batches.parts[static_cast<std::size_t>(item.part)]
                           : places       ? work.round.place[item.index]
                                          : work.round.pack[item.index];
  std::uint64_t digest = 0;
  repack::run(copy, slots_.at(copy.src_slot, work.number).data(), slots_.at(copy.dst_slot, work.number).data(),
              &digest);
  // Parts of one copy may be under way on several threads.
  if (places) std::atomic_ref(work.digests[item.index]).fetch_add(digest, std::memory_order_relaxed);
}

void Pipeline::count_digests(const RoundWork& work) {
  for (std::size_t i = 0; i < work.digests.size(); ++i) {
    const std::int64_t line = work.round.place[i].line;
    if (line != plan::kNoLine) digests_[static_cast<std::size_t>(line)] += work.digests[i];
  }
}

// --- writing ---

bool Pipeline::write_step(Lock& lock) {
  for (const Work& work : window_) {
    if (work->placed() && work->writes_taken < work->round.writes.size()) {
      write_one(lock, Work(work));
      return true;
    }
  }
  if (retired_ == num_rounds_ && finish_ == Finish::not_yet) {
    finish_sink(lock);
    return true;
  }
  return false;
}

void Pipeline::write_one(Lock& lock, const Work& work) {
  const std::size_t number = work->writes_taken++;
  lock.unlock();
  Status status;
  {
    const Busy busy(*this, Stage::write);
    status = sink_.consume(work->round, number, slots_.at(plan::Slot::output, work->number), work->digests);
  }
  lock.lock();
  if (!status) return set_error(std::move(status).error());
  bytes_written_ += work->round.writes[number].length;
  if (++work->writes_done == work->round.writes.size()) advance(work);
}

void Pipeline::finish_sink(Lock& lock) {
  finish_ = Finish::running;
  lock.unlock();
  Status status;
  {
    const Busy busy(*this, Stage::write);
    status = sink_.finish();
  }
  lock.lock();
  if (!status) return set_error(std::move(status).error());
  finish_ = Finish::done;
  wake_all();
}

// --- exchange ---

std::shared_ptr<const RoundWork> Pipeline::ready_to_receive(Index number) const {
  const std::lock_guard lock(mutex_);
  const Work* work = find(number);
  return work && slot_is_free(plan::Slot::received, number) ? *work : nullptr;
}

std::shared_ptr<const RoundWork> Pipeline::ready_to_send(Index number) const {
  const std::lock_guard lock(mutex_);
  const Work* work = find(number);
  return work && (*work)->packed() ? *work : nullptr;
}

void Pipeline::finish_receives(Index number, Index bytes) {
  const std::lock_guard lock(mutex_);
  bytes_received_ += bytes;
  const Work work = *find(number);
  work->received = true;
  advance(work);
}

void Pipeline::finish_sends(Index number, Index bytes) {
  const std::lock_guard lock(mutex_);
  bytes_sent_ += bytes;
  const Work work = *find(number);
  work->sent = true;
  advance(work);
}

// --- state ---

const Pipeline::Work* Pipeline::find(Index number) const {
  const Index at = number - retired_;
  return at >= 0 && at < static_cast<Index>(window_.size()) ? &window_[static_cast<std::size_t>(at)] : nullptr;
}

// All earlier users count: one that needs no slot of this kind lets it go before the one before it has.
bool Pipeline::slot_is_free(plan::Slot slot, Index number) const {
  for (Index before = number - depth_; before >= retired_; before -= depth_) {
    const Work* work = find(before);
    if (!work || !(*work)->frees(slot)) return false;
  }
  return true;
}

// Something of this round got done: whoever may go on now is woken.
void Pipeline::advance(const Work& work) {
  if (work->complete()) {
    while (!window_.empty() && window_.front()->complete()) {
      window_.pop_front();
      ++retired_;
      ++rounds_;
    }
  }
  wake_all();
}

void Pipeline::wake_all() {
  reads_.notify_all();
  repacks_.notify_all();
  writes_.notify_all();
  event_ = true;
  events_.notify_one();
}

void Pipeline::set_error(Error error) {
  if (!error_) error_ = std::move(error);
  stop_ = true;
  wake_all();
}

void Pipeline::fail(Error error) {
  const std::lock_guard lock(mutex_);
  set_error(std::move(error));
}

bool Pipeline::failed() const {
  const std::lock_guard lock(mutex_);
  return error_.has_value();
}

Status Pipeline::status() const {
  const std::lock_guard lock(mutex_);
  return error_ ? Status(*error_) : Status();
}

bool Pipeline::finished() const {
  const std::lock_guard lock(mutex_);
  return finish_ == Finish::done;
}

void Pipeline::wait(std::chrono::nanoseconds timeout) {
  Lock lock(mutex_);
  events_.wait_for(lock, timeout, [&] { return event_; });
  event_ = false;
}

Progress Pipeline::progress() const {
  const auto seconds = [&](Stage stage, int threads) {
    const auto ns = static_cast<double>(busy_ns_[static_cast<std::size_t>(stage)].load());
    return ns / 1e9 / std::max(1, threads);
  };
  Progress progress;
  progress.bytes_read = bytes_read_;
  progress.bytes_written = bytes_written_;
  progress.rounds = rounds_;
  progress.read_busy_s = seconds(Stage::read, options_.io_threads);
  progress.repack_busy_s = seconds(Stage::repack, options_.repack_threads);
  progress.exchange_busy_s = seconds(Stage::exchange, 1);
  progress.write_busy_s = seconds(Stage::write, options_.io_threads);
  return progress;
}

Outcome Pipeline::outcome() const {
  const std::lock_guard lock(mutex_);
  return {{bytes_read_, bytes_sent_, bytes_received_, bytes_written_, rounds_}, progress(), digests_};
}

}  // namespace reshard::exec
