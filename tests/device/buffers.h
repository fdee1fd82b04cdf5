// Buffer objects of one open device file: their memory, their addresses, and the two sights of them.
//
// Host and device see different copies of a BO; only SYNC_BO moves bytes between them. The host's copy is the one the
// process maps. With Views::kLine a third copy remembers what the host's cache lines held at the last sync: a line that
// differs from it is dirty and is written back, any other is refetched. That is the worst case of a cache that never
// evicts by itself, and it shows both a forgotten sync and an output buffer that was dirty when the device wrote it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/device/abi.h"
#include "tests/device/array.h"

namespace emulated_npu {

// A mapping of this process that unmaps itself.
class Mapping {
 public:
  Mapping() = default;
  // Anonymous where file < 0. Throws std::bad_alloc.
  Mapping(uint64_t size, int file, uint64_t offset);
  Mapping(Mapping&& other) noexcept { *this = std::move(other); }
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();
  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

// The memory file of an open device; BOs keep it open.
struct MemoryFile {
  explicit MemoryFile(int file) : fd(file) {}
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  const int fd;
};

// Where the parts of a BO are. DEV BOs lie in the heap's memory, others have their own.
struct Bo {
  ~Bo();
  void sync(bool to_device, uint64_t offset, uint64_t size);  // offset + size <= this->size

  uint32_t handle = 0;
  uint32_t type = 0;
  uint64_t size = 0;                           // as asked for
  uint64_t address = abi::kInvalidAddress;     // IOVA, or place in the heap's range
  uint64_t user_address = 0;                   // where the process has it mapped; 0: nowhere known
  uint64_t map_offset = abi::kInvalidAddress;  // of mmap()
  uint8_t *host = nullptr, *device = nullptr, *seen = nullptr;
  std::mutex sync_mutex;

  Mapping own_host, own_device, own_seen;
  std::shared_ptr<MemoryFile> file;  // whose range at map_offset is given back at the end
  std::shared_ptr<void> keeps;  // the heap
};

class Buffers {
 public:
  static constexpr uint64_t kHeapBase = 0x4000000;
  static constexpr uint64_t kHeapChunk = uint64_t{64} << 20;
  static constexpr uint64_t kHeapMax = uint64_t{512} << 20;

  explicit Buffers(std::shared_ptr<MemoryFile> file) : file_(std::move(file)) {}

  // Each returns 0 or an errno.
  int create(abi::CreateBo& request);
  int close(uint32_t handle);
  int info(abi::BoInfo& request) const;

  std::shared_ptr<Bo> find(uint32_t handle) const;
  std::vector<std::shared_ptr<Bo>> all() const;
  bool has_heap() const { return heap_ != nullptr; }
  // The process has mapped [offset, offset + size) of the file at `at`.
  void mapped(uint64_t offset, uint64_t at, uint64_t size);
  uint64_t device_address(const Bo& bo) const;

 private:
  struct Heap {
    Mapping host, device, seen;  // of the greatest size; pages come as they are touched
    uint64_t size = 0;
    std::map<uint64_t, uint64_t> used;  // address -> size
  };
  int create_heap(Bo& bo);
  int create_in_heap(Bo& bo);
  int create_shared(Bo& bo, const abi::UserRanges* user);

  std::shared_ptr<MemoryFile> file_;
  uint32_t next_handle_ = 1;
  uint64_t next_offset_ = uint64_t{1} << 32;
  uint64_t next_iova_ = uint64_t{1} << 36;
  std::map<uint32_t, std::shared_ptr<Bo>> bos_;
  std::shared_ptr<Heap> heap_;
};

// What a command may touch, in the device's sight.
class CommandMemory : public Memory {
 public:
  void add(const Buffers& buffers, std::shared_ptr<Bo> bo);
  uint8_t* at(uint64_t address, uint64_t size) const override;

 private:
  struct Range {
    uint64_t address;
    std::shared_ptr<Bo> bo;
  };
  std::vector<Range> ranges_;
};

}  // namespace emulated_npu
