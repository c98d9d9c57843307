// SPDX-License-Identifier: Apache-2.0
#ifdef RESHARD_HAS_CUDA
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <utility>

#include "reshard/device/device.h"
#include "reshard/repack/cuda_kernel.h"

namespace reshard::device {
namespace {

constexpr int kLeastMajor = 8;  // compute capability that the program has code for

Error failure(std::string_view what, cudaError_t error) {
  return run_error(fmt::format("cannot {}: {} ({})", what, cudaGetErrorString(error), cudaGetErrorName(error)));
}

std::string cuda_version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

/// Event, stream: destroyed with their owner.
struct EventDeleter {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDeleter>;

struct StreamDeleter {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter>;

Expected<Event> record(cudaStream_t stream) {
  cudaEvent_t event = nullptr;
  cudaError_t error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  Event owner(event);
  if (error == cudaSuccess) error = cudaEventRecord(event, stream);
  if (error != cudaSuccess) return failure("record an event", error);
  return owner;
}

class PendingEvent : public Pending {
 public:
  explicit PendingEvent(Event event) : event_(std::move(event)) {}
  Expected<bool> test() override {
    const cudaError_t error = cudaEventQuery(event_.get());
    if (error == cudaErrorNotReady) return false;
    if (error != cudaSuccess) return failure("finish work on the device", error);
    return true;
  }

 private:
  Event event_;
};

/// What a table needs while the device works on it: the same bytes on both sides, [ops | tasks | digests].
struct TableBuffer {
  std::byte* host = nullptr;
  std::byte* device = nullptr;
  std::size_t capacity = 0;

  TableBuffer() = default;
  TableBuffer(const TableBuffer&) = delete;
  ~TableBuffer() {
    if (host) cudaFreeHost(host);
    if (device) cudaFree(device);
  }
  cudaError_t allocate(std::size_t bytes) {
    cudaError_t error = cudaMallocHost(reinterpret_cast<void**>(&host), bytes);
    if (error == cudaSuccess) error = cudaMalloc(reinterpret_cast<void**>(&device), bytes);
    if (error == cudaSuccess) capacity = bytes;
    return error;
  }
};

/// Buffers that wait for their next table. Some are made before anything runs, and none is freed before the device
/// goes: allocating and freeing may wait for all that is under way.
class TablePool {
 public:
  static constexpr std::size_t kFirstBytes = 1 << 20;
  static constexpr int kFirst = 12;  // three tables of four rounds

  cudaError_t fill() {
    for (int i = 0; i < kFirst; ++i) {
      auto buffer = std::make_unique<TableBuffer>();
      if (const cudaError_t error = buffer->allocate(kFirstBytes); error != cudaSuccess) return error;
      free_.push_back(std::move(buffer));
    }
    return cudaSuccess;
  }
  /// One of at least so many bytes.
  cudaError_t take(std::size_t bytes, std::unique_ptr<TableBuffer>& buffer) {
    {
      const std::lock_guard lock(mutex_);
      const auto fits =
          std::find_if(free_.begin(), free_.end(), [&](const auto& one) { return one->capacity >= bytes; });
      if (fits != free_.end()) {
        buffer = std::move(*fits);
        free_.erase(fits);
        return cudaSuccess;
      }
    }
    std::size_t wanted = kFirstBytes;
    while (wanted < bytes) wanted *= 2;
    buffer = std::make_unique<TableBuffer>();
    return buffer->allocate(wanted);
  }
  void give(std::unique_ptr<TableBuffer> buffer) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(buffer));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<TableBuffer>> free_;
};

class PendingTable : public Pending {
 public:
  PendingTable(Event event, TablePool& pool, std::unique_ptr<TableBuffer> buffer, std::size_t digests_at,
               std::span<std::uint64_t> digests)
      : event_(std::move(event)), pool_(pool), buffer_(std::move(buffer)), at_(digests_at), digests_(digests) {}
  Expected<bool> test() override {
    RESHARD_TRY(const bool done, event_.test());
    if (done && buffer_) {
      for (std::size_t i = 0; i < digests_.size(); ++i) {
        std::uint64_t sum;
        std::memcpy(&sum, buffer_->host + at_ + i * sizeof(sum), sizeof(sum));
        digests_[i] += sum;
      }
      pool_.give(std::move(buffer_));
    }
    return done;
  }

