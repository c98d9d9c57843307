// SPDX-License-Identifier: Apache-2.0
#include "reshard/base/crc32.h"

#include <isa-l/crc.h>
#include <zlib.h>

namespace reshard {

std::uint32_t crc32(std::uint32_t crc, std::span<const std::byte> bytes) {
  // ISA-L's takes 64-bit lengths and runs at memory speed; zlib's takes a second per gigabyte.
  return crc32_gzip_refl(crc, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

std::uint32_t crc32_join(std::uint32_t first, std::uint32_t second, Index second_length) {
  return static_cast<std::uint32_t>(::crc32_combine64(first, second, static_cast<z_off64_t>(second_length)));
}

}  // namespace reshard
