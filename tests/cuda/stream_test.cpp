// SPDX-License-Identifier: Apache-2.0
// Streams on a real device: virtual ranks that share it, with messages through the host and within the device.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "reshard/device/device.h"
#include "tests/support/streams.h"

namespace reshard {
namespace {

class CudaStream : public testing::Test {
 protected:
  void SetUp() override {
    if (cudaGetDeviceCount(&devices_) != cudaSuccess || devices_ == 0) GTEST_SKIP() << device::describe_cuda();
  }
  int devices_ = 0;

  static void run(bool messages_on_device) {
    for (std::uint64_t seed = 0; seed < 24; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      std::mt19937_64 random(seed);
      test::JobShape shape;
      shape.ranks = 1 + static_cast<int>(seed % 4);
      shape.exchange = seed % 3 != 0;
      shape.depth = 1 + static_cast<int>(seed % 4);
      shape.slot_bytes = seed % 2 ? 20000 : 400000;
      const test::Job job = test::random_job(random, shape);
      const auto body = [&](comm::Comm& comm) {
        const auto device = device::open_cuda(comm.rank());
        ASSERT_TRUE(device) << device.error().message;
        exec::Options options;
        options.engine.device = device->get();
        options.engine.messages_on_device = messages_on_device;
        test::expect_naive_result(comm, job, options);
      };
      comm::run_virtual_ranks(shape.ranks, body, device::copy_any);
    }
  }
};

TEST_F(CudaStream, MessagesThroughTheHost) { run(false); }
TEST_F(CudaStream, MessagesWithinTheDevice) { run(true); }

TEST_F(CudaStream, TooMuchMemoryIsOneLine) {
  const auto device = device::open_cuda(0);
  ASSERT_TRUE(device);
  const auto memory = (*device)->allocate(Index{1} << 50);
  ASSERT_FALSE(memory);
  EXPECT_NE(memory.error().message.find("--device-memory-budget"), std::string::npos) << memory.error().message;
  // And the device goes on.
  EXPECT_TRUE((*device)->allocate(kMiB));
}

TEST_F(CudaStream, RanksTakeDevicesInTurn) {
  const auto first = device::open_cuda(0), second = device::open_cuda(1), again = device::open_cuda(devices_);
  ASSERT_TRUE(first && second && again);
  EXPECT_EQ((*first)->identity(), (*again)->identity());
  EXPECT_EQ((*first)->identity() == (*second)->identity(), devices_ == 1);
}

}  // namespace
}  // namespace reshard
