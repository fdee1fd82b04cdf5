#include "tests/device/driver.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "tests/device/settings.h"

namespace emulated_npu {
namespace {

using Lock = std::unique_lock<std::mutex>;
Lock take_lock() { return Lock(settings().driver_mutex); }

template <class T>
T& as(void* argument) {
  return *static_cast<T*>(argument);
}

}  // namespace

DeviceFile::DeviceFile(std::shared_ptr<MemoryFile> memory)
    : generation_(settings().generation()), buffers_(std::move(memory)) {}

DeviceFile::~DeviceFile() {
  contexts_.clear();
  settings().bos -= static_cast<long>(buffers_.all().size());
}

int DeviceFile::ioctl(unsigned long request, void* argument) {
  ++settings().ioctls;
  if (settings().gone(generation_)) {
    // Removal ends the commands in flight before anyone is told of it.
    Lock lock = take_lock();
    settings().driver_changed.wait(lock, [&] {
      return std::all_of(contexts_.begin(), contexts_.end(), [](const auto& entry) { return entry.second->idle(); });
    });
    return ENODEV;
  }
  switch (_IOC_NR(request)) {
    case abi::kCreateContext:
      return create_context(as<abi::CreateContext>(argument));
    case abi::kDestroyContext:
      return destroy_context(as<abi::DestroyContext>(argument).handle);
    case abi::kConfigureContext:
      return configure_context(as<abi::ConfigureContext>(argument));
    case abi::kCreateBo: {
      auto& create = as<abi::CreateBo>(argument);
      const Lock lock = take_lock();
      const int result = buffers_.create(create);
      EMULATED_NPU_LOG(1, "CREATE_BO type %u size 0x%lx%s -> handle %u, errno %d", create.type, create.size,
                       create.vaddr ? " of the user" : "", create.handle, result);
      return result;
    }
    case abi::kGetBoInfo: {
      const Lock lock = take_lock();
      return buffers_.info(as<abi::BoInfo>(argument));
    }
    case abi::kSyncBo:
      return sync_bo(as<abi::SyncBo>(argument));
    case abi::kExecCommand:
      return exec_command(as<abi::ExecCommand>(argument));
    case abi::kGetInfo:
      return get_info(as<abi::GetInfo>(argument));
    case abi::kSetState:
      return 0;  // power mode and the like: accepted, without effect
    case abi::kWaitCommand:
      return wait_command(as<abi::WaitCommand>(argument));
    case abi::kGetArray:
      return get_array(as<abi::GetArray>(argument));
    case abi::kGemClose: {
      const Lock lock = take_lock();
      EMULATED_NPU_LOG(1, "GEM_CLOSE %u", as<abi::GemClose>(argument).handle);
      return buffers_.close(as<abi::GemClose>(argument).handle);
    }
    case abi::kSyncobjCreate: {
      const Lock lock = take_lock();
      as<abi::SyncobjCreate>(argument).handle = timelines_.create();
      return 0;
    }
    case abi::kSyncobjDestroy: {
      const Lock lock = take_lock();
      timelines_.destroy(as<abi::SyncobjDestroy>(argument).handle);
      return 0;
    }
    case abi::kSyncobjTimelineSignal: {
      const auto& signal = as<abi::SyncobjTimelineArray>(argument);
      const auto* const handles = reinterpret_cast<const uint32_t*>(signal.handles);
      const auto* const points = reinterpret_cast<const uint64_t*>(signal.points);
      const Lock lock = take_lock();
      for (uint32_t i = 0; i < signal.count; ++i) timelines_.signal(handles[i], points[i]);
      settings().driver_changed.notify_all();
      return 0;
    }
    case abi::kSyncobjTimelineWait: {
      const auto& wait = as<abi::SyncobjTimelineWait>(argument);
      if (wait.count != 1) return EINVAL;
      return wait_timeline(*reinterpret_cast<const uint32_t*>(wait.handles),
                           *reinterpret_cast<const uint64_t*>(wait.points), wait.timeout_ns);
    }
  }
  EMULATED_NPU_LOG(1, "ioctl 0x%lx is not emulated", _IOC_NR(request));
  return ENOTTY;
}

void DeviceFile::mapped(uint64_t offset, void* at, uint64_t size) {
  const Lock lock = take_lock();
  buffers_.mapped(offset, reinterpret_cast<uint64_t>(at), size);
}

Context* DeviceFile::find_context(uint32_t handle) const {
  const auto found = contexts_.find(handle);
  return found == contexts_.end() ? nullptr : found->second.get();
}

int DeviceFile::create_context(abi::CreateContext& request) {
  constexpr uint32_t kCoreRows = 4, kColumns = 8;
  const Lock lock = take_lock();
  if (!buffers_.has_heap() || !request.num_tiles || request.num_tiles / kCoreRows > kColumns) return EINVAL;
  if (settings().live_contexts >= settings().contexts) return EINVAL;  // what the driver says when it has no room
  const uint32_t timeline = timelines_.create();
  request.handle = next_context_++;
  request.syncobj = settings().wait_command ? 0 : timeline;
  request.umq_doorbell = ~0u;
  contexts_[request.handle] =
      std::make_shared<Context>(request.handle, timeline, request.num_tiles / kCoreRows, generation_, timelines_);
  EMULATED_NPU_LOG(1, "CREATE_HWCTX %u tiles -> context %u", request.num_tiles, request.handle);
  return 0;
}

int DeviceFile::destroy_context(uint32_t handle) {
  std::shared_ptr<Context> context;  // destroyed without the lock
  {
    const Lock lock = take_lock();
    const auto found = contexts_.find(handle);
    if (found == contexts_.end()) return EINVAL;
    context = std::move(found->second);
    contexts_.erase(found);
    context->stop();
    settings().driver_changed.notify_all();
  }
  EMULATED_NPU_LOG(1, "DESTROY_HWCTX %u", handle);
  return 0;
}

int DeviceFile::configure_context(const abi::ConfigureContext& request) {
  constexpr uint32_t kConfigureCu = 0, kLargest = 4096, kMostCus = 32;
  const Lock lock = take_lock();
  Context* const context = find_context(request.handle);
  if (!context) return EINVAL;
  if (request.type != kConfigureCu) return 0;  // debug buffers: accepted, without effect
  if (request.size > kLargest) return E2BIG;
  const auto* const configs = reinterpret_cast<const abi::CuConfigs*>(request.value);
  if (request.size < sizeof *configs || !configs->count || configs->count > kMostCus ||
      sizeof *configs + configs->count * sizeof(abi::CuConfig) > request.size) {
    return EINVAL;
  }
  for (int i = 0; i < configs->count; ++i) {
    const auto bo = buffers_.find(configs->cu[i].bo);
    if (!bo || bo->type != abi::kDev) return EINVAL;
    if (i > 0) continue;
    // The device reads its own sight of the PDI: one that was never synced is empty.
    const auto* const text = reinterpret_cast<const char*>(bo->device);
    const int failure = context->load(std::string(text, strnlen(text, bo->size)));
    if (failure) return failure;
  }
  return 0;
}

int DeviceFile::sync_bo(const abi::SyncBo& request) {
  Settings& s = settings();
  ++s.syncs;
  std::shared_ptr<Bo> bo;
  {
    const Lock lock = take_lock();
    bo = buffers_.find(request.handle);
  }
  if (!bo) return ENOENT;
  if (request.offset >= bo->size || request.direction > 1 || (s.flushless && request.direction == 1)) return EINVAL;
  const uint64_t size = std::min(request.size, bo->size - request.offset);
  s.synced_bytes += static_cast<long>(size);
  const bool dropped = s.drop_sync();
  EMULATED_NPU_LOG(1, "SYNC_BO %u %s the device, 0x%lx bytes at 0x%lx%s", request.handle,
                   request.direction ? "from" : "to", size, request.offset, dropped ? ": dropped" : "");
  if (!dropped) bo->sync(request.direction == 0, request.offset, size);
  return 0;
}

int DeviceFile::exec_command(abi::ExecCommand& request) {
  constexpr uint32_t kMostArguments = 4095, kMostChained = 24, kChainBytes = 4096;
  Settings& s = settings();
  ++s.executions;
  std::shared_ptr<Context> context;  // outlives the lock: another thread may destroy it while submit() waits
  Lock lock = take_lock();
  if (const auto found = contexts_.find(request.context); found != contexts_.end()) context = found->second;
  if (!context || request.type != 0 || request.command_count != 1 || request.arg_count > kMostArguments) return EINVAL;
  Job job;
  job.packet = buffers_.find(static_cast<uint32_t>(request.commands));
  const auto can_be_packet = [](const std::shared_ptr<Bo>& bo) {
    return bo && (bo->type == abi::kCommand || bo->type == abi::kShare) && bo->size >= sizeof(abi::ChainPacket) &&
           (1 + abi::packet_count(*reinterpret_cast<const uint32_t*>(bo->host))) * sizeof(uint32_t) <= bo->size;
  };
  if (!can_be_packet(job.packet)) return EINVAL;
  const auto* const arguments = reinterpret_cast<const uint32_t*>(request.args);
  for (uint32_t i = 0; i < request.arg_count; ++i) {
    auto bo = buffers_.find(arguments[i]);
    if (!bo) return ENOENT;
    job.memory.add(buffers_, std::move(bo));
  }

  // The driver reads packets with the CPU: the host's sight of them.
  const auto* const chain = reinterpret_cast<const abi::ChainPacket*>(job.packet->host);
  bool patched = abi::packet_opcode(chain->header) != abi::kStartCu;
  if (abi::packet_opcode(chain->header) == abi::kChain) {
    if (!chain->count || chain->count > kMostChained) return EINVAL;
    uint64_t bytes = 0;
    uint32_t opcode = 0;
    for (uint32_t i = 0; i < chain->count; ++i) {
      uint64_t handle;  // they begin at an odd word
      memcpy(&handle, reinterpret_cast<const uint8_t*>(chain + 1) + i * sizeof handle, sizeof handle);
      auto packet = buffers_.find(static_cast<uint32_t>(handle));
      if (!can_be_packet(packet)) return EINVAL;
      const uint32_t header = *reinterpret_cast<const uint32_t*>(packet->host);
      if (i > 0 && abi::packet_opcode(header) != opcode) return EINVAL;
      opcode = abi::packet_opcode(header);
      bytes += abi::packet_count(header) * sizeof(uint32_t);
      job.chained.push_back(std::move(packet));
    }
    if (bytes > kChainBytes) return E2BIG;
    patched = opcode != abi::kStartCu;
  }
  if (patched) {
    for (auto& bo : buffers_.all()) job.everything.add(buffers_, std::move(bo));
  }
  const int result = context->submit(lock, std::move(job), &request.sequence);
  EMULATED_NPU_LOG(1, "EXEC_CMD context %u packet %lu with %u BOs -> sequence %lu, errno %d", request.context,
                   request.commands, request.arg_count, request.sequence, result);
  return result;
}

int DeviceFile::wait_timeline(uint32_t timeline, uint64_t point, int64_t deadline_ns) {
  Settings& s = settings();
  ++s.waits;
  Lock lock = take_lock();
  if (!timelines_.exists(timeline)) return ENOENT;
  const auto reached = [&] { return timelines_.reached(timeline, point); };
  if (deadline_ns == INT64_MAX) {
    s.driver_changed.wait(lock, reached);
    return 0;
  }
  const auto deadline = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline_ns));
  return s.driver_changed.wait_until(lock, deadline, reached) ? 0 : ETIME;
}

