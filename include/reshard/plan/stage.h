// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace reshard::plan {

/// What a stream does at the same time; upload (into a device's memory) and download only where a device repacks.
enum class Stage : std::uint8_t { read, upload, repack, exchange, download, write };
inline constexpr std::size_t kStages = 6;
std::string_view to_string(Stage stage);

}  // namespace reshard::plan
