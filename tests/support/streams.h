// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "reshard/exec/executor.h"

namespace reshard::test {

using Bytes = std::vector<std::byte>;

/// A schedule held in vectors.
class FakeSchedule : public plan::Schedule {
 public:
  std::vector<plan::Round> rounds;
  Index slots[4] = {0, 0, 0, 0};  ///< bytes, by plan::Slot
  int num_slots = 2;
  bool exchange = false;
  Index lines = 0;

  Index num_rounds() const override { return static_cast<Index>(rounds.size()); }
  plan::Round round(Index number) const override { return rounds[static_cast<std::size_t>(number)]; }
  Index slot_bytes(plan::Slot slot) const override { return slots[static_cast<std::size_t>(slot)]; }
  int depth() const override { return num_slots; }
  bool exchanges() const override { return exchange; }
  Index num_lines() const override { return lines; }

  /// Sums over the rounds.
  plan::Totals totals() const;
};

/// The work of several ranks on files in memory.
struct Job {
  std::vector<FakeSchedule> ranks;
  std::vector<Bytes> sources;
  std::vector<Index> target_sizes;
};

struct JobShape {
  int ranks = 1;
  Index rounds = 10;
  bool exchange = false;
  int depth = 2;
  Index slot_bytes = 20000;
};

/// A job of random reads, copies, casts, messages, constants and writes; every target byte is written once.
Job random_job(std::mt19937_64& random, const JobShape& shape);

struct JobResult {
  std::vector<Bytes> targets;
  std::vector<std::uint64_t> digests;
};
/// The same rounds, one rank and one element after the other.
JobResult naive_execute(const Job& job);

/// Runs a job's part of this rank and checks counters, digests (of all ranks) and the bytes that it wrote. Collective.
void expect_naive_result(comm::Comm& comm, const Job& job, const exec::Options& options);

/// Lets `bytes_per_s` pass through, shared by all threads that use it; 0: everything.
class Throttle {
 public:
  explicit Throttle(double bytes_per_s = 0) : bytes_per_s_(bytes_per_s) {}
  void pass(Index bytes);

 private:
  double bytes_per_s_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point free_{};
};

/// Sources in memory. `before`, if set, is called before each read and may fail or wait.
class MemorySources : public exec::SourceFiles {
 public:
  explicit MemorySources(const std::vector<Bytes>& files) : files_(files) {}
  std::function<Status(std::uint32_t file)> before;

  Expected<std::shared_ptr<io::Source>> open(std::uint32_t file) override;
  std::string path(std::uint32_t file) const override { return "source " + std::to_string(file); }

 private:
  const std::vector<Bytes>& files_;
};

/// Targets in memory, shared by the sinks of all ranks. `before`, if set, is called before each write and may fail or
/// wait.
class MemorySink : public exec::Sink {
 public:
  explicit MemorySink(std::vector<Bytes>& targets) : targets_(targets) {}
  std::function<Status(const plan::Write&)> before;
  std::atomic<int> finished{0};
  Status finish_status;

  Status consume(const plan::Round& round, std::size_t write, std::span<const std::byte> output,
                 std::span<const std::uint64_t> digests) override;
  Status finish() override;

 private:
  std::vector<Bytes>& targets_;
};

}  // namespace reshard::test
