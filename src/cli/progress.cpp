// SPDX-License-Identifier: Apache-2.0
#include "progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <system_error>
#include <utility>

#include "reshard/base/text.h"

namespace reshard::cli {
namespace {

constexpr double kLiveInterval = 0.2;

/// The stage that was busiest between two moments: the others wait for it.
std::string_view limiting_stage(const exec::Progress& last, const exec::Progress& now) {
  std::array<double, exec::kStages> busy_s;
  std::transform(now.busy_s.begin(), now.busy_s.end(), last.busy_s.begin(), busy_s.begin(), std::minus<>());
  return to_string(static_cast<exec::Stage>(std::max_element(busy_s.begin(), busy_s.end()) - busy_s.begin()));
}

}  // namespace

std::string progress_line(const std::string& verb, const app::Moment& last, const app::Moment& now) {
  const Index done = std::min(now.all_ranks.bytes_written, now.target_bytes);
  const double share = now.target_bytes > 0 ? static_cast<double>(done) / static_cast<double>(now.target_bytes) : 1.0;
  const double seconds = now.elapsed_s - last.elapsed_s;
  const double rate =
      seconds > 0 ? static_cast<double>(now.all_ranks.bytes_written - last.all_ranks.bytes_written) / seconds : 0;
  // What is left is told from the whole run: steadier than the last moment.
  const double mean = now.elapsed_s > 0 ? static_cast<double>(done) / now.elapsed_s : 0;
  const std::string left =
      mean > 0 ? describe_seconds(static_cast<double>(now.target_bytes - done) / mean) + " left" : "time left unknown";
  return fmt::format("{}  {:3.0f} %  {} of {}  {}  {}  limit: {}", verb, 100 * share, describe_bytes(done),
                     describe_bytes(now.target_bytes), describe_rate(rate), left,
                     limiting_stage(last.all_ranks, now.all_ranks));
}

ProgressPrinter::ProgressPrinter(std::string verb, const ProgressSetting& setting, bool terminal)
    : verb_(std::move(verb)),
      live_(setting.automatic && terminal),
      interval_s_(live_ ? kLiveInterval : setting.interval_s) {}

void ProgressPrinter::stage(const std::string& name) {
  if (interval_s_ <= 0) return;
  const std::lock_guard lock(mutex_);
  if (name == stage_) return;
  stage_ = name;
  stage_begin_ = Clock::now();
  changed_.notify_all();
  if (stages_.joinable()) return;
  try {
    stages_ = std::jthread([this](const std::stop_token& stop) { tell_stages(stop); });
  } catch (const std::system_error&) {
    // No thread to be had: stages go untold.
  }
}

void ProgressPrinter::tell_stages(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    const Clock::time_point begin = stage_begin_;
    const auto is_over = [&] { return stage_begin_ != begin; };
    const std::chrono::duration<double> interval(interval_s_);
    if (changed_.wait_for(lock, stop, std::chrono::duration_cast<Clock::duration>(interval), is_over)) continue;
    if (stop.stop_requested() || stage_.empty()) continue;
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    show(fmt::format("{}: {}, {}", verb_, stage_, describe_seconds(seconds)));
  }
}

void ProgressPrinter::update(const app::Moment& moment) {
  if (interval_s_ <= 0) return;
  const std::lock_guard lock(mutex_);
  stage_.clear();
  if (moment.elapsed_s < last_.elapsed_s) last_ = {};  // another stream
  if (moment.elapsed_s - last_.elapsed_s < interval_s_) return;
  show(progress_line(verb_, last_, moment));
  last_ = moment;
}

void ProgressPrinter::say(const std::string& line) {
  const std::lock_guard lock(mutex_);
  clear();
  std::fputs((line + "\n").c_str(), stderr);
}

void ProgressPrinter::end() {
  stages_ = {};  // stops and joins it
  const std::lock_guard lock(mutex_);
  clear();
}

void ProgressPrinter::show(const std::string& line) {
  std::fputs((live_ ? "\r" + line + "\x1b[K" : "reshard: " + line + "\n").c_str(), stderr);
  std::fflush(stderr);
  shown_ = live_;
}

void ProgressPrinter::clear() {
  if (!shown_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace reshard::cli
