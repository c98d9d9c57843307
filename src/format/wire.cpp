// SPDX-License-Identifier: Apache-2.0
#include "wire.h"

#include <cassert>
#include <cstring>

namespace reshard::format {

void Packer::number(Index value) {
  // Zigzag varint: most numbers are small shapes.
  std::uint64_t rest = static_cast<std::uint64_t>(value) << 1 ^ static_cast<std::uint64_t>(value >> 63);
  do {
    const unsigned low = static_cast<unsigned>(rest & 0x7F);
    rest >>= 7;
    bytes_.push_back(static_cast<char>(low | (rest != 0 ? 0x80u : 0u)));
  } while (rest != 0);
}

void Packer::text(std::string_view value) {
  number(static_cast<Index>(value.size()));
  bytes_.append(value);
}

Index Unpacker::number() {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    assert(at_ < bytes_.size() && shift < 64);
    const auto byte = static_cast<std::uint8_t>(bytes_[at_++]);
    value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) break;
  }
  return static_cast<Index>(value >> 1) ^ -static_cast<Index>(value & 1);
}

std::string Unpacker::text() {
  const auto length = static_cast<std::size_t>(number());
  assert(length <= bytes_.size() - at_);
  std::string value(bytes_.substr(at_, length));
  at_ += length;
  return value;
}

Expected<std::string> from_root(comm::Comm& comm, const std::function<Expected<std::string>()>& produce) {
  std::string message;
  if (comm.rank() == 0) {
    Expected<std::string> result = produce();
    Packer packer;
    packer.number(result ? 0 : static_cast<Index>(result.error().code));
    packer.text(result ? *result : result.error().message);
    message = packer.take();
  }
  comm.broadcast(message, 0);
  Unpacker unpacker(message);
  const Index code = unpacker.number();
  std::string text = unpacker.text();
  if (code != 0) return Error{static_cast<Code>(code), std::move(text)};
  return text;
}

}  // namespace reshard::format
