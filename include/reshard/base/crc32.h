// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "reshard/base/index.h"

namespace reshard {

/// CRC-32 of zip and gzip (polynomial 0x04C11DB7, reflected) of what `crc` is the CRC of, followed by `bytes`; start
/// with 0. Pure.
std::uint32_t crc32(std::uint32_t crc, std::span<const std::byte> bytes);

/// CRC-32 of two runs of bytes one after the other, from that of each and the length of the second. Pure; takes
/// microseconds.
std::uint32_t crc32_join(std::uint32_t first, std::uint32_t second, Index second_length);

}  // namespace reshard
