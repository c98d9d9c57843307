// SPDX-License-Identifier: Apache-2.0
#include "reshard/app/engines.h"

#include <fmt/format.h>

#include <map>

#include "reshard/job/runner.h"

namespace reshard::app {
namespace {

constexpr double kNcclPatience_s = 120;  // large jobs take tens of seconds to connect

/// The first rank that could not, and why; empty texts mean that a rank could.
std::string first_reason(comm::Comm& comm, const std::string& mine) {
  const std::vector<std::string> reasons = comm.all_gather(mine);
  for (std::size_t rank = 0; rank < reasons.size(); ++rank) {
    if (reasons[rank].empty()) continue;
    return comm.size() == 1 ? reasons[rank] : fmt::format("rank {}: {}", rank, reasons[rank]);
  }
  return "";
}

}  // namespace

std::string_view to_string(DeviceWish wish) {
  return wish == DeviceWish::cpu ? "cpu" : wish == DeviceWish::cuda ? "cuda" : "auto";
}

std::string_view to_string(ExchangeWish wish) {
  switch (wish) {
    case ExchangeWish::mpi:
      return "mpi";
    case ExchangeWish::nccl:
      return "nccl";
    case ExchangeWish::loopback:
      return "loopback";
    case ExchangeWish::automatic:
      break;
  }
  return "auto";
}

Status Engines::choose_device(comm::Comm& comm) {
  if (device_wish_ == DeviceWish::cpu) {
    device_use_ = {"cpu", "--device cpu"};
    return {};
  }
  Expected<std::unique_ptr<device::Device>> opened = device::open_cuda(comm.local_rank());
  const std::string reason = first_reason(comm, opened ? "" : opened.error().message);
  if (reason.empty()) {
    device_ = *std::move(opened);
    device_use_ = {"cuda", device_->name()};
    return {};
  }
  if (device_wish_ == DeviceWish::cuda) {
    return run_error(fmt::format("--device cuda: {}; say --device cpu to go on without", reason));
  }
  device_use_ = {"cpu", reason};
  return {};
}

Expected<exec::Engine> Engines::engine(comm::Comm& comm, bool exchanges) {
  if (device_use_.name.empty()) RESHARD_CHECK(choose_device(comm));
  if (!exchanges) {
    exchange_use_ = {"none", "nothing moves between ranks"};
    return exec::Engine{device_.get()};
  }
  if (chosen_exchange_.name.empty()) RESHARD_CHECK(choose_exchange(comm));
  exchange_use_ = chosen_exchange_;
  return exec::Engine{device_.get(), groups_.get(), device_ && exchange_wish_ == ExchangeWish::loopback};
}

Status Engines::choose_exchange(comm::Comm& comm) {
  switch (exchange_wish_) {
    case ExchangeWish::loopback:
      chosen_exchange_ = {"loopback", "ranks are threads of one process"};
      return {};
    case ExchangeWish::mpi:
      chosen_exchange_ = {"mpi", "--exchange mpi"};
      return {};
    case ExchangeWish::nccl:
      if (!device_) {
        return run_error(
            fmt::format("--exchange nccl: NCCL moves memory of CUDA devices, and ranks repack on the CPU "
                        "({}); say --exchange mpi",
                        device_use_.reason));
      }
      return start_nccl(comm);
    case ExchangeWish::automatic:
      break;
  }
  if (!device_) {
    chosen_exchange_ = {"mpi", "ranks repack on the CPU"};
    return {};
  }
  // NCCL refuses ranks that share a device.
  std::map<std::string, std::size_t> rank_of;
  const std::vector<std::string> devices = comm.all_gather(job::host_name() + " " + device_->identity());
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    const auto [other, alone] = rank_of.emplace(devices[rank], rank);
    if (alone) continue;
    chosen_exchange_ = {"mpi", fmt::format("ranks {} and {} share a device", other->second, rank)};
    return {};
  }
  return start_nccl(comm);
}

Status Engines::start_nccl(comm::Comm& comm) {
  Expected<std::unique_ptr<device::Nccl>> loaded = device::load_nccl();
  if (const std::string reason = first_reason(comm, loaded ? "" : loaded.error().message); !reason.empty()) {
    if (exchange_wish_ == ExchangeWish::nccl) return run_error(fmt::format("--exchange nccl: {}", reason));
    chosen_exchange_ = {"mpi", reason};
    return {};
  }
  nccl_ = *std::move(loaded);
  Expected<std::unique_ptr<device::Groups>> groups = device::make_nccl_groups(*nccl_, *device_, comm, kNcclPatience_s);
  if (!groups) {
    Error error = std::move(groups).error();
    error.message += "; or say --exchange mpi";
    return error;
  }
  groups_ = *std::move(groups);
  chosen_exchange_ = {"nccl", fmt::format("version {}", device::version_text(nccl_->version()))};
  return {};
}

}  // namespace reshard::app
