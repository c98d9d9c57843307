// SPDX-License-Identifier: Apache-2.0
// Messages between the ranks of a job, as rounds of a conversion send them, against memcpy in the same run.
//   mpirun -n N exchange_bench [--json FILE]
// Patterns and columns are defined in README.md. Exit status 1: a message arrived changed.
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "reshard/comm/comm.h"
#include "reshard/device/groups.h"
#include "reshard/plan/round.h"
#include "tests/bench/conversion.h"
#include "tests/bench/report.h"

namespace reshard::bench {
namespace {

using plan::Message;

constexpr Index kSmallest = 64 * kKiB, kLargest = 256 * kMiB, kStep = 4;
constexpr Index kBytesPerRow = kGiB;  // of a rank, about
constexpr int kFewest = 3, kMost = 20, kWarm = 2;
constexpr Index kPlanRounds = 64;

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "exchange_bench: %s\n", error.message.c_str());
  std::_Exit(static_cast<int>(error.code));
}

template <class T>
T must(Expected<T> value) {
  if (!value) fail(value.error());
  return *std::move(value);
}

/// Host memory in huge pages, as the executor's slots have it.
class Buffer {
 public:
  explicit Buffer(Index bytes) : size_(static_cast<std::size_t>(round_up(bytes, 2 * kMiB))) {
    bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(2 * kMiB, size_)));
    madvise(bytes_.get(), size_, MADV_HUGEPAGE);
    std::memset(bytes_.get(), 1, size_);
  }
  std::span<std::byte> at(const Message& message) const {
    return {bytes_.get() + message.slot_offset, static_cast<std::size_t>(message.length)};
  }
  std::span<std::byte> all() const { return {bytes_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte[], Free> bytes_;
};

/// The messages of one round of this rank; all of a round are under way together.
struct Messages {
  std::vector<Message> sends, receives;
};

/// What moves messages between buffers of all ranks.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string name() const = 0;
  virtual void load() = 0;   ///< the outgoing buffer has new contents
  virtual void fetch() = 0;  ///< brings what has arrived into the received buffer
  virtual void start(const Messages& messages) = 0;
  virtual bool done() = 0;
};

class MpiTransport : public Transport {
 public:
  MpiTransport(comm::Comm& comm, const Buffer& outgoing, const Buffer& received)
      : comm_(comm), outgoing_(outgoing), received_(received) {}
  std::string name() const override { return "MPI"; }
  void load() override {}
  void fetch() override {}
  void start(const Messages& messages) override {
    for (const Message& one : messages.receives) requests_.push_back(comm_.receive(received_.at(one), one.peer, 0));
    for (const Message& one : messages.sends) requests_.push_back(comm_.send(outgoing_.at(one), one.peer, 0));
  }
  bool done() override {
    std::erase_if(requests_, [](const auto& request) { return request->test(); });
    return requests_.empty();
  }

 private:
  comm::Comm& comm_;
  const Buffer& outgoing_;
  const Buffer& received_;
  std::vector<std::unique_ptr<comm::Request>> requests_;
};

/// Word i of what src sends to dst.
std::uint64_t word(int src, int dst, std::size_t i) {
  const std::uint64_t ends = static_cast<std::uint64_t>(src) << 48 | static_cast<std::uint64_t>(dst) << 32;
  return (i + 1) * 0x9e3779b97f4a7c15u ^ ends;
}

void fill(std::span<std::byte> bytes, int src, int dst) {
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    const std::uint64_t value = word(src, dst, at / 8);
    std::memcpy(bytes.data() + at, &value, std::min<std::size_t>(8, bytes.size() - at));
  }
}

/// Words that are not what src sent.
std::uint64_t count_errors(std::span<const std::byte> bytes, int src, int dst) {
  std::uint64_t errors = 0;
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    const std::uint64_t value = word(src, dst, at / 8);
    if (std::memcmp(bytes.data() + at, &value, std::min<std::size_t>(8, bytes.size() - at)) != 0) ++errors;
  }
  return errors;
}

Index total(const std::vector<Message>& messages) {
  Index bytes = 0;
  for (const Message& message : messages) bytes += message.length;
  return bytes;
}

/// Neighbours two by two, each with everything.
Messages pair(int rank, int ranks, Index bytes) {
  const int peer = rank ^ 1;
  if (peer >= ranks) return {};
  return {{{peer, 0, bytes}}, {{peer, 0, bytes}}};
}

/// Every rank with every other one, an equal part of `bytes` for each rank; its own part stays where it is.
Messages all_to_all(int rank, int ranks, Index bytes) {
  Messages messages;
  const Index part = bytes / ranks;
  for (int i = 1; i < ranks; ++i) {
    const int dst = (rank + i) % ranks, src = (rank + ranks - i) % ranks;
    messages.sends.push_back({dst, dst * part, part});
    messages.receives.push_back({src, src * part, part});
  }
  return messages;
}

