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

// Between looks at what a device has under way.
constexpr auto kDeviceLook = std::chrono::microseconds(20);

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

/// A round that goes past its slots would spoil others: a defect of whoever planned it, told before a byte of it moves.
Status check_fits(const plan::Schedule& schedule, Index number, const plan::Round& round) {
  const auto check = [&](plan::Slot slot, const auto& pieces) -> Status {
    const Index size = schedule.slot_bytes(slot);
    for (const auto& piece : pieces) {
      if (piece.slot_offset >= 0 && piece.length >= 0 && piece.length <= size - piece.slot_offset) continue;
      return run_error(fmt::format(
          "the plan is wrong: round {} puts {} bytes at byte {} of a slot of {}; please report this, with the "
          "command",
          number, piece.length, piece.slot_offset, size));
    }
    return {};
  };
  RESHARD_CHECK(check(plan::Slot::source, round.reads));
  RESHARD_CHECK(check(plan::Slot::outgoing, round.sends));
  RESHARD_CHECK(check(plan::Slot::received, round.receives));
  return check(plan::Slot::output, round.writes);
}

}  // namespace

Pipeline::Pipeline(const plan::Schedule& schedule, const Slots& slots, const Slots* device_slots, SourceFiles& sources,
                   Sink& sink, const Options& options)
    : schedule_(schedule),
      slots_(slots),
      device_slots_(device_slots),
      sources_(sources),
      sink_(sink),
      options_(options),
      grain_{options.io_block_bytes, std::max(1, options.io_threads), options.repack_threads > 1,
             schedule.exchanges(),   device_slots != nullptr,         options.engine.carries_on_device()},
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
    add(Stage::repack, grain_.on_device ? 1 : std::max(1, options_.repack_threads));
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
      const bool worked = stage == Stage::read    ? read_step(lock)
                          : stage == Stage::write ? write_step(lock)
                          : grain_.on_device      ? device_step(lock)
                                                  : repack_step(lock);
      if (worked) continue;
      if (stage == Stage::repack && steps_running_ > 0) {
        repacks_.wait_for(lock, kDeviceLook);
      } else {
        (stage == Stage::read ? reads_ : stage == Stage::repack ? repacks_ : writes_).wait(lock);
      }
    }
  } catch (const std::exception& error) {
    fail(run_error(fmt::format("streaming broke off: {}", error.what())));
  }
  Lock lock(mutex_);
  if (stage == Stage::repack) finish_device(lock);
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
  plan::Round round = schedule_.round(number);
  Status fits = check_fits(schedule_, number, round);
  Work work = fits ? std::make_shared<RoundWork>(number, std::move(round), grain_) : nullptr;
  lock.lock();
  opening_ = false;
  if (!fits) return set_error(std::move(fits).error());
  ++next_open_;
  window_.push_back(work);
  retire();
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
  if (++work->pieces_done == work->pieces.size()) retire();
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
  retire();
}

