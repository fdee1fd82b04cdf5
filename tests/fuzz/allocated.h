// How much memory the code under test has at most.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

// <sanitizer/allocator_interface.h>, which Debian's clang does not bring
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*,
                                                                             size_t),
                                                         void (*free_hook)(const volatile void*));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void* block);

// Watches the heap from its construction on. One at a time; blocks of other threads count as well.
class Allocated {
 public:
  Allocated() {
    static const int installed = __sanitizer_install_malloc_and_free_hooks(
        [](const volatile void*, size_t size) {
          const int64_t now = live() += static_cast<int64_t>(size);
          if (now > most_live()) most_live() = now;
        },
        [](const volatile void* block) {
          if (block) live() -= static_cast<int64_t>(__sanitizer_get_allocated_size(block));
        });
    (void)installed;
    live() = most_live() = 0;
  }

  // Bytes beyond what there was at the beginning.
  uint64_t most() const { return static_cast<uint64_t>(most_live()); }

 private:
  static std::atomic<int64_t>& live() {
    static std::atomic<int64_t> bytes;
    return bytes;
  }
  static std::atomic<int64_t>& most_live() {
    static std::atomic<int64_t> bytes;
    return bytes;
  }
};
