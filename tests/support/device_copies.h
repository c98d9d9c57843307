// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "reshard/plan/plan.h"
#include "reshard/repack/op_table.h"

namespace reshard::test {

/// What a device is given at one time: copies of one phase of a round, zero fills, and slots that are long enough.
struct DeviceCase {
  std::string name;
  std::vector<plan::Copy> copies;
  std::vector<plan::Constant> zeros;
  Index slot_bytes[4] = {};
};

DeviceCase one_copy(const std::string& name, const plan::Copy& copy);

/// Every dtype counted and not, and every cast: dense, in rows, transposed, every second element, at random addresses.
std::vector<DeviceCase> every_type(std::mt19937_64& random);
/// Runs of u8 and of bf16 from and to every address modulo 16, of several lengths.
std::vector<DeviceCase> every_alignment();
/// Transposes of elements of 1 to 16 bytes, of even and odd sizes, with few and many matrices.
std::vector<DeviceCase> transposes(std::mt19937_64& random);
std::vector<DeviceCase> random_cases(std::mt19937_64& random, int count);
/// Many copies and zero fills in one table.
DeviceCase crowd(std::mt19937_64& random);
/// Both phases of every round of conversions between formats, on each of two ranks.
std::vector<DeviceCase> conversions();

/// The four slots, each at a multiple of 16 and full of random bytes.
class HostSlots {
 public:
  HostSlots(const DeviceCase& c, std::mt19937_64& random);

  repack::SlotBases bases();
  Index size(int slot) const { return sizes_[slot]; }
  bool operator==(const HostSlots& other) const;

 private:
  struct alignas(16) Unit {
    std::byte bytes[16];
    bool operator==(const Unit&) const = default;
  };
  Index sizes_[4];
  std::vector<Unit> slots_[4];
};

/// What repack::run makes of the slots. Returns the digests, one per copy.
std::vector<std::uint64_t> run_on_cpu(const DeviceCase& c, HostSlots& slots);

repack::OpTable make_table(const DeviceCase& c);

}  // namespace reshard::test