void Pipeline::repack_item(RoundWork& work, const Batches& batches, const Batches::Item& item) {
  if (item.kind == Batches::Item::Kind::constant) return place_constant(work, work.round.constants[item.index]);
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

void Pipeline::place_constant(const RoundWork& work, const plan::Constant& constant) {
  std::byte* const to = slots_.at(plan::Slot::output, work.number).data() + constant.slot_offset;
  const auto length = static_cast<std::size_t>(constant.length);
  if (constant.bytes) {
    std::memcpy(to, constant.bytes, length);
  } else {
    std::memset(to, 0, length);
  }
}

// --- repacking on a device ---

bool Pipeline::device_step(Lock& lock) {
  if (test_steps()) return true;
  for (const Work& work : window_) {
    for (std::size_t i = 0; i < DeviceSteps::kSteps; ++i) {
      const auto step = static_cast<DeviceSteps::Step>(i);
      if (!may_begin(*work, step)) continue;
      begin_step(lock, Work(work), step);
      return true;
    }
  }
  return false;
}

// Takes note of steps that are done. True if there was one.
bool Pipeline::test_steps() {
  const Clock::time_point now = Clock::now();
  const auto since = now - std::exchange(steps_tested_, now);
  if (steps_running_ == 0) return false;
  std::array<bool, kStages> busy{};
  bool any = false;
  for (std::size_t w = 0; w < window_.size(); ++w) {
    const Work work = window_[w];
    for (std::size_t i = 0; i < DeviceSteps::kSteps; ++i) {
      if (work->device->state[i] != DeviceSteps::State::running) continue;
      const auto step = static_cast<DeviceSteps::Step>(i);
      busy[static_cast<std::size_t>(stage_of(step))] = true;
      const Expected<bool> done = work->device->pending[i]->test();
      if (done && !*done) continue;
      work->device->pending[i].reset();
      --steps_running_;
      any = true;
      if (done) {
        end_step(work, step);
      } else {
        work->device->state[i] = DeviceSteps::State::failed;
        set_error(done.error());
      }
    }
  }
  for (std::size_t stage = 0; stage < kStages; ++stage) {
    if (busy[stage]) add_busy(static_cast<Stage>(stage), since);
  }
  if (any) retire();
  return any;
}

bool Pipeline::may_begin(const RoundWork& work, DeviceSteps::Step step) const {
  using Slot = plan::Slot;
  if (work.device->state[step] != DeviceSteps::State::waiting || !work.allows(step)) return false;
  switch (step) {
    case DeviceSteps::upload:
      return device_slot_is_free(Slot::source, work.number);
    case DeviceSteps::pack:
      return device_slot_is_free(Slot::outgoing, work.number);
    case DeviceSteps::fetch:
      return grain_.messages_on_device || slot_is_free(Slot::outgoing, work.number);
    case DeviceSteps::put:
      return grain_.messages_on_device || device_slot_is_free(Slot::received, work.number);
    case DeviceSteps::local:
    case DeviceSteps::remote:
      return device_slot_is_free(Slot::output, work.number);
    case DeviceSteps::download:
      return slot_is_free(Slot::output, work.number);
  }
  return false;
}

void Pipeline::begin_step(Lock& lock, const Work& work, DeviceSteps::Step step) {
  lock.unlock();
  Expected<std::unique_ptr<device::Pending>> pending = give_step(*work, step);
  lock.lock();
  if (!pending) return set_error(std::move(pending).error());
  if (!*pending) {
    end_step(work, step);
    return retire();
  }
  work->device->state[step] = DeviceSteps::State::running;
  work->device->pending[step] = *std::move(pending);
  ++steps_running_;
}

// Nothing, where there is nothing to do.
Expected<std::unique_ptr<device::Pending>> Pipeline::give_step(RoundWork& work, DeviceSteps::Step step) {
  using Slot = plan::Slot;
  device::Device& device = *options_.engine.device;
  const auto host = [&](Slot slot) { return slots_.at(slot, work.number).data(); };
  const auto there = [&](Slot slot) { return device_slots_->at(slot, work.number).data(); };
  const std::vector<device::Range>& ranges = work.device->ranges[step];
  const repack::OpTable& table = work.device->tables[step];
  if (ranges.empty() && table.tasks().empty()) return std::unique_ptr<device::Pending>();
  switch (step) {
    case DeviceSteps::upload:
      return device.upload(there(Slot::source), host(Slot::source), ranges);
    case DeviceSteps::put:
      return device.upload(there(Slot::received), host(Slot::received), ranges);
    case DeviceSteps::fetch:
      return device.download(host(Slot::outgoing), there(Slot::outgoing), ranges);
    case DeviceSteps::download:
      return device.download(host(Slot::output), there(Slot::output), ranges);
    default:
      break;
  }
  repack::SlotBases bases;
  for (const Slot slot : {Slot::source, Slot::received, Slot::outgoing, Slot::output}) {
    bases.at[static_cast<std::size_t>(slot)] = there(slot);
  }
  const bool places = step != DeviceSteps::pack;
  return device.repack(table, bases, places ? std::span(work.digests) : std::span<std::uint64_t>());
}

void Pipeline::end_step(const Work& work, DeviceSteps::Step step) {
  work->device->state[step] = DeviceSteps::State::done;
  if (step != DeviceSteps::download) return;
  for (const plan::Constant& constant : work->round.constants) {
    if (constant.bytes) place_constant(*work, constant);
  }
  count_digests(*work);
}

// Memory of the slots must outlive what the device does with it.
void Pipeline::finish_device(Lock& lock) {
  while (steps_running_ > 0) {
    if (!test_steps()) repacks_.wait_for(lock, kDeviceLook);
  }
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
  if (++work->writes_done == work->round.writes.size()) retire();
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
  const bool free = grain_.messages_on_device ? device_slot_is_free(plan::Slot::received, number)
                                              : slot_is_free(plan::Slot::received, number);
  return work && free ? *work : nullptr;
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
  retire();
}

void Pipeline::finish_sends(Index number, Index bytes) {
  const std::lock_guard lock(mutex_);
  bytes_sent_ += bytes;
  const Work work = *find(number);
  work->sent = true;
  retire();
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

bool Pipeline::device_slot_is_free(plan::Slot slot, Index number) const {
  for (Index before = number - depth_; before >= retired_; before -= depth_) {
    const Work* work = find(before);
    if (!work || !(*work)->frees_on_device(slot)) return false;
  }
  return true;
}

// Something got done: rounds that are complete go, and whoever may go on now is woken.
void Pipeline::retire() {
  while (!window_.empty() && window_.front()->complete()) {
    window_.pop_front();
    ++retired_;
    ++rounds_;
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
  Progress progress;
  progress.bytes_read = bytes_read_;
  progress.bytes_written = bytes_written_;
  progress.rounds = rounds_;
  for (std::size_t i = 0; i < kStages; ++i) {
    const auto stage = static_cast<Stage>(i);
    const int threads = stage == Stage::read || stage == Stage::write ? options_.io_threads
                        : stage == Stage::repack && !grain_.on_device ? options_.repack_threads
                                                                      : 1;
    progress.busy_s[i] = static_cast<double>(busy_ns_[i].load()) / 1e9 / std::max(1, threads);
  }
  return progress;
}

Outcome Pipeline::outcome() const {
  const std::lock_guard lock(mutex_);
  return {{bytes_read_, bytes_sent_, bytes_received_, bytes_written_, rounds_}, progress(), digests_};
}

}  // namespace reshard::exec
