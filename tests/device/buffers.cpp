#include "tests/device/buffers.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "tests/device/next_function.h"
#include "tests/device/settings.h"

namespace emulated_npu {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLine = 64;

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

// The C library's, not the one this library interposes.
void* real_mmap(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  using Function = void* (*)(void*, size_t, int, int, int, off_t);
  NEXT_AS(Function, mmap);
  return next(at, size, protection, flags, file, offset);
}

}  // namespace

Mapping::Mapping(uint64_t size, int file, uint64_t offset) : size_(size) {
  const int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* const at =
      real_mmap(nullptr, size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, file, static_cast<off_t>(offset));
  if (at == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(at);
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (data_) munmap(data_, size_);
}

MemoryFile::~MemoryFile() { ::close(fd); }

Bo::~Bo() {
  if (file) {
    fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(map_offset),
              static_cast<off_t>(round_up(size, kPage)));
  }
}

void Bo::sync(bool to_device, uint64_t offset, uint64_t length) {
  if (device == host) return;
  std::lock_guard<std::mutex> lock(sync_mutex);
  if (!seen) {
    if (to_device) {
      memcpy(device + offset, host + offset, length);
    } else {
      memcpy(host + offset, device + offset, length);
    }
    return;
  }
  const uint64_t end = round_up(offset + length, kLine);
  for (uint64_t at = offset / kLine * kLine; at < end;) {
    // Pages in which all three agree are only read: XRT syncs each new BO as a whole, most of it never touched.
    const uint64_t page = std::min(end, (at / kPage + 1) * kPage) - at;
    if (memcmp(host + at, seen + at, page) == 0 && memcmp(host + at, device + at, page) == 0) {
      at += page;
      continue;
    }
    for (const uint64_t page_end = at + page; at < page_end; at += kLine) {
      const bool dirty = memcmp(host + at, seen + at, kLine) != 0;
      memcpy(dirty ? device + at : host + at, dirty ? host + at : device + at, kLine);
      memcpy(seen + at, host + at, kLine);
    }
  }
}

int Buffers::create(abi::CreateBo& request) {
  if (request.flags || (!request.size && !request.vaddr)) return EINVAL;
  if (settings().fail_bo()) return ENOMEM;
  auto bo = std::make_shared<Bo>();
  bo->type = request.type;
  bo->size = request.size;
  int failure = EINVAL;
  try {
    switch (request.type) {
      case abi::kDevHeap:
        failure = create_heap(*bo);
        break;
      case abi::kDev:
        failure = create_in_heap(*bo);
        break;
      case abi::kShare:
      case abi::kCommand:
        failure = create_shared(*bo, reinterpret_cast<const abi::UserRanges*>(request.vaddr));
        break;
    }
  } catch (const std::bad_alloc&) {
    failure = ENOMEM;
  }
  if (failure) return failure;
  request.handle = bo->handle = next_handle_++;
  bos_[bo->handle] = std::move(bo);
  ++settings().bos;
  return 0;
}

int Buffers::create_heap(Bo& bo) {
  if (bo.size % kHeapChunk) return EINVAL;
  if (!heap_) {
    auto heap = std::make_shared<Heap>();
    constexpr uint64_t kHeapOffset = uint64_t{1} << 40;
    heap->host = Mapping(kHeapMax, file_->fd, kHeapOffset);
    if (settings().views != Views::kOne) heap->device = Mapping(kHeapMax, -1, 0);
    if (settings().views == Views::kLine) heap->seen = Mapping(kHeapMax, -1, 0);
    heap_ = std::move(heap);
  }
  if (heap_->size + bo.size > kHeapMax) return ENOSPC;
  bo.map_offset = (uint64_t{1} << 40) + heap_->size;
  bo.address = kHeapBase + heap_->size;
  bo.host = heap_->host.data() + heap_->size;
  bo.device = settings().views == Views::kOne ? bo.host : heap_->device.data() + heap_->size;
  bo.seen = settings().views == Views::kLine ? heap_->seen.data() + heap_->size : nullptr;
  bo.keeps = heap_;
  heap_->size += bo.size;
  return 0;
}