/// Groups of NCCL between devices, each rank with its own.
class NcclTransport : public Transport {
 public:
  /// Errors (failed): no device, no NCCL, or it does not start. Collective.
  static Expected<std::unique_ptr<Transport>> make(comm::Comm& comm, const Buffer& outgoing, const Buffer& received) {
    auto made = std::make_unique<NcclTransport>(outgoing, received);
    RESHARD_CHECK(comm::agree(comm, made->open(comm.local_rank())));
    RESHARD_TRY(made->groups_, device::make_nccl_groups(*made->nccl_, *made->device_, comm, kNcclPatience_s));
    return std::unique_ptr<Transport>(std::move(made));
  }
  NcclTransport(const Buffer& outgoing, const Buffer& received) : outgoing_(outgoing), received_(received) {}

  std::string name() const override { return "NCCL"; }
  void load() override { copy(device_outgoing_.get(), outgoing_.all().data()); }
  void fetch() override { copy(received_.all().data(), device_received_.get()); }
  void start(const Messages& messages) override {
    pending_ = must(groups_->start(parts(messages.sends, device_outgoing_.get()),
                                   parts(messages.receives, device_received_.get())));
  }
  bool done() override { return must(pending_->test()); }

 private:
  static constexpr double kNcclPatience_s = 120;

  Status open(int local_rank) {
    RESHARD_TRY(device_, device::open_cuda(local_rank));
    RESHARD_TRY(nccl_, device::load_nccl());
    RESHARD_TRY(device_outgoing_, device_->allocate(static_cast<Index>(outgoing_.all().size())));
    RESHARD_TRY(device_received_, device_->allocate(static_cast<Index>(received_.all().size())));
    return {};
  }
  static std::vector<device::Groups::Part> parts(const std::vector<Message>& messages, std::byte* memory) {
    std::vector<device::Groups::Part> all;
    for (const Message& one : messages) all.push_back({one.peer, memory + one.slot_offset, one.length});
    return all;
  }
  void copy(std::byte* to, const std::byte* from) {
    if (const Status copied = device::copy_any(to, from, outgoing_.all().size()); !copied) fail(copied.error());
  }

  const Buffer& outgoing_;
  const Buffer& received_;
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<device::Nccl> nccl_;
  std::shared_ptr<std::byte> device_outgoing_, device_received_;
  std::unique_ptr<device::Groups> groups_;
  std::unique_ptr<device::Pending> pending_;
};

class Bench {
 public:
  Bench(comm::Comm& comm, Report* report) : comm_(comm), report_(report), outgoing_(kLargest), received_(kLargest) {
    memcpy_rate_ = measure_memcpy();
    if (report_ != nullptr)
      report_->add({{"transport", "memcpy"}, {"bytes", kLargest}, {"bus_gb_per_s", memcpy_rate_ / 1e9}});
  }

  void run() {
    std::vector<std::unique_ptr<Transport>> transports;
    transports.push_back(std::make_unique<MpiTransport>(comm_, outgoing_, received_));
    if (auto nccl = NcclTransport::make(comm_, outgoing_, received_)) {
      transports.push_back(*std::move(nccl));
    } else if (report_ != nullptr) {
      std::printf("no NCCL: %s\n", nccl.error().message.c_str());
    }
    for (const auto& transport : transports) {
      for (Index bytes = kSmallest; bytes <= kLargest; bytes *= kStep) {
        repeat(*transport, "pair", bytes, pair(comm_.rank(), comm_.size(), bytes));
      }
      for (Index bytes = kSmallest; bytes <= kLargest; bytes *= kStep) {
        repeat(*transport, "all-to-all", bytes, all_to_all(comm_.rank(), comm_.size(), bytes));
      }
      follow_plan(*transport);
    }
  }

 private:
  /// Of one rank, while all copy.
  double measure_memcpy() {
    double best_s = 1e9;
    for (int i = 0; i < kFewest + kWarm; ++i) {
      comm_.barrier();
      const double start_s = now_s();
      std::memcpy(received_.all().data(), outgoing_.all().data(), received_.all().size());
      best_s = std::min(best_s, slowest(now_s() - start_s));
    }
    return static_cast<double>(received_.all().size()) / best_s;
  }

  /// Seconds of the rank that took longest.
  double slowest(double seconds) {
    std::int64_t ns = static_cast<std::int64_t>(seconds * 1e9);
    comm_.maximum({&ns, 1});
    return static_cast<double>(ns) / 1e9;
  }

  void put(Transport& transport, const Messages& messages) {
    for (const Message& one : messages.sends) fill(outgoing_.at(one), comm_.rank(), one.peer);
    transport.load();
  }

  /// One round, from the first call to the last message of the slowest rank.
  double time_round(Transport& transport, const Messages& messages) {
    comm_.barrier();
    const double start_s = now_s();
    transport.start(messages);
    while (!transport.done()) sched_yield();
    return slowest(now_s() - start_s);
  }

  std::uint64_t check(Transport& transport, const Messages& messages) {
    transport.fetch();
    std::uint64_t errors = 0;
    for (const Message& one : messages.receives) errors += count_errors(received_.at(one), one.peer, comm_.rank());
    comm_.sum({&errors, 1});
    return errors;
  }