 private:
  PendingEvent event_;
  TablePool& pool_;
  std::unique_ptr<TableBuffer> buffer_;
  std::size_t at_;
  std::span<std::uint64_t> digests_;
};

class CudaDevice : public Device {
 public:
  CudaDevice(int number, const cudaDeviceProp& properties)
      : number_(number),
        name_(fmt::format("{} (device {})", properties.name, number)),
        identity_(
            fmt::format("{:04x}:{:02x}:{:02x}", properties.pciDomainID, properties.pciBusID, properties.pciDeviceID)) {}
  ~CudaDevice() override { cudaSetDevice(number_); }

  Status start() {
    RESHARD_CHECK(use());
    for (Stream* stream : {&upload_, &repack_, &download_, &exchange_}) {
      cudaStream_t made = nullptr;
      const cudaError_t error = cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
      if (error != cudaSuccess) return failure(fmt::format("start on {}", name_), error);
      stream->reset(made);
    }
    // What would otherwise be loaded or made while transfers are under way, and wait for them.
    cudaError_t error = static_cast<cudaError_t>(repack::preload());
    if (error == cudaSuccess) error = tables_.fill();
    if (error != cudaSuccess) return failure(fmt::format("start on {}", name_), error);
    return {};
  }

  std::string name() const override { return name_; }
  std::string identity() const override { return identity_; }

  Expected<std::shared_ptr<std::byte>> allocate(Index bytes) override {
    RESHARD_CHECK(use());
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<std::size_t>(std::max<Index>(bytes, 1)));
    if (error != cudaSuccess) {
      return run_error(
          fmt::format("{}: cannot get {} bytes of its memory for buffers: {}; give a smaller "
                      "--device-memory-budget",
                      name_, bytes, cudaGetErrorString(error)));
    }
    return std::shared_ptr<std::byte>(static_cast<std::byte*>(memory), [](std::byte* p) { cudaFree(p); });
  }

  Expected<std::shared_ptr<void>> pin(std::span<std::byte> memory) override {
    if (memory.empty()) return std::shared_ptr<void>();
    RESHARD_CHECK(use());
    const cudaError_t error = cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable);
    if (error != cudaSuccess) {
      return failure(fmt::format("pin {} bytes of memory (is there a limit, ulimit -l?)", memory.size()), error);
    }
    return std::shared_ptr<void>(memory.data(), [](void* p) { cudaHostUnregister(p); });
  }

  Expected<std::unique_ptr<Pending>> upload(std::byte* device, const std::byte* host,
                                            const std::vector<Range>& ranges) override {
    return transfer(upload_.get(), device, host, ranges, cudaMemcpyHostToDevice);
  }
  Expected<std::unique_ptr<Pending>> download(std::byte* host, const std::byte* device,
                                              const std::vector<Range>& ranges) override {
    return transfer(download_.get(), host, device, ranges, cudaMemcpyDeviceToHost);
  }

  Expected<std::unique_ptr<Pending>> repack(const repack::OpTable& table, const repack::SlotBases& slots,
                                            std::span<std::uint64_t> digests) override {
    RESHARD_CHECK(use());
    const auto ops = std::as_bytes(table.ops()), tasks = std::as_bytes(table.tasks());
    const std::size_t tasks_at = ops.size(), digests_at = tasks_at + tasks.size(), digest_bytes = digests.size_bytes();
    std::unique_ptr<TableBuffer> buffer;
    cudaError_t error = tables_.take(digests_at + digest_bytes, buffer);
    if (error != cudaSuccess) {
      return run_error(
          fmt::format("{}: cannot get {} bytes for a table of copies: {}; give a smaller "
                      "--device-memory-budget",
                      name_, digests_at + digest_bytes, cudaGetErrorString(error)));
    }
    std::memcpy(buffer->host, ops.data(), ops.size());
    std::memcpy(buffer->host + tasks_at, tasks.data(), tasks.size());
    std::memset(buffer->host + digests_at, 0, digest_bytes);
    cudaStream_t stream = repack_.get();
    error = cudaMemcpyAsync(buffer->device, buffer->host, digests_at + digest_bytes, cudaMemcpyHostToDevice, stream);
    if (error == cudaSuccess) {
      error = static_cast<cudaError_t>(repack::launch(
          reinterpret_cast<const repack::Op*>(buffer->device),
          reinterpret_cast<const repack::Task*>(buffer->device + tasks_at), static_cast<Index>(table.tasks().size()),
          slots, reinterpret_cast<std::uint64_t*>(buffer->device + digests_at), stream));
    }
    if (error == cudaSuccess && digest_bytes > 0) {
      error = cudaMemcpyAsync(buffer->host + digests_at, buffer->device + digests_at, digest_bytes,
                              cudaMemcpyDeviceToHost, stream);
    }
    Expected<Event> event = error == cudaSuccess ? record(stream) : Expected<Event>(failure("start a kernel", error));
    if (!event) {
      // The buffer may be in use.
      cudaStreamSynchronize(stream);
      return event.error();
    }
    return std::unique_ptr<Pending>(
        std::make_unique<PendingTable>(*std::move(event), tables_, std::move(buffer), digests_at, digests));
  }