int Buffers::create_in_heap(Bo& bo) {
  if (!heap_) return EINVAL;
  const uint64_t length = round_up(bo.size, kPage);
  if (length > kHeapMax) return EINVAL;
  constexpr uint64_t kAlignment = 32768;
  uint64_t at = kHeapBase;
  for (const auto& [start, used] : heap_->used) {
    if (at + length <= start) break;
    at = round_up(start + used, kAlignment);
  }
  if (at + length > kHeapBase + kHeapMax) return ENOSPC;
  if (at + length > kHeapBase + heap_->size) return EAGAIN;  // the shim adds a heap BO and asks again
  heap_->used[at] = length;
  const uint64_t offset = at - kHeapBase;
  bo.address = at;
  bo.host = heap_->host.data() + offset;
  bo.device = settings().views == Views::kOne ? bo.host : heap_->device.data() + offset;
  bo.seen = settings().views == Views::kLine ? heap_->seen.data() + offset : nullptr;
  bo.keeps = heap_;
  return 0;
}

int Buffers::create_shared(Bo& bo, const abi::UserRanges* user) {
  if (user) {
    if (user->count != 1 || user->fd != -1 || user->range[0].address % kPage || !user->range[0].length) return EINVAL;
    bo.size = user->range[0].length;
    bo.user_address = user->range[0].address;
    bo.host = reinterpret_cast<uint8_t*>(bo.user_address);
  }
  const uint64_t length = round_up(bo.size, kPage);
  if (!user) {
    bo.map_offset = next_offset_;
    next_offset_ += length;
    bo.own_host = Mapping(length, file_->fd, bo.map_offset);
    bo.host = bo.own_host.data();
    bo.file = file_;
  }
  bo.device = bo.host;
  if (settings().views != Views::kOne) {
    bo.own_device = Mapping(length, -1, 0);
    bo.device = bo.own_device.data();
  }
  if (settings().views == Views::kLine) {
    bo.own_seen = Mapping(length, -1, 0);
    bo.seen = bo.own_seen.data();
  }
  if (!settings().user_addresses) {
    constexpr uint64_t kGuard = 65536;  // so that an address past the end is nobody's
    bo.address = next_iova_;
    next_iova_ += round_up(length, kGuard) + kGuard;
  }
  return 0;
}

int Buffers::close(uint32_t handle) {
  const auto found = bos_.find(handle);
  if (found == bos_.end()) return EINVAL;
  if (found->second->type == abi::kDev) heap_->used.erase(found->second->address);
  bos_.erase(found);
  --settings().bos;
  return 0;
}

int Buffers::info(abi::BoInfo& request) const {
  const auto bo = find(request.handle);
  if (!bo) return ENOENT;
  request.map_offset = bo->map_offset;
  request.device_address = bo->address;
  request.vaddr = bo->user_address ? bo->user_address : abi::kInvalidAddress;
  return 0;
}

std::shared_ptr<Bo> Buffers::find(uint32_t handle) const {
  const auto found = bos_.find(handle);
  return found == bos_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Bo>> Buffers::all() const {
  std::vector<std::shared_ptr<Bo>> all;
  for (const auto& [handle, bo] : bos_) all.push_back(bo);
  return all;
}

void Buffers::mapped(uint64_t offset, uint64_t at, uint64_t size) {
  for (auto& [handle, bo] : bos_) {
    if (bo->map_offset == offset) {
      bo->user_address = at;
    } else if (bo->file && bo->user_address < at + size && at < bo->user_address + bo->size) {
      // The shim unmaps before GEM_CLOSE, so another thread's new mapping may get the place of a BO that still lives:
      // the newest mapping owns it.
      bo->user_address = 0;
    }
  }
}

uint64_t Buffers::device_address(const Bo& bo) const {
  return bo.address != abi::kInvalidAddress ? bo.address : bo.user_address;
}

void CommandMemory::add(const Buffers& buffers, std::shared_ptr<Bo> bo) {
  const uint64_t address = buffers.device_address(*bo);
  if (address && bo->type != abi::kDevHeap) ranges_.push_back({address, std::move(bo)});
}

uint8_t* CommandMemory::at(uint64_t address, uint64_t size) const {
  for (const Range& range : ranges_) {
    if (address >= range.address && address - range.address <= range.bo->size &&
        size <= range.bo->size - (address - range.address)) {
      return range.bo->device + (address - range.address);
    }
  }
  return nullptr;
}

}  // namespace emulated_npu
