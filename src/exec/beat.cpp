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
    values_ = {failed,
               busy,
               static_cast<std::uint64_t>(mine.bytes_read),
               static_cast<std::uint64_t>(mine.bytes_written),
               static_cast<std::uint64_t>(mine.rounds),
               nanoseconds(mine.read_busy_s),
               nanoseconds(mine.repack_busy_s),
               nanoseconds(mine.exchange_busy_s),
               nanoseconds(mine.write_busy_s)};
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
  return Pulse{values_[0] != 0, values_[1] != 0,
               Progress{static_cast<Index>(values_[2]), static_cast<Index>(values_[3]), static_cast<Index>(values_[4]),
                        seconds(values_[5]), seconds(values_[6]), seconds(values_[7]), seconds(values_[8])}};
}

}  // namespace reshard::exec
