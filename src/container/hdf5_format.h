// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "reshard/base/dtype.h"

// The part of the HDF5 file format (specification version 3.0) that our archives consist of, shared by encoder and
// decoder:
//
//   superblock 2 -> object header 2 of the root group -> link info -> fractal heap (the links) + B-tree 2 (their order
//   by hash)
//                                                                     -> object header 2 of each dataset or group below
//
// All of it carries checksums. Numbers are little-endian, offsets and lengths have 8 bytes.

namespace reshard::container::hdf5 {

inline constexpr std::uint64_t kUndefined = ~std::uint64_t{0};  // as an address: none

inline constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
inline constexpr std::size_t kSuperblockBytes = 48;
inline constexpr std::size_t kChecksumBytes = 4;

// Object headers: prefix "OHDR", version, flags, size of the messages; then messages; then a checksum.
inline constexpr std::size_t kHeaderPrefixBytes = 10;
inline constexpr std::size_t kMessagePrefixBytes = 4;
inline constexpr std::uint8_t kHeaderVersion = 2, kHeaderFlags = 2;  // a size of 4 bytes, no times
enum Message : std::uint8_t {
  kDataspace = 0x01,
  kLinkInfo = 0x02,
  kDatatype = 0x03,
  kFillValue = 0x05,
  kLayout = 0x08,
  kGroupInfo = 0x0a,
  kAttribute = 0x0c,
};
/// Longer texts do not fit into a message with the rest of it and go to the global heap.
inline constexpr std::size_t kMaxShortText = 60'000;

// Link messages, which are the objects of a group's heap: version, flags (UTF-8 name, bytes of its length), charset.
inline constexpr std::uint8_t kLinkVersion = 1, kLinkFlags = 0x10, kUtf8 = 1;

// Fractal heaps: direct blocks of one size, all in the first row of one indirect block.
inline constexpr std::size_t kHeapHeaderBytes = 146, kHeapOffsetBytes = 4, kHeapLengthBytes = 2;
inline constexpr std::size_t kHeapIdBytes = 1 + kHeapOffsetBytes + kHeapLengthBytes;
inline constexpr std::size_t kHeapBlockPrefixBytes = 17;  // of both kinds
inline constexpr std::size_t kDirectPrefixBytes = kHeapBlockPrefixBytes + kChecksumBytes;
inline constexpr std::size_t kMaxHeapObjectBytes = 4096;
inline constexpr std::size_t kMinBlockBytes = 512, kMaxBlockBytes = 64 * 1024;  // of heaps and trees

// B-trees of links: records of hash and heap id; one leaf, or one root over leaves.
inline constexpr std::size_t kTreeHeaderBytes = 38, kNodePrefixBytes = 6;
inline constexpr std::size_t kRecordBytes = 4 + kHeapIdBytes;
inline constexpr std::size_t kChildBytes = 10;  // address, number of records
inline constexpr std::uint8_t kTreeOfLinks = 5;

constexpr std::size_t max_leaf_records(std::size_t node_bytes) {
  return (node_bytes - kNodePrefixBytes - kChecksumBytes) / kRecordBytes;
}

/// Bob Jenkins' lookup3 with seed 0: checksum of metadata, hash of link names.
std::uint32_t checksum(std::string_view bytes);

static_assert(std::endian::native == std::endian::little, "numbers are copied as they lie in memory");

/// Writes a number over what stands at `at`.
inline void put_number(std::string& bytes, std::size_t at, std::uint64_t value, std::size_t num_bytes) {
  std::memcpy(bytes.data() + at, &value, num_bytes);
}
inline void append_number(std::string& bytes, std::uint64_t value, std::size_t num_bytes) {
  bytes.append(reinterpret_cast<const char*>(&value), num_bytes);
}
void append_checksum(std::string& bytes, std::size_t begin);  ///< of all from `begin` on

/// The datatype message of a dataset's elements.
std::string encode_type(DType dtype);
/// The datatype message of a fixed-length text of `bytes` bytes, its final NUL included.
std::string encode_text_type(std::size_t bytes);
/// The datatype message of a text in the global heap.
std::string encode_long_text_type();

}  // namespace reshard::container::hdf5
