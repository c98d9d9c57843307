// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "reshard/base/index.h"
#include "reshard/repack/op_table.h"

namespace reshard::repack {

/// Loads the kernel now, not at its first launch. Returns a cudaError_t. Local.
int preload();

/// Enqueues the tasks on a stream (a cudaStream_t) of the current device: results are those of `emulate`. Ops, tasks,
/// slots and digests lie in device memory, and stay until the stream has come past. Returns a cudaError_t; 0 is
/// success. Built where a CUDA compiler is (RESHARD_HAS_CUDA). Local.
int launch(const Op* device_ops, const Task* device_tasks, Index num_tasks, const SlotBases& slots,
           std::uint64_t* device_digests, void* stream);

}  // namespace reshard::repack
