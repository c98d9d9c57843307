// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "reshard/base/expected.h"

namespace reshard::device {

/// The calls of NCCL that the program makes, each with the meaning that NCCL's documentation gives it: so that the
/// library can be loaded at run time, and recorded by tests. Communicators do not block; calls on them may return
/// in_progress, and then only `async_error` and `abort` may be called until it says otherwise.
class Nccl {
 public:
  enum class Result : int { success = 0, in_progress = 7 };  ///< ncclResult_t; all others are errors
  using Id = std::array<char, 128>;                          ///< ncclUniqueId
  using Communicator = void*;                                ///< ncclComm_t

  virtual ~Nccl() = default;
  virtual int version() = 0;  ///< 22809 for 2.28.9
  virtual std::string text_of(Result error, Communicator communicator) = 0;
  virtual Result get_unique_id(Id& id) = 0;
  virtual Result init_rank(Communicator& communicator, int size, const Id& id, int rank) = 0;
  virtual Result group_start() = 0;
  virtual Result send(const std::byte* bytes, std::size_t length, int peer, Communicator communicator, void* queue) = 0;
  virtual Result receive(std::byte* bytes, std::size_t length, int peer, Communicator communicator, void* queue) = 0;
  virtual Result group_end() = 0;
  virtual Result async_error(Communicator communicator) = 0;
  virtual Result finalize(Communicator communicator) = 0;
  virtual Result destroy(Communicator communicator) = 0;
  virtual Result abort(Communicator communicator) = 0;
};

/// "2.28.9" for 22809.
std::string version_text(int version);

/// libnccl.so.2, loaded now. Errors (failed): built without NCCL's header, no library, one that is too old. Local.
Expected<std::unique_ptr<Nccl>> load_nccl();

}  // namespace reshard::device
