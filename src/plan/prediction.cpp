// SPDX-License-Identifier: Apache-2.0
#include "reshard/plan/prediction.h"

#include <algorithm>
#include <array>
#include <cassert>

namespace reshard::plan {
namespace {

/// Ranks that read headers, at most; the others are told.
constexpr int kHeaderReaders = 64;

/// Bytes of one rank in all its rounds, in the first and in the last.
struct Flow {
  double all = 0, first = 0, last = 0;

  void add(bool is_first, Index bytes) {
    const auto value = static_cast<double>(bytes);
    all += value;
    if (is_first) first = value;
    last = value;
  }
};

struct RankWork {
  Flow read, repacked, written;
  double sent = 0, received = 0;  ///< over links inside the node
  double rounds = 0;
};

/// Bytes on each link in one round. An end is what a message inside a node leaves and enters: a rank, or its GPU.
struct Links {
  std::vector<double> out, in, stays;           // of each end; stays: from a rank of a GPU to another one of it
  std::vector<double> inside;                   // of each node: between its ends
  std::vector<double> network_out, network_in;  // of each node
};

double largest(const std::vector<double>& values) {
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

double sum(const std::vector<double>& values) {
  double total = 0;
  for (const double value : values) total += value;
  return total;
}

/// Seconds; none where there is no limit.
double over(double bytes, double rate) { return rate > 0 ? bytes / rate : 0; }

/// The longest of several times, and what it is of.
struct Longest {
  double seconds = 0;
  std::string_view of;

  void consider(double candidate, std::string_view what) {
    if (candidate <= seconds) return;
    seconds = candidate;
    of = what;
  }
};

}  // namespace

std::string_view to_string(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

std::string_view to_string(Stage stage) {
  constexpr std::array<std::string_view, kStages> kNames = {"read",     "upload",   "repack",
                                                            "exchange", "download", "write"};
  return kNames[static_cast<std::size_t>(stage)];
}

double Prediction::store_s() const {
  double longest = store_together_s;
  for (const Part& part : parts) {
    if (part.stage == Stage::read || part.stage == Stage::write) longest = std::max(longest, part.seconds);
  }
  return longest;
}

struct Predictor::State {
  Machine machine;
  Job job;
  std::vector<RankWork> ranks;
  std::vector<Links> rounds;  // of an exchange

  bool on_gpus() const { return job.device == Device::cuda; }
  int nodes() const { return (job.ranks + job.ranks_per_node - 1) / job.ranks_per_node; }
  int node_of(int rank) const { return rank / job.ranks_per_node; }
  int ranks_beside(int rank) const {
    return std::min(job.ranks_per_node, job.ranks - node_of(rank) * job.ranks_per_node);
  }
  int ends() const { return on_gpus() ? nodes() * machine.gpus_per_node : job.ranks; }
  int end_of(int rank) const {
    if (!on_gpus()) return rank;
    return node_of(rank) * machine.gpus_per_node + rank % job.ranks_per_node % machine.gpus_per_node;
  }
  double end_rate() const { return on_gpus() ? machine.nvlink : machine.host_copy.rank; }
  double message_round_s() const { return on_gpus() ? machine.nccl_round_s : machine.mpi_round_s; }
  int threads_of(int rank) const { return std::max(1, machine.cores_per_node / ranks_beside(rank)); }

  std::vector<double> per_rank(Flow RankWork::*flow) const;
  std::vector<double> per_node(const std::vector<double>& per_rank) const;
  std::vector<double> per_gpu(const std::vector<double>& per_rank) const;
  void limit_by(Longest& longest, const Limit& limit, const std::vector<double>& bytes) const;
  template <class Seconds>
  void note_ranks(Prediction::Part& part, Seconds&& own_seconds) const;

  Prediction::Part store_part(Stage stage, const Limit& limit, Flow RankWork::*flow) const;
  Prediction::Part pcie_part(Stage stage, double rate, Flow RankWork::*flow) const;
  Prediction::Part repack_part() const;
  Prediction::Part exchange_part() const;
  Longest round_time(const Links& links) const;
  double cores_s() const;
  double fill_s(const Prediction& prediction) const;
  void add_crossings(Prediction& prediction) const;
};

std::vector<double> Predictor::State::per_rank(Flow RankWork::*flow) const {
  std::vector<double> bytes;
  for (const RankWork& work : ranks) bytes.push_back((work.*flow).all);
  return bytes;
}

std::vector<double> Predictor::State::per_node(const std::vector<double>& per_rank) const {
  std::vector<double> bytes(static_cast<std::size_t>(nodes()), 0.0);
  for (int rank = 0; rank < job.ranks; ++rank) {
    bytes[static_cast<std::size_t>(node_of(rank))] += per_rank[static_cast<std::size_t>(rank)];
  }
  return bytes;
}

std::vector<double> Predictor::State::per_gpu(const std::vector<double>& per_rank) const {
  std::vector<double> bytes(static_cast<std::size_t>(ends()), 0.0);
  for (int rank = 0; rank < job.ranks; ++rank) {
    bytes[static_cast<std::size_t>(end_of(rank))] += per_rank[static_cast<std::size_t>(rank)];
  }
  return bytes;
}

/// `bytes` has one value per rank.
void Predictor::State::limit_by(Longest& longest, const Limit& limit, const std::vector<double>& bytes) const {
  longest.consider(over(largest(bytes), limit.rank), "a rank");
  longest.consider(over(largest(per_node(bytes)), limit.node), "a node");
  longest.consider(over(sum(bytes), limit.all), "the whole store");
}

template <class Seconds>
void Predictor::State::note_ranks(Prediction::Part& part, Seconds&& own_seconds) const {
  part.rank_min_s = own_seconds(0);
  for (int rank = 0; rank < job.ranks; ++rank) {
    part.rank_min_s = std::min(part.rank_min_s, own_seconds(rank));
    part.rank_max_s = std::max(part.rank_max_s, own_seconds(rank));
  }
}

Prediction::Part Predictor::State::store_part(Stage stage, const Limit& limit, Flow RankWork::*flow) const {
  Prediction::Part part{.stage = stage};
  Longest longest;
  limit_by(longest, limit, per_rank(flow));
  part.seconds = longest.seconds;
  part.limit = longest.of;
  for (int rank = 0; rank < job.ranks; ++rank) {
    const Flow& own = ranks[static_cast<std::size_t>(rank)].*flow;
    const auto at_share = [&](double bytes) {
      return std::max(
          {over(bytes, limit.rank), over(bytes * ranks_beside(rank), limit.node), over(bytes * job.ranks, limit.all)});
    };
    part.first_s = std::max(part.first_s, at_share(own.first));
    part.last_s = std::max(part.last_s, at_share(own.last));
  }
  note_ranks(part, [&](int rank) { return over((ranks[static_cast<std::size_t>(rank)].*flow).all, limit.rank); });
  return part;
}

Prediction::Part Predictor::State::pcie_part(Stage stage, double rate, Flow RankWork::*flow) const {
  Prediction::Part part{.stage = stage};
  const std::vector<double> bytes = per_rank(flow);
  part.seconds = over(largest(per_gpu(bytes)), rate);
  if (part.seconds > 0) part.limit = "PCIe of a GPU";
  for (const RankWork& work : ranks) {
    part.first_s = std::max(part.first_s, over((work.*flow).first, rate));
    part.last_s = std::max(part.last_s, over((work.*flow).last, rate));
  }
  note_ranks(part, [&](int rank) { return over(bytes[static_cast<std::size_t>(rank)], rate); });
  return part;
}

Prediction::Part Predictor::State::repack_part() const {
  Prediction::Part part{.stage = Stage::repack};
  const auto own_seconds = [&](int rank, double bytes, double launches) {
    if (on_gpus()) return over(bytes, machine.repack_gpu) + launches * machine.repack_launch_s;
    return over(bytes, machine.repack_thread * threads_of(rank));
  };
  std::vector<double> alone;
  for (int rank = 0; rank < job.ranks; ++rank) {
    const RankWork& work = ranks[static_cast<std::size_t>(rank)];
    alone.push_back(own_seconds(rank, work.repacked.all, work.rounds));
    part.first_s = std::max(part.first_s, own_seconds(rank, work.repacked.first, 1));
    part.last_s = std::max(part.last_s, own_seconds(rank, work.repacked.last, 1));
  }
  part.seconds = on_gpus() ? largest(per_gpu(alone)) : largest(alone);
  if (part.seconds > 0) part.limit = on_gpus() ? "kernels of a GPU" : "threads of a rank";
  note_ranks(part, [&](int rank) { return alone[static_cast<std::size_t>(rank)]; });
  return part;
}

Longest Predictor::State::round_time(const Links& links) const {
  Longest longest;
  const std::string_view end = on_gpus() ? "NVLink of a GPU" : "messages of a rank";
  longest.consider(over(largest(links.out), end_rate()), end);
  longest.consider(over(largest(links.in), end_rate()), end);
  longest.consider(over(largest(links.stays), machine.repack_gpu), "copies in a GPU");
  if (!on_gpus()) longest.consider(over(largest(links.inside), machine.host_copy.node), "memory of a node");
  longest.consider(over(largest(links.network_out), machine.network), "network of a node");
  longest.consider(over(largest(links.network_in), machine.network), "network of a node");
  return longest;
}

/// Ranks walk the rounds of an exchange in step: each round takes as long as its busiest link.
Prediction::Part Predictor::State::exchange_part() const {
  Prediction::Part part{.stage = Stage::exchange};
  std::vector<std::pair<std::string_view, double>> by_link;
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const Longest longest = round_time(rounds[i]);
    if (longest.of.empty()) continue;
    const double seconds = longest.seconds + message_round_s();
    part.seconds += seconds;
    part.last_s = seconds;
    if (i == 0) part.first_s = seconds;
    auto found = std::find_if(by_link.begin(), by_link.end(), [&](const auto& one) { return one.first == longest.of; });
    if (found == by_link.end()) found = by_link.insert(by_link.end(), {longest.of, 0.0});
    found->second += seconds;
  }
  Longest most;
  for (const auto& [link, seconds] : by_link) most.consider(seconds, link);
  part.limit = most.of;
  note_ranks(part, [&](int rank) {
    const RankWork& work = ranks[static_cast<std::size_t>(rank)];
    return over(std::max(work.sent, work.received), end_rate());
  });
  return part;
}

/// Threads that repack and threads that move messages share the cores of a node.
double Predictor::State::cores_s() const {
  if (on_gpus()) return 0;
  std::vector<double> thread_s;
  for (const RankWork& work : ranks) {
    thread_s.push_back(over(work.repacked.all, machine.repack_thread) + over(work.received, machine.host_copy.rank));
  }
  return largest(per_node(thread_s)) / machine.cores_per_node;
}

double Predictor::State::fill_s(const Prediction& prediction) const {
  const bool together = prediction.store_together_s == prediction.overlapped_s;
  Stage at = Stage::repack;  // where cores bind
  for (const Prediction::Part& part : prediction.parts) {
    if (part.seconds == prediction.overlapped_s) at = part.stage;
  }
  double seconds = 0;
  for (const Prediction::Part& part : prediction.parts) {
    const bool of_store = part.stage == Stage::read || part.stage == Stage::write;
    if (together) {
      if (!of_store) seconds += part.first_s;
    } else if (part.stage < at) {
      seconds += part.first_s;
    } else if (part.stage > at) {
      seconds += part.last_s;
    }
  }
  return seconds;
}

void Predictor::State::add_crossings(Prediction& prediction) const {
  const double store_s = prediction.store_s();
  for (const Prediction::Part& part : prediction.parts) {
    if (part.stage == Stage::read || part.stage == Stage::write || part.seconds == 0 || store_s == 0) continue;
    prediction.crossings.push_back({part.stage, store_s / part.seconds, sum(per_rank(&RankWork::read)) / part.seconds,
                                    sum(per_rank(&RankWork::written)) / part.seconds});
  }
}

Predictor::Predictor(const Machine& machine, const Job& job) : state_(std::make_unique<State>()) {
  assert(job.ranks >= 1 && job.ranks_per_node >= 1);
  assert(job.device == Device::cpu || machine.gpus_per_node >= 1);
  state_->machine = machine;
  state_->job = job;
  state_->ranks.resize(static_cast<std::size_t>(job.ranks));
}

Predictor::~Predictor() = default;

void Predictor::add(int rank, Index number, const Round& round) {
  State& state = *state_;
  Index read = 0, written = 0, sent = 0;
  for (const Read& one : round.reads) read += one.length;
  for (const Write& one : round.writes) written += one.length;
  if (!round.sends.empty() && state.rounds.size() <= static_cast<std::size_t>(number)) {
    const std::vector<double> ends(static_cast<std::size_t>(state.ends()), 0.0);
    const std::vector<double> nodes(static_cast<std::size_t>(state.nodes()), 0.0);
    state.rounds.resize(static_cast<std::size_t>(number) + 1, {ends, ends, ends, nodes, nodes, nodes});
  }
  const auto src_node = static_cast<std::size_t>(state.node_of(rank));
  const auto src_end = static_cast<std::size_t>(state.end_of(rank));
  for (const Message& message : round.sends) {
    Links& links = state.rounds[static_cast<std::size_t>(number)];
    const auto bytes = static_cast<double>(message.length);
    const auto dst_node = static_cast<std::size_t>(state.node_of(message.peer));
    const auto dst_end = static_cast<std::size_t>(state.end_of(message.peer));
    sent += message.length;
    if (src_node != dst_node) {
      links.network_out[src_node] += bytes;
      links.network_in[dst_node] += bytes;
    } else if (src_end == dst_end) {
      links.stays[src_end] += bytes;
    } else {
      links.out[src_end] += bytes;
      links.in[dst_end] += bytes;
      links.inside[src_node] += bytes;
      state.ranks[static_cast<std::size_t>(rank)].sent += bytes;
      state.ranks[static_cast<std::size_t>(message.peer)].received += bytes;
    }
  }
  RankWork& work = state.ranks[static_cast<std::size_t>(rank)];
  const bool is_first = work.rounds == 0;
  work.read.add(is_first, read);
  work.repacked.add(is_first, written + sent);
  work.written.add(is_first, written);
  work.rounds += 1;
}

Prediction Predictor::finish() const {
  const State& state = *state_;
  const Machine& machine = state.machine;
  const Job& job = state.job;
  Prediction result;
  result.parts.push_back(state.store_part(Stage::read, machine.read, &RankWork::read));
  if (state.on_gpus()) result.parts.push_back(state.pcie_part(Stage::upload, machine.to_device, &RankWork::read));
  result.parts.push_back(state.repack_part());
  result.parts.push_back(state.exchange_part());
  if (state.on_gpus()) result.parts.push_back(state.pcie_part(Stage::download, machine.to_host, &RankWork::written));
  result.parts.push_back(state.store_part(Stage::write, machine.write, &RankWork::written));

  std::vector<double> both = state.per_rank(&RankWork::read);
  const std::vector<double> written = state.per_rank(&RankWork::written);
  for (std::size_t rank = 0; rank < both.size(); ++rank) both[rank] += written[rank];
  Longest together;
  state.limit_by(together, machine.together, both);
  result.store_together_s = together.seconds;
  result.cores_s = state.cores_s();

  Longest busiest;
  for (const Prediction::Part& part : result.parts) busiest.consider(part.seconds, to_string(part.stage));
  busiest.consider(together.seconds, "read and write together");
  busiest.consider(result.cores_s, "cores");
  result.overlapped_s = busiest.seconds;
  result.binds = busiest.of;
  result.limit = busiest.of == "cores" ? "a node" : together.of;
  for (const Prediction::Part& part : result.parts) {
    if (busiest.of == to_string(part.stage)) result.limit = part.limit;
  }

  const auto count = [](Index n) { return static_cast<double>(n); };
  result.start_s = machine.start_s + machine.start_rank_s * (job.ranks - 1) +
                   machine.start_array_s * count(job.arrays) +
                   machine.start_file_s * count(ceil_div(job.src_files, std::min(job.ranks, kHeaderReaders))) +
                   over(count(job.slot_bytes) * state.ranks_beside(0), machine.touch);
  result.finish_s = machine.finish_s + machine.finish_file_s * count(job.dst_files);
  result.fill_s = state.fill_s(result);
  state.add_crossings(result);
  return result;
}

}  // namespace reshard::plan
