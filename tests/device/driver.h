// One open file of the emulated /dev/accel/accel0.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "tests/device/abi.h"
#include "tests/device/buffers.h"
#include "tests/device/contexts.h"

namespace emulated_npu {

class DeviceFile {
 public:
  explicit DeviceFile(std::shared_ptr<MemoryFile> memory);
  ~DeviceFile();  // ends its contexts first

  // Carries out an ioctl. Returns 0 or an errno.
  int ioctl(unsigned long request, void* argument);
  // The process has mapped a part of the file.
  void mapped(uint64_t offset, void* at, uint64_t size);

 private:
  int create_context(abi::CreateContext& request);
  int destroy_context(uint32_t handle);
  int configure_context(const abi::ConfigureContext& request);
  int sync_bo(const abi::SyncBo& request);
  int exec_command(abi::ExecCommand& request);
  int wait_timeline(uint32_t timeline, uint64_t point, int64_t deadline_ns);
  int wait_command(const abi::WaitCommand& request);
  int get_info(abi::GetInfo& request);
  int get_array(abi::GetArray& request);
  Context* find_context(uint32_t handle) const;

  const long generation_;  // of the device that was opened
  Timelines timelines_;
  Buffers buffers_;
  std::map<uint32_t, std::shared_ptr<Context>> contexts_;
  uint32_t next_context_ = 1;
};

}  // namespace emulated_npu
