// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/machine.h"

#include <fmt/format.h>

#include <algorithm>

#include "reshard/model/machine.h"

namespace reshard::app {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGB = 1e9;

/// Takes the figures of a description, and keeps the first thing that is wrong with one.
class Figures {
 public:
  Figures(const Json& description, std::string path) : description_(description), path_(std::move(path)) {}

  /// "store.read.rank" is description.store.read.rank_gb_per_s, in bytes per second. 0 if it is not given.
  double rate(const std::string& name) { return kGB * figure(name + "_gb_per_s", true); }
  double seconds(const std::string& name) { return figure(name + "_s", false); }
  plan::Limit limit(const std::string& name) {
    return {rate(name + ".rank"), rate(name + ".node"), rate(name + ".all")};
  }
  /// Refuses a description without this rate.
  double needed_rate(const std::string& name, const std::string& reason) {
    const double value = rate(name);
    if (value == 0) complain(fmt::format("the key \"{}_gb_per_s\" is missing: {}", name, reason));
    return value;
  }
  int count(const std::string& name) {
    constexpr Index kMost = 4096;
    const auto& value = description_.at(name);
    if (value > kMost) complain(fmt::format("{}: expected at most {}", name, kMost));
    return static_cast<int>(std::min(value.get<double>(), static_cast<double>(kMost)));
  }
  Status status() const { return status_; }

 private:
  double figure(const std::string& name, bool positive) {
    const Json* at = &description_;
    std::string rest = name;
    for (std::size_t dot; (dot = rest.find('.')) != std::string::npos; rest = rest.substr(dot + 1)) {
      const auto found = at->find(rest.substr(0, dot));
      if (found == at->end()) return 0;
      at = &*found;
    }
    const auto found = at->find(rest);
    if (found == at->end()) return 0;
    const double value = found->get<double>();
    if (positive && value == 0) complain(name + ": expected more than 0; leave a limit out that there is not");
    return value;
  }
  void complain(const std::string& what) {
    if (status_) status_ = usage_error(path_ + ": " + what);
  }

  const Json& description_;
  std::string path_;
  Status status_;
};

}  // namespace

Expected<plan::Machine> find_machine(const std::string& name_or_file) {
  RESHARD_TRY(const Json json, model::machine_description(name_or_file));
  Figures figures(json, name_or_file);
  plan::Machine machine;
  machine.cores_per_node = figures.count("cores_per_node");
  machine.gpus_per_node = figures.count("gpus_per_node");
  machine.read = figures.limit("store.read");
  machine.write = figures.limit("store.write");
  machine.together = figures.limit("store.together");
  machine.host_copy = figures.limit("host_copy");
  machine.mpi_round_s = figures.seconds("host_copy.round");
  machine.network = figures.rate("network.node");
  machine.repack_thread = figures.rate("repack.thread");
  if (machine.gpus_per_node > 0) {
    const std::string reason = fmt::format("\"gpus_per_node\" is {}", machine.gpus_per_node);
    machine.to_device = figures.needed_rate("pcie.to_device", reason);
    machine.to_host = figures.needed_rate("pcie.to_host", reason);
    machine.repack_gpu = figures.needed_rate("repack.gpu", reason);
    if (machine.gpus_per_node > 1) machine.nvlink = figures.needed_rate("nvlink.gpu", reason);
    machine.nccl_round_s = figures.seconds("nvlink.round");
    machine.repack_launch_s = figures.seconds("repack.launch");
  }
  machine.start_s = figures.seconds("start.job");
  machine.start_rank_s = figures.seconds("start.rank");
  machine.start_file_s = figures.seconds("start.file");
  machine.touch = figures.rate("start.touch");
  machine.start_array_s = figures.seconds("start.array");
  machine.finish_s = figures.seconds("finish.job");
  machine.finish_file_s = figures.seconds("finish.file");
  RESHARD_CHECK(figures.status());
  return machine;
}

Expected<std::vector<MachineLine>> list_machines() {
  std::vector<MachineLine> machines;
  for (const std::string& name : model::machine_names()) {
    RESHARD_TRY(const Json description, model::machine_description(name));
    RESHARD_TRY(const plan::Machine machine, find_machine(name));
    machines.push_back({name, description.value("about", ""), machine});
  }
  return machines;
}

Json to_json(const plan::Prediction& prediction) {
  Json stages = Json::array();
  for (const plan::Prediction::Part& part : prediction.parts) {
    stages.push_back({{"stage", to_string(part.stage)},
                      {"seconds", part.seconds},
                      {"limit", part.limit},
                      {"rank_min_seconds", part.rank_min_s},
                      {"rank_max_seconds", part.rank_max_s}});
  }
  Json crossings = Json::array();
  for (const plan::Prediction::Crossing& crossing : prediction.crossings) {
    crossings.push_back({{"stage", to_string(crossing.stage)},
                         {"times_the_store", crossing.factor},
                         {"read_gb_per_s", crossing.read / kGB},
                         {"write_gb_per_s", crossing.write / kGB}});
  }
  return {{"stages", std::move(stages)},
          {"store_together_seconds", prediction.store_together_s},
          {"cores_seconds", prediction.cores_s},
          {"start_seconds", prediction.start_s},
          {"overlapped_seconds", prediction.overlapped_s},
          {"fill_seconds", prediction.fill_s},
          {"finish_seconds", prediction.finish_s},
          {"seconds", prediction.seconds()},
          {"binds", prediction.binds},
          {"limit", prediction.limit},
          {"crossings", std::move(crossings)}};
}

Json to_json(const std::vector<MachineLine>& machines) {
  Json lines = Json::array();
  for (const MachineLine& line : machines) {
    lines.push_back({{"name", line.name},
                     {"about", line.about},
                     {"cores_per_node", line.machine.cores_per_node},
                     {"gpus_per_node", line.machine.gpus_per_node},
                     {"read_gb_per_s", line.machine.read.node / kGB},
                     {"write_gb_per_s", line.machine.write.node / kGB}});
  }
  return {{"command", "list"}, {"what", "machines"}, {"machines", std::move(lines)}};
}

}  // namespace reshard::app
