// SPDX-License-Identifier: Apache-2.0
#include "beat.h"

#include <fmt/format.h>

#include <algorithm>

namespace reshard::exec {
namespace {

std::uint64_t nanoseconds(double seconds) { return static_cast<std::uint64_t>(seconds * 1e9); }
double seconds(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e9; }

}  // namespace

std::optional<Pulse> Beat::step(bool failed, bool busy, const Progress& mine) {
  const Clock::time_point now = Clock::now();
  if (!request_) {
    const bool news = failed || !busy;
    if (now < due_ && !(news && !told_)) return std::nullopt;
    told_ = news;
    values_ = {failed, busy, static_cast<std::uint64_t>(mine.bytes_read),
               static_cast<std::uint64_t>(mine.bytes_written), static_cast<std::uint64_t>(mine.rounds)};
    std::transform(mine.busy_s.begin(), mine.busy_s.end(), values_.begin() + kFirstStage, nanoseconds);
    request_ = comm_.start_sum(values_);
    started_ = now;
  }
  if (!request_->test()) {
    if (std::chrono::duration<double>(now - started_).count() > timeout_s_) {
      comm_.abort(Code::failed, fmt::format("rank {}: other ranks have not answered for {} s: one hangs or is gone",
                                            comm_.rank(), timeout_s_));
    }
    return std::nullopt;
  }
  request_.reset();
  due_ = now + interval_;
  interval_ = std::min<Clock::duration>(2 * interval_, kSlowest);
  Pulse pulse{values_[0] != 0, values_[1] != 0, {}};
  Progress& all = pulse.all_ranks;
  all.bytes_read = static_cast<Index>(values_[2]);
  all.bytes_written = static_cast<Index>(values_[3]);
  all.rounds = static_cast<Index>(values_[4]);
  std::transform(values_.begin() + kFirstStage, values_.end(), all.busy_s.begin(), seconds);
  return pulse;
}

}  // namespace reshard::exec