  void* exchange_queue() override {
    cudaSetDevice(number_);  // what goes into it belongs to the current device
    return exchange_.get();
  }
  Expected<std::unique_ptr<Pending>> mark_exchange() override { return mark(exchange_.get()); }

 private:
  // The current device belongs to the calling thread.
  Status use() const {
    const cudaError_t error = cudaSetDevice(number_);
    if (error != cudaSuccess) return failure(fmt::format("use {}", name_), error);
    return {};
  }

  Expected<std::unique_ptr<Pending>> mark(cudaStream_t stream) {
    RESHARD_CHECK(use());
    RESHARD_TRY(Event event, record(stream));
    return std::unique_ptr<Pending>(std::make_unique<PendingEvent>(std::move(event)));
  }

  Expected<std::unique_ptr<Pending>> transfer(cudaStream_t stream, std::byte* to, const std::byte* from,
                                              const std::vector<Range>& ranges, cudaMemcpyKind kind) {
    RESHARD_CHECK(use());
    for (const Range& range : ranges) {
      const cudaError_t error =
          cudaMemcpyAsync(to + range.offset, from + range.offset, static_cast<std::size_t>(range.length), kind, stream);
      if (error != cudaSuccess) {
        cudaStreamSynchronize(stream);
        return failure("copy to or from the device", error);
      }
    }
    auto marked = mark(stream);
    if (!marked) cudaStreamSynchronize(stream);  // the copies go on without the event
    return marked;
  }

  const int number_;
  const std::string name_, identity_;
  Stream upload_, repack_, download_, exchange_;
  TablePool tables_;
};

/// How many devices there are, or why none can be used.
Expected<int> count_devices() {
  int driver = 0, runtime = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return run_error("no CUDA driver is installed here");
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    return run_error(fmt::format("the CUDA driver is too old: it supports CUDA {}, at least {} is needed",
                                 cuda_version_text(driver), cuda_version_text(runtime)));
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    return run_error("no CUDA device is visible (is CUDA_VISIBLE_DEVICES set?)");
  }
  if (error != cudaSuccess) return failure("count the CUDA devices", error);
  return count;
}

}  // namespace

Expected<std::unique_ptr<Device>> open_cuda(int local_rank) {
  RESHARD_TRY(const int count, count_devices());
  const int number = local_rank % count;
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, number);
  if (error != cudaSuccess) return failure(fmt::format("look at CUDA device {}", number), error);
  if (properties.major < kLeastMajor) {
    return run_error(fmt::format("{} (device {}) has compute capability {}.{}, at least {}.0 is needed",
                                 properties.name, number, properties.major, properties.minor, kLeastMajor));
  }
  auto device = std::make_unique<CudaDevice>(number, properties);
  RESHARD_CHECK(device->start());
  return std::unique_ptr<Device>(std::move(device));
}

Status copy_any(std::byte* to, const std::byte* from, std::size_t bytes) {
  const auto is_on_device = [](const std::byte* memory) {
    cudaPointerAttributes attributes;
    return cudaPointerGetAttributes(&attributes, memory) == cudaSuccess && attributes.type == cudaMemoryTypeDevice;
  };
  if (!is_on_device(to) && !is_on_device(from)) {
    std::memcpy(to, from, bytes);
    return {};
  }
  cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cudaStreamPerThread);
  if (error == cudaSuccess) error = cudaStreamSynchronize(cudaStreamPerThread);
  return error == cudaSuccess ? Status() : failure("copy within the device", error);
}

std::string describe_cuda() {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  const Expected<int> count = count_devices();
  cudaDeviceProp properties;
  if (!count) return fmt::format("{} ({})", cuda_version_text(runtime), count.error().message);
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) properties.name[0] = '\0';
  return fmt::format("{}, driver {}, {} x {}", cuda_version_text(runtime), cuda_version_text(driver), *count,
                     properties.name);
}

}  // namespace reshard::device
#endif