int DeviceFile::wait_command(const abi::WaitCommand& request) {
  uint32_t timeline;
  {
    const Lock lock = take_lock();
    const Context* const context = find_context(request.context);
    if (!context) return EINVAL;
    timeline = context->timeline;
  }
  const int64_t deadline =
      request.timeout_ms ? monotonic_ns() + request.timeout_ms * int64_t{1000000} : INT64_MAX;
  return wait_timeline(timeline, request.sequence, deadline);
}

int DeviceFile::get_info(abi::GetInfo& request) {
  enum { kStatus, kMetadata, kAieVersion, kClocks, kSensors, kContexts, kFirmware = 8, kPowerMode, kTelemetry,
         kForcePreemption, kResources, kFrameBoundary, kDeviceSize = 15 };
  auto* const out = reinterpret_cast<uint8_t*>(request.buffer);
  const auto give = [&](const void* data, uint32_t size) {
    if (request.size < size) {
      request.size = size;
      return ENOSPC;
    }
    memcpy(out, data, size);
    return 0;
  };
  switch (request.param) {
    case kStatus: {
      struct Status {
        uint64_t buffer;
        uint32_t size, columns;
      };
      if (request.size < sizeof(Status)) return EINVAL;
      auto* const status = reinterpret_cast<Status*>(out);
      memset(reinterpret_cast<void*>(status->buffer), 0, status->size);
      status->columns = 0xff;
      return 0;
    }
    case kMetadata: {
      abi::AieMetadata metadata{};
      metadata.column_size = 0x2000;
      metadata.columns = 8;
      metadata.rows = 6;
      metadata.major = 2;
      metadata.minor = 1;
      metadata.core = {4, 2, 4, 16, 128, {}};
      metadata.memtile = {1, 1, 12, 64, 192, {}};
      metadata.shim = {1, 0, 4, 16, 96, {}};
      return give(&metadata, sizeof metadata);
    }
    case kAieVersion: {
      const uint32_t version[2] = {2, 1};
      return give(version, sizeof version);
    }
    case kClocks: {
      struct Clock {
        char name[16];
        uint32_t mhz, pad;
      };
      const Clock clocks[2] = {{"MP-NPU Clock", 1267, 0}, {"H Clock", 1800, 0}};
      return give(clocks, sizeof clocks);
    }
    case kSensors:
    case kContexts:  // the older list; GET_ARRAY has them
      request.size = 0;
      return 0;
    case kFirmware: {
      const uint32_t version[4] = {1, 1, 2, 65};
      return give(version, sizeof version);
    }
    case kPowerMode:
    case kForcePreemption:
    case kFrameBoundary:
    case kDeviceSize: {
      const uint64_t none = 0;
      return give(&none, sizeof none);
    }
    case kTelemetry:
      memset(out, 0, request.size);
      return 0;
    case kResources: {
      const Lock lock = take_lock();
      const uint64_t resources[5] = {1800, 51, static_cast<uint64_t>(settings().contexts), 0, contexts_.size()};
      return give(resources, sizeof resources);
    }
  }
  return EOPNOTSUPP;
}

