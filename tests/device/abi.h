// The ioctl ABI of the Linux amdxdna accel driver, as far as XRT 2.25 uses it: numbers and layouts only, laid out here
// anew. Sizes are those of the kernel's 6.14..7.0 user interface and are asserted below.
#pragma once

#include <cstdint>

namespace emulated_npu::abi {

constexpr uint64_t kInvalidAddress = ~0ull;

// DRM ioctl numbers; the driver's own start at 0x40. All have the type letter 'd'.
enum : unsigned {
  kGemClose = 0x09,
  kCreateContext = 0x40,
  kDestroyContext,
  kConfigureContext,
  kCreateBo,
  kGetBoInfo,
  kSyncBo,
  kExecCommand,
  kGetInfo,
  kSetState,
  kWaitCommand,
  kGetArray,
  kSyncobjCreate = 0xbf,
  kSyncobjDestroy = 0xc0,
  kSyncobjTimelineWait = 0xca,
  kSyncobjTimelineSignal = 0xcd,
};

enum BoType : uint32_t { kShare = 1, kDevHeap = 2, kDev = 3, kCommand = 4 };

struct GemClose {
  uint32_t handle, pad;
};
struct SyncobjCreate {
  uint32_t handle, flags;
};
struct SyncobjDestroy {
  uint32_t handle, pad;
};
struct SyncobjTimelineArray {
  uint64_t handles, points;
  uint32_t count, flags;
};
struct SyncobjTimelineWait {
  uint64_t handles, points;
  int64_t timeout_ns;  // absolute, of CLOCK_MONOTONIC; INT64_MAX for ever
  uint32_t count, flags, first_signaled, pad;
};

struct CreateContext {
  uint64_t ext, ext_flags, qos;
  uint32_t umq_bo, log_bo, max_opc, num_tiles, mem_size, umq_doorbell, handle, syncobj;
};
struct DestroyContext {
  uint32_t handle, pad;
};
struct CuConfig {
  uint32_t bo;
  uint8_t function, pad[3];
};
struct CuConfigs {
  uint16_t count, pad[3];
  CuConfig cu[];
};
struct ConfigureContext {
  uint32_t handle, type;
  uint64_t value;
  uint32_t size, pad;
};
struct UserRange {
  uint64_t address, length;
};
struct UserRanges {
  int32_t fd;
  uint32_t count;
  UserRange range[];
};
struct CreateBo {
  uint64_t flags, vaddr, size;
  uint32_t type, handle;
};
struct BoInfo {
  uint64_t ext, ext_flags;
  uint32_t handle, pad;
  uint64_t map_offset, vaddr, device_address;
};
struct SyncBo {
  uint32_t handle, direction;  // 0 to, 1 from the device
  uint64_t offset, size;
};
struct ExecCommand {
  uint64_t ext, ext_flags;
  uint32_t context, type;
  uint64_t commands, args;
  uint32_t command_count, arg_count;
  uint64_t sequence;
};
struct WaitCommand {
  uint32_t context, timeout_ms;
  uint64_t sequence;
};
struct GetInfo {
  uint32_t param, size;
  uint64_t buffer;
};
struct GetArray {
  uint32_t param, element_size, count, pad;
  uint64_t buffer;
};
struct TileMetadata {
  uint16_t rows, first_row, dma_channels, locks, events, pad[3];
};
struct AieMetadata {
  uint32_t column_size;
  uint16_t columns, rows;
  uint32_t major, minor;
  TileMetadata core, memtile, shim;
};
struct ContextEntry {  // GET_ARRAY; newer kernels append a process name, and element_size says what the caller knows
  uint32_t id, first_column, columns, hardware_id;
  int64_t pid;
  uint64_t submitted, completed, migrations, preemptions, errors, priority, heap, suspensions;
  uint32_t state, pasid, gops, fps, bandwidth, latency, frame_time, transaction, program_counter, fatal[4], pad;
  char name[16];
};
static_assert(sizeof(CreateContext) == 56 && sizeof(BoInfo) == 48 && sizeof(ExecCommand) == 56 &&
              sizeof(SyncBo) == 24 && sizeof(CreateBo) == 32 && sizeof(AieMetadata) == 64 &&
              sizeof(ContextEntry) == 160);

// Execution packets ("ERT"), in memory of a BO. Header word: state in bits 3..0, extra CU masks 11..10, words after the
// header 22..12, opcode 27..23.
enum Opcode : uint32_t { kStartCu = 0, kChain = 19, kStartNpu = 20, kStartNpuPreempt = 21, kStartNpuPreemptElf = 22 };
enum State : uint32_t { kNew = 1, kCompleted = 4, kError = 5, kAbort = 6, kTimeout = 8 };

constexpr uint32_t packet_state(uint32_t header) { return header & 15; }
constexpr uint32_t packet_masks(uint32_t header) { return 1 + ((header >> 10) & 3); }
constexpr uint32_t packet_count(uint32_t header) { return (header >> 12) & 0x7ff; }
constexpr uint32_t packet_opcode(uint32_t header) { return (header >> 23) & 31; }

struct ChainPacket {
  uint32_t header, count, submit_index, error_index, reserved[3];
  // followed by `count` handles of 64 bits
};

}  // namespace emulated_npu::abi
