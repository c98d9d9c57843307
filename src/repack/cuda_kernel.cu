// SPDX-License-Identifier: Apache-2.0
#include "reshard/repack/cuda_kernel.h"
