// SPDX-License-Identifier: Apache-2.0
#include "reshard/io/settings.h"

#include <fmt/format.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <map>

#include "reshard/base/text.h"
#include "settings_state.h"

namespace reshard::io {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

Index num_local_ranks() {
  const auto ranks = parse_size(variable("OMPI_COMM_WORLD_LOCAL_SIZE"));
  return ranks && *ranks > 0 ? *ranks : 1;
}

Status parse_throttle(const std::string& text, Index ranks, Settings& settings) {
  const auto parts = split(text, ',');
  const auto read = parse_size(parts[0]);
  const auto write = parts.size() == 2 ? parse_size(parts[1]) : std::nullopt;
  if (!read || !write) {
    return usage_error(
        fmt::format("RESHARD_IO_THROTTLE: '{}' is not READ,WRITE in bytes per second (for example 200MB,200MB)", text));
  }
  // A limit stays one, however many share it.
  settings.read_bytes_per_s = ceil_div(*read, ranks);
  settings.write_bytes_per_s = ceil_div(*write, ranks);
  return {};
}

Status parse_fault(const std::string& text, Settings::Fault& fault) {
  using Kind = Settings::Fault::Kind;
  static const std::map<std::string, std::pair<Kind, int>> kKinds = {{"EIO", {Kind::fail, EIO}},
                                                                     {"ENOSPC", {Kind::fail, ENOSPC}},
                                                                     {"EDQUOT", {Kind::fail, EDQUOT}},
                                                                     {"EINTR", {Kind::interrupt, 0}},
                                                                     {"SHORT", {Kind::shorten, 0}}};
  const auto colon = text.find(':'), at = text.find('@');
  if (colon != std::string::npos && at != std::string::npos && colon < at) {
    const std::string way = text.substr(0, colon);
    const auto kind = kKinds.find(text.substr(colon + 1, at - colon - 1));
    const auto bytes = parse_size(text.substr(at + 1));
    const bool is_sync = way == "sync" && kind != kKinds.end() && kind->second.first == Kind::fail;
    if ((way == "read" || way == "write" || is_sync) && kind != kKinds.end() && bytes) {
      fault = {kind->second.first, way != "read", kind->second.second, *bytes, is_sync};
      return {};
    }
  }
  return usage_error(
      fmt::format("RESHARD_IO_FAULT: '{}' is not read|write|sync:EIO|ENOSPC|EDQUOT|EINTR|SHORT@BYTES", text));
}

Status parse_kill(const std::string& text, Settings::Kill& kill) {
  const auto at = text.find('@');
  const auto pass = at == std::string::npos ? std::nullopt : parse_size(text.substr(at + 1));
  if (!pass || *pass < 1 || at == 0) {
    return usage_error(fmt::format("RESHARD_IO_KILL: '{}' is not POINT@N (for example synced@2)", text));
  }
  kill = {text.substr(0, at), *pass};
  return {};
}

Expected<Settings>& current() {
  static Expected<Settings> state = [] {
    auto parsed = parse_settings(variable("RESHARD_IO"), variable("RESHARD_IO_THROTTLE"), variable("RESHARD_IO_FAULT"),
                                 variable("RESHARD_IO_KILL"), num_local_ranks());
    if (parsed) apply(*parsed);
    return parsed;
  }();
  return state;
}

}  // namespace

Expected<Settings> parse_settings(const std::string& io, const std::string& throttle, const std::string& fault,
                                  const std::string& kill, Index num_local_ranks) {
  Settings settings;
  if (io == "direct") {
    settings.io = Settings::Io::direct;
  } else if (io == "buffered") {
    settings.io = Settings::Io::buffered;
  } else if (!io.empty() && io != "auto") {
    return usage_error(fmt::format("RESHARD_IO: '{}' is not auto, direct or buffered", io));
  }
  if (!throttle.empty()) RESHARD_CHECK(parse_throttle(throttle, num_local_ranks, settings));
  if (!fault.empty()) RESHARD_CHECK(parse_fault(fault, settings.fault));
  if (!kill.empty()) RESHARD_CHECK(parse_kill(kill, settings.kill));
  return settings;
}

const Expected<Settings>& settings() { return current(); }

void pass(std::string_view point) {
  static std::atomic<Index> passed{0};
  const Expected<Settings>& now = settings();
  if (now && now->kill.point == point && ++passed == now->kill.pass) std::raise(SIGKILL);
}

void set_settings(const Settings& settings) {
  current() = settings;
  apply(settings);
}

}  // namespace reshard::io