int DeviceFile::get_array(abi::GetArray& request) {
  enum { kAllContexts, kContextById, kLastError, kBoUsage = 6 };
  if (!request.count || !request.element_size || request.pad) return EINVAL;
  auto* const out = reinterpret_cast<uint8_t*>(request.buffer);
  const Lock lock = take_lock();
  switch (request.param) {
    case kAllContexts:
    case kContextById: {
      const uint32_t size = std::min<uint32_t>(request.element_size, sizeof(abi::ContextEntry));
      const bool one = request.param == kContextById;
      const uint32_t wanted = one ? reinterpret_cast<const abi::ContextEntry*>(out)->id : 0;
      uint32_t count = 0;
      for (const auto& [handle, context] : contexts_) {
        if (count == request.count) break;
        if (one && handle != wanted) continue;
        abi::ContextEntry entry{};
        entry.id = entry.hardware_id = handle;
        entry.columns = context->columns;
        entry.pid = getpid();
        entry.submitted = context->submitted;
        entry.completed = context->completed;
        entry.errors = context->errors;
        entry.priority = 0x200;
        entry.state = context->submitted != context->completed;
        memcpy(out + uint64_t{count++} * size, &entry, size);
      }
      if (one && !count) return EINVAL;
      request.count = count;
      request.element_size = size;
      return 0;
    }
    case kLastError:
      request.count = 0;
      return 0;
    case kBoUsage: {
      if (request.element_size < 4 * sizeof(uint64_t)) return EINVAL;
      auto* const usage = reinterpret_cast<uint64_t*>(out);  // process id, all, internal, heap
      usage[1] = usage[2] = usage[3] = 0;
      for (const auto& bo : buffers_.all()) {
        usage[bo->type == abi::kDev ? 3 : 1] += bo->size;
        if (bo->type == abi::kDevHeap || bo->type == abi::kCommand) usage[2] += bo->size;
      }
      return 0;
    }
  }
  return EOPNOTSUPP;
}

}  // namespace emulated_npu
