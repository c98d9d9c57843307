// SPDX-License-Identifier: Apache-2.0
// Memory of the whole program comes as always, but large blocks lie in huge pages where the system gives any: a plan of
// millions of copy ops is hundreds of MiB, which page by page cost a tenth to a fifth of its time.
#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

// The sanitizers have their own, which finds more.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define RESHARD_SANITIZED
#endif
#endif
#if !defined(RESHARD_SANITIZED) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

void* allocate(std::size_t bytes) {
  if (bytes < 2 * kHugePage) return std::malloc(bytes != 0 ? bytes : 1);
  void* block = nullptr;
  if (posix_memalign(&block, kHugePage, bytes) != 0) return nullptr;
  const int before = errno;
  madvise(block, bytes, MADV_HUGEPAGE);  // not having any is no error
  errno = before;
  return block;
}

}  // namespace

// The forms for arrays, and those that do not throw, come here too; the aligned ones stay the library's.
void* operator new(std::size_t bytes) {
  while (true) {
    if (void* block = allocate(bytes)) return block;
    const std::new_handler handler = std::get_new_handler();
    if (handler == nullptr) throw std::bad_alloc();
    handler();
  }
}

void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t /*bytes*/) noexcept { std::free(block); }

#endif