  /// Bytes on the busiest link: of the rank that sends or receives most.
  double on_busiest_link(const Messages& messages) {
    std::int64_t bytes = std::max(total(messages.sends), total(messages.receives));
    comm_.maximum({&bytes, 1});
    return static_cast<double>(bytes);
  }

  void repeat(Transport& transport, const std::string& pattern, Index bytes, const Messages& messages) {
    const int times = static_cast<int>(std::clamp<Index>(kBytesPerRow / bytes, kFewest, kMost));
    put(transport, messages);
    std::vector<double> seconds;
    for (int i = -kWarm; i < times; ++i) {
      if (i + 1 == times) std::memset(received_.all().data(), 0, static_cast<std::size_t>(bytes));
      const double taken = time_round(transport, messages);
      if (i >= 0) seconds.push_back(taken);
    }
    std::sort(seconds.begin(), seconds.end());
    const std::uint64_t errors = check(transport, messages);
    const double link_bytes = on_busiest_link(messages);
    add(transport, pattern, static_cast<double>(bytes), link_bytes, times, seconds[seconds.size() / 2], errors);
  }

  /// The first rounds of a conversion on as many ranks as there are here.
  void follow_plan(Transport& transport) {
    const model::Library library = require(model::Library::load(""));
    Conversion conversion;
    const auto alone = comm::make_self_comm();
    conversion.source = require(format::open_checkpoint("synthetic:llama3-8b", {}, library, *alone));
    format::TargetOptions target_options;
    target_options.mesh.tp = 4;
    conversion.target = require(format::describe_target(conversion.source, "nanotron", target_options, library));
    plan::Options options;
    options.ranks = comm_.size();
    options.table_bytes = conversion.table_bytes();
    options.route = plan::Route::exchange;
    const plan::Plan plan = require(plan::Plan::make(conversion.transfers(), conversion.target_files(), options));
    const std::unique_ptr<plan::Schedule> schedule = plan.schedule(comm_.rank());
    const Index count = std::min(schedule->num_rounds(), kPlanRounds);
    if (std::max(schedule->slot_bytes(plan::Slot::outgoing), schedule->slot_bytes(plan::Slot::received)) > kLargest) {
      throw std::runtime_error("the plan's slots are larger than the buffers of this benchmark");
    }
    double seconds = 0, link_bytes = 0;
    std::uint64_t errors = 0, sent = 0;
    for (Index i = 0; i < count; ++i) {
      plan::Round round = schedule->round(i);
      const Messages messages{std::move(round.sends), std::move(round.receives)};
      sent += static_cast<std::uint64_t>(total(messages.sends));
      put(transport, messages);
      for (const Message& one : messages.receives) std::memset(received_.at(one).data(), 0, received_.at(one).size());
      seconds += time_round(transport, messages);
      errors += check(transport, messages);
      link_bytes += on_busiest_link(messages);
    }
    comm_.sum({&sent, 1});
    const auto rounds = static_cast<double>(count);
    const double bytes = static_cast<double>(sent) / comm_.size() / rounds;
    add(transport, "plan", bytes, link_bytes / rounds, static_cast<int>(count), seconds / rounds, errors);
  }

  void add(Transport& transport, const std::string& pattern, double bytes, double link_bytes, int times, double seconds,
           std::uint64_t errors) {
    if (report_ == nullptr) return;
    const double bus_rate = link_bytes / seconds;
    report_->add({{"transport", transport.name()},
                  {"pattern", pattern},
                  {"ranks", comm_.size()},
                  {"bytes", bytes},
                  {"times", times},
                  {"us", seconds * 1e6},
                  {"algorithm_gb_per_s", bytes / seconds / 1e9},
                  {"bus_gb_per_s", bus_rate / 1e9},
                  {"of_memcpy", bus_rate / memcpy_rate_},
                  {"errors", errors},
                  {"ok", errors == 0}});
  }

  comm::Comm& comm_;
  Report* report_;
  Buffer outgoing_, received_;
  double memcpy_rate_ = 0;
};

int run(int argc, char** argv) {
  const std::unique_ptr<comm::Comm> comm = require(comm::make_comm());
  if (comm->size() < 2) throw std::runtime_error("one rank has nobody to send to: mpirun -n 2 exchange_bench");
  std::optional<Report> report;
  if (comm->rank() == 0) {
    report.emplace("exchange",
                   std::vector<Report::Column>{{"transport", "transport", -9},
                                               {"pattern", "pattern", -10},
                                               {"ranks", "ranks", 5},
                                               {"bytes", "bytes", 11},
                                               {"times", "times", 5},
                                               {"us", "time us", 10, 1},
                                               {"algorithm_gb_per_s", "algbw GB/s", 10, 2},
                                               {"bus_gb_per_s", "busbw GB/s", 10, 2},
                                               {"of_memcpy", "of memcpy", 9, 2},
                                               {"errors", "errors", 6}},
                   argc, argv);
  }
  Bench bench(*comm, report ? &*report : nullptr);
  bench.run();
  return report ? report->finish() : 0;
}

}  // namespace
}  // namespace reshard::bench

int main(int argc, char** argv) { return reshard::bench::run_benchmark(reshard::bench::run, argc, argv); }
