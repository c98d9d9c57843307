// SPDX-License-Identifier: Apache-2.0
#include "reshard/device/nccl.h"
#ifdef RESHARD_HAS_NCCL
#include <dlfcn.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>

namespace reshard::device {
namespace {

constexpr const char* kName = "libnccl.so.2";
constexpr int kOldest = NCCL_VERSION(2, 18, 1);  // aborts of communicators that do not block work from here on

/// The library, found at run time: a program that is linked to it would not start without it. Never unloaded.
class Library : public Nccl {
 public:
  Status load() {
    void* library = ::dlopen(kName, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return run_error(fmt::format("cannot load {}: {}", kName, ::dlerror()));
    const char* missing = nullptr;
    const auto find = [&]<class F>(F*& function, const char* name) {
      function = reinterpret_cast<F*>(::dlsym(library, name));
      if (function == nullptr) missing = name;
    };
    find(get_version_, "ncclGetVersion");
    find(get_error_string_, "ncclGetErrorString");
    find(get_last_error_, "ncclGetLastError");
    find(get_unique_id_, "ncclGetUniqueId");
    find(init_rank_, "ncclCommInitRankConfig");
    find(group_start_, "ncclGroupStart");
    find(group_end_, "ncclGroupEnd");
    find(send_, "ncclSend");
    find(receive_, "ncclRecv");
    find(async_error_, "ncclCommGetAsyncError");
    find(finalize_, "ncclCommFinalize");
    find(destroy_, "ncclCommDestroy");
    find(abort_, "ncclCommAbort");
    if (missing) return run_error(fmt::format("{} is too old: it has no {}", kName, missing));
    if (version() < kOldest) {
      return run_error(fmt::format("{} is too old: version {}, at least {} is needed", kName, version_text(version()),
                                   version_text(kOldest)));
    }
    return {};
  }

  int version() override {
    int version = 0;
    get_version_(&version);
    return version;
  }
  std::string text_of(Result error, Communicator communicator) override {
    const char* last = get_last_error_(handle(communicator));
    const std::string text = get_error_string_(static_cast<ncclResult_t>(error));
    return last && *last ? fmt::format("{} ({})", text, last) : text;
  }
  Result get_unique_id(Id& id) override {
    ncclUniqueId own;
    static_assert(sizeof(own) == sizeof(Id));
    const ncclResult_t result = get_unique_id_(&own);
    std::memcpy(id.data(), &own, sizeof(own));
    return as_result(result);
  }
  Result init_rank(Communicator& communicator, int size, const Id& id, int rank) override {
    ncclUniqueId own;
    std::memcpy(&own, id.data(), sizeof(own));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t made = nullptr;
    const ncclResult_t result = init_rank_(&made, size, own, rank, &config);
    communicator = made;
    return as_result(result);
  }
  Result group_start() override { return as_result(group_start_()); }
  Result group_end() override { return as_result(group_end_()); }
  Result send(const std::byte* bytes, std::size_t length, int peer, Communicator communicator, void* queue) override {
    return as_result(send_(bytes, length, ncclUint8, peer, handle(communicator), static_cast<cudaStream_t>(queue)));
  }
  Result receive(std::byte* bytes, std::size_t length, int peer, Communicator communicator, void* queue) override {
    return as_result(receive_(bytes, length, ncclUint8, peer, handle(communicator), static_cast<cudaStream_t>(queue)));
  }
  Result async_error(Communicator communicator) override {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t result = async_error_(handle(communicator), &state);
    return as_result(result != ncclSuccess ? result : state);
  }
  Result finalize(Communicator communicator) override { return as_result(finalize_(handle(communicator))); }
  Result destroy(Communicator communicator) override { return as_result(destroy_(handle(communicator))); }
  Result abort(Communicator communicator) override { return as_result(abort_(handle(communicator))); }

 private:
  static Result as_result(ncclResult_t result) { return static_cast<Result>(result); }
  static ncclComm_t handle(Communicator communicator) { return static_cast<ncclComm_t>(communicator); }
  static_assert(static_cast<int>(Result::success) == ncclSuccess);
  static_assert(static_cast<int>(Result::in_progress) == ncclInProgress);

  decltype(::ncclGetVersion)* get_version_ = nullptr;
  decltype(::ncclGetErrorString)* get_error_string_ = nullptr;
  decltype(::ncclGetLastError)* get_last_error_ = nullptr;
  decltype(::ncclGetUniqueId)* get_unique_id_ = nullptr;
  decltype(::ncclCommInitRankConfig)* init_rank_ = nullptr;
  decltype(::ncclGroupStart)* group_start_ = nullptr;
  decltype(::ncclGroupEnd)* group_end_ = nullptr;
  decltype(::ncclSend)* send_ = nullptr;
  decltype(::ncclRecv)* receive_ = nullptr;
  decltype(::ncclCommGetAsyncError)* async_error_ = nullptr;
  decltype(::ncclCommFinalize)* finalize_ = nullptr;
  decltype(::ncclCommDestroy)* destroy_ = nullptr;
  decltype(::ncclCommAbort)* abort_ = nullptr;
};

}  // namespace

Expected<std::unique_ptr<Nccl>> load_nccl() {
  auto library = std::make_unique<Library>();
  RESHARD_CHECK(library->load());
  return std::unique_ptr<Nccl>(std::move(library));
}

}  // namespace reshard::device
#else
namespace reshard::device {

Expected<std::unique_ptr<Nccl>> load_nccl() { return run_error("this program was built without NCCL"); }

}  // namespace reshard::device
#endif
