// Large arrays that take memory only where something is written.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace whisperxdna2 {

// Large pages are worth a third of the speed where memory is read through from end to end again and again.
enum class Pages { kLarge, kSmall };

template <class T>
class LargeBuffer {
 public:
  LargeBuffer() = default;
  // `count` zeros. Throws std::bad_alloc.
  explicit LargeBuffer(size_t count, Pages pages = Pages::kLarge) : bytes_(count * sizeof(T)) {
    if (bytes_ == 0) return;
    // Room to begin at a large page.
    memory_ = mmap(nullptr, bytes_ + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    const size_t address = reinterpret_cast<size_t>(memory_);
    data_ = reinterpret_cast<T*>((address + kPage - 1) / kPage * kPage);
    if (pages == Pages::kLarge) madvise(data_, bytes_, MADV_HUGEPAGE);
  }
  ~LargeBuffer() {
    if (data_) munmap(memory_, bytes_ + kPage);
  }
  LargeBuffer(LargeBuffer&& other) noexcept { *this = std::move(other); }
  LargeBuffer& operator=(LargeBuffer&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    return *this;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return bytes_ / sizeof(T); }

 private:
  static constexpr size_t kPage = size_t{2} << 20;
  size_t bytes_ = 0;
  void* memory_ = nullptr;
  T* data_ = nullptr;
};

}  // namespace whisperxdna2
