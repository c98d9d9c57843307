// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>

#include "reshard/repack/cuda_kernel.h"
#include "tests/support/device_copies.h"
#include "tests/support/random_copies.h"
#include "tests/support/seed.h"

namespace reshard {
namespace {

using test::DeviceCase;
using test::HostSlots;

#define REQUIRE_CUDA(call) ASSERT_EQ(call, cudaSuccess) << cudaGetErrorString(cudaGetLastError())

/// Device memory with the bytes of something on the host.
class DeviceBytes {
 public:
  DeviceBytes(const void* bytes, std::size_t size) : size_(size) {
    if (size == 0) return;
    EXPECT_EQ(cudaMalloc(&at_, size), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(at_, bytes, size, cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceBytes() { cudaFree(at_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(at_);
  }
  cudaError_t copy_back(void* bytes) const {
    return size_ == 0 ? cudaSuccess : cudaMemcpy(bytes, at_, size_, cudaMemcpyDeviceToHost);
  }

 private:
  void* at_ = nullptr;
  std::size_t size_;
};

class CudaRepack : public testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess) GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(error);
    if (devices == 0) GTEST_SKIP() << "no CUDA device is visible";
  }

  /// One table through the kernel does what the CPU does: the same bytes and digests.
  static void check(const DeviceCase& c, std::mt19937_64& random) {
    SCOPED_TRACE(c.name);
    HostSlots slots(c, random);
    HostSlots expected = slots;
    const std::vector<std::uint64_t> sums = test::run_on_cpu(c, expected);
    const repack::OpTable table = test::make_table(c);
    std::vector<std::uint64_t> digests(c.copies.size());
    {
      const DeviceBytes ops(table.ops().data(), table.ops().size_bytes());
      const DeviceBytes tasks(table.tasks().data(), table.tasks().size_bytes());
      const DeviceBytes device_digests(digests.data(), 8 * digests.size());
      const repack::SlotBases bases = slots.bases();
      // Whole multiples of 16 bytes, as the slots are on the host.
      const auto size = [&](int slot) { return static_cast<std::size_t>(round_up(slots.size(slot), 16)); };
      const DeviceBytes device[] = {
          {bases.at[0], size(0)}, {bases.at[1], size(1)}, {bases.at[2], size(2)}, {bases.at[3], size(3)}};
      repack::SlotBases device_bases;
      for (int slot = 0; slot < 4; ++slot) device_bases.at[slot] = device[slot].as<std::byte>();
      REQUIRE_CUDA(repack::launch(ops.as<repack::Op>(), tasks.as<repack::Task>(),
                                  static_cast<Index>(table.tasks().size()), device_bases,
                                  device_digests.as<std::uint64_t>(), nullptr));
      REQUIRE_CUDA(cudaDeviceSynchronize());
      for (int slot = 0; slot < 4; ++slot) REQUIRE_CUDA(device[slot].copy_back(bases.at[slot]));
      REQUIRE_CUDA(device_digests.copy_back(digests.data()));
    }
    ASSERT_TRUE(slots == expected);
    ASSERT_EQ(digests, sums);
  }

  static void check_all(const std::vector<DeviceCase>& cases, std::mt19937_64& random) {
    for (const DeviceCase& c : cases) ASSERT_NO_FATAL_FAILURE(check(c, random));
  }
};

TEST_F(CudaRepack, EveryTypeAsTheCpu) {
  std::mt19937_64 random(1);
  check_all(test::every_type(random), random);
}

TEST_F(CudaRepack, EveryAlignmentAsTheCpu) {
  std::mt19937_64 random(2);
  check_all(test::every_alignment(), random);
}

TEST_F(CudaRepack, TransposesAsTheCpu) {
  std::mt19937_64 random(3);
  check_all(test::transposes(random), random);
}

TEST_F(CudaRepack, RandomCopiesAsTheCpu) {
  const std::uint64_t start = test::seed();
  SCOPED_TRACE("RESHARD_SEED=" + std::to_string(start));
  std::mt19937_64 random(start);
  check_all(test::random_cases(random, 1500), random);
}

TEST_F(CudaRepack, CrowdsAndZerosAsTheCpu) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 5; ++i) ASSERT_NO_FATAL_FAILURE(check(test::crowd(random), random));
}

TEST_F(CudaRepack, ConversionsAsTheCpu) {
  std::mt19937_64 random(5);
  check_all(test::conversions(), random);
}

// Random bytes reach all codes of 16 bits; more tasks than one grid holds.
TEST_F(CudaRepack, LargeCastsAsTheCpu) {
  std::mt19937_64 random(6);
  for (DType src : {DType::bf16, DType::f16, DType::f32}) {
    for (DType dst : {DType::bf16, DType::f16, DType::f32}) {
      check_all({test::one_copy("dense", test::make_copy(src, dst, {{1 << 22, 1, 1, 1}})),
                 test::one_copy("transpose", test::make_copy(src, dst, {{2048, 2048, 1, 2048}, {2048, 1, 2048, 1}}))},
                random);
    }
  }
}

TEST_F(CudaRepack, SlotsBeyondFourGiB) {
  constexpr Index kFar = (Index{5} << 30) + 16;
  std::size_t free_bytes = 0, all_bytes = 0;
  REQUIRE_CUDA(cudaMemGetInfo(&free_bytes, &all_bytes));
  if (free_bytes < (std::size_t{11} << 30)) GTEST_SKIP() << "needs 11 GiB of free device memory";
  void* memory = nullptr;
  REQUIRE_CUDA(cudaMalloc(&memory, static_cast<std::size_t>(2 * (kFar + kMiB))));
  auto* const slots = static_cast<std::byte*>(memory);
  std::mt19937_64 random(7);
  const std::vector<std::byte> values = test::random_bytes(random, kMiB);
  plan::Copy copy = test::make_copy(DType::bf16, DType::bf16, {{kMiB / 2, 1, 1, 1}});
  copy.src_byte = copy.dst_byte = kFar;
  DeviceCase c;
  c.copies = {copy};
  const repack::OpTable table = test::make_table(c);
  const std::uint64_t zero = 0;
  const DeviceBytes ops(table.ops().data(), table.ops().size_bytes());
  const DeviceBytes tasks(table.tasks().data(), table.tasks().size_bytes());
  const DeviceBytes digest(&zero, 8);
  REQUIRE_CUDA(cudaMemcpy(slots + kFar, values.data(), kMiB, cudaMemcpyHostToDevice));
  const repack::SlotBases bases{{slots, slots, slots, slots + kFar + kMiB}};
  REQUIRE_CUDA(repack::launch(ops.as<repack::Op>(), tasks.as<repack::Task>(), static_cast<Index>(table.tasks().size()),
                              bases, digest.as<std::uint64_t>(), nullptr));
  std::vector<std::byte> result(values.size());
  REQUIRE_CUDA(cudaMemcpy(result.data(), bases.at[3] + kFar, kMiB, cudaMemcpyDeviceToHost));
  EXPECT_TRUE(result == values);
  cudaFree(memory);
}

}  // namespace
}  // namespace reshard
