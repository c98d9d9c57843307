// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "op_kernel.h"
#include "reshard/repack/cuda_kernel.h"

namespace reshard::repack {
namespace {

// Blocks that one multiprocessor holds at a time: 80 registers per thread.
constexpr unsigned kBlocksPerProcessor = 3;
constexpr unsigned kWarps = kThreads / 32;

template <unsigned kBytes>
struct alignas(kBytes) Packet {
  std::uint32_t word[kBytes / 4];
};
template <>
struct alignas(2) Packet<2> {
  std::uint16_t word[1];
};
template <>
struct alignas(1) Packet<1> {
  std::uint8_t word[1];
};

struct DeviceMemory {
  template <unsigned kBytes>
  __device__ Words<kBytes> load(const std::byte* from) const {
    const Packet<kBytes> packet = *reinterpret_cast<const Packet<kBytes>*>(from);
    Words<kBytes> words;
    RESHARD_UNROLL
    for (unsigned i = 0; i < words.kCount; ++i) words.word[i] = packet.word[i];
    return words;
  }
  template <unsigned kBytes>
  __device__ void store(std::byte* to, const Words<kBytes>& words) const {
    Packet<kBytes> packet;
    RESHARD_UNROLL
    for (unsigned i = 0; i < words.kCount; ++i) packet.word[i] = words.word[i];
    *reinterpret_cast<Packet<kBytes>*>(to) = packet;
  }
};

__device__ std::uint64_t sum_of_warp(std::uint64_t value) {
  RESHARD_UNROLL
  for (unsigned lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, lanes);
  return value;
}

// A fixed grid walks over the tasks; of each that counts, one addition to the digest.
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    run_tasks(const Op* __restrict__ ops, const Task* __restrict__ tasks, Index num_tasks, SlotBases slots,
              std::uint64_t* digests) {
  // Two sets by turns: one barrier per task is enough, for a set is free again once all have come past the next one.
  __shared__ std::uint64_t sums[2][kWarps];
  int set = 0;
  DeviceMemory memory;
  for (Index i = blockIdx.x; i < num_tasks; i += gridDim.x) {
    const Task task = tasks[i];
    const Op& op = ops[task.op];
    std::uint64_t sum = run_thread(memory, op, task.part, threadIdx.x, slots);
    if (!op.counts) continue;
    sum = sum_of_warp(sum);
    if (threadIdx.x % 32 == 0) sums[set][threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
      sum = sum_of_warp(threadIdx.x < kWarps ? sums[set][threadIdx.x] : 0);
      if (threadIdx.x == 0) atomicAdd(reinterpret_cast<unsigned long long*>(digests + op.digest), sum);
    }
    set ^= 1;
  }
}

}  // namespace

int preload() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, run_tasks);
}

int launch(const Op* device_ops, const Task* device_tasks, Index num_tasks, const SlotBases& slots,
           std::uint64_t* device_digests, void* stream) {
  if (num_tasks == 0) return cudaSuccess;
  int device = 0, processors = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (const cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device)) {
    return error;
  }
  const auto blocks = static_cast<unsigned>(std::min<Index>(num_tasks, Index{processors} * kBlocksPerProcessor));
  // Says what became of this launch, where cudaGetLastError() may speak of an earlier call.
  SlotBases bases = slots;
  void* arguments[] = {&device_ops, &device_tasks, &num_tasks, &bases, &device_digests};
  return cudaLaunchKernel(run_tasks, dim3(blocks), dim3(kThreads), arguments, 0, static_cast<cudaStream_t>(stream));
}

}  // namespace reshard::repack
