#include "npu/device.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>

#include "kernels/arithmetic.h"
#include "npu/gemm_plan.h"
#include "npu/overlay_file.h"
#include "npu/stream.h"
#include "whisper/error.h"

namespace whisperxdna2::npu {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr char kNode[] = "/dev/accel/accel0";
// A command takes a millisecond, 0.15 s where it wakes the device, and the driver's watchdog ends one that hangs after 2 s.
// Only where that does not help either is a command given up while it runs.
constexpr auto kCommandLimit = milliseconds(3000);
constexpr auto kFirstDelay = seconds(1), kLongestDelay = seconds(60);
// The driver suspends the device after 5 s without commands, and waking it costs about 130 ms (Xilinx/mlir-aie#2944). A
// window comes every 10 s at most while someone listens; longer pauses may cost a wake.
constexpr auto kAwakePeriod = seconds(4), kAwakeAfterWork = seconds(16);

// Failed devices, and what could not be let go with them.
struct Grave {
  std::shared_ptr<Device> device;
  std::vector<Command> commands;
  std::shared_ptr<void> buffers;
};
struct Registry {
  std::mutex opening;  // held while a device is opened or graves are emptied; never together with waiting for it
  std::mutex mutex;    // of what follows
  std::weak_ptr<Device> device;
  std::vector<Grave> graves;
  std::chrono::steady_clock::time_point not_before{};
  std::chrono::steady_clock::duration delay = kFirstDelay;
};
Registry& registry() {
  static Registry* r = new Registry;  // never destroyed: a run in flight cannot be
  return *r;
}

// A run that was never started and one in flight have the same state.
bool ended(const Command& command) {
  if (!command.in_flight) return true;
  const ert_cmd_state state = command.run.state();
  return state >= ERT_CMD_STATE_COMPLETED && state != ERT_CMD_STATE_SUBMITTED;
}

const char* name_of(ert_cmd_state state) {
  switch (state) {
    case ERT_CMD_STATE_ERROR: return "error";
    case ERT_CMD_STATE_ABORT: return "abort";
    case ERT_CMD_STATE_TIMEOUT: return "time-out";
    default: return "unknown state";
  }
}

void delay_next_open() {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  const auto now = std::chrono::steady_clock::now();
  // Long after the last failure the delays start anew.
  if (now > r.not_before + 2 * kLongestDelay) r.delay = kFirstDelay;
  r.not_before = now + r.delay;
  r.delay = std::min<std::chrono::steady_clock::duration>(2 * r.delay, kLongestDelay);
}

// Why XRT did not get as far as a context, and what to do about it.
Error explain(const std::exception& e) {
  const std::string what = e.what();
  const auto* system = dynamic_cast<const std::system_error*>(&e);
  const int code = system ? system->code().value() : 0;
  if (access(kNode, F_OK) != 0 || code == ENODEV) {
    return {ErrorCode::kNotFound, std::string("there is no NPU at ") + kNode +
                                      ": an XDNA2 processor and the amdxdna driver (Linux 6.14) are needed"};
  }
  if (access(kNode, R_OK | W_OK) != 0 || code == EACCES || code == EPERM) {
    return {ErrorCode::kNoResource, std::string("no permission to use the NPU: add the user to the group of ") + kNode +
                                        " (render on most systems)"};
  }
  if (code == EAGAIN || what.find("mmap") != std::string::npos) {
    return {ErrorCode::kNoResource, "the NPU's memory cannot be locked: raise the limit (ulimit -l unlimited; " + what + ")"};
  }
  if (what.find("CREATE_HWCTX") != std::string::npos) {
    return {ErrorCode::kNoResource, "the NPU gives no context: close other programs that use it (" + what + ")"};
  }
  return {ErrorCode::kDevice, "the NPU cannot be used: " + what};
}

}  // namespace

std::shared_ptr<Device> Device::open() {
  Registry& r = registry();
  std::lock_guard<std::mutex> opening(r.opening);
  std::vector<Grave> over;  // destroyed without the lock: a device waits for its thread
  {
    std::lock_guard<std::mutex> lock(r.mutex);
    const auto first = std::stable_partition(r.graves.begin(), r.graves.end(), [](const Grave& g) {
      return !std::all_of(g.commands.begin(), g.commands.end(), ended);
    });
    std::move(first, r.graves.end(), std::back_inserter(over));
    r.graves.erase(first, r.graves.end());
  }
  over.clear();
  {
    std::lock_guard<std::mutex> lock(r.mutex);
    if (std::shared_ptr<Device> device = r.device.lock()) {
      if (!device->failed()) return device;
      throw Error(ErrorCode::kDevice, "the NPU has failed, and others have not let go of it yet");
    }
    if (Clock::now() < r.not_before) throw Error(ErrorCode::kDevice, "the NPU has failed and is left alone for a while");
  }
  std::shared_ptr<Device> device;
  try {
    device.reset(new Device);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    delay_next_open();
    throw explain(e);
  }
  device->self_test(device);
  device->keeper_ = std::thread([d = device.get()] { d->keep_awake(); });
  std::lock_guard<std::mutex> lock(r.mutex);
  r.device = device;
  return device;
}

Device::Device() {
  device_ = xrt::device(0);  // first: without an NPU nobody misses an overlay
  const OverlayFile file = load_overlay();
  variant_ = file.variant;
  device_.register_xclbin(file.xclbin);
  context_ = xrt::hw_context(device_, file.xclbin.get_uuid());
  kernel_ = xrt::kernel(context_, overlay::kKernelName);
  name_ = device_.get_info<xrt::info::device::name>();
  std::ifstream("/sys/bus/pci/devices/" + device_.get_info<xrt::info::device::bdf>() + "/fw_version") >> firmware_;
  nothing_ = make_instructions(encode(token_set_up(*variant_)));
}

Device::~Device() {
  {
    std::lock_guard<std::mutex> lock(keeper_mutex_);
    closing_ = true;
  }
  keeper_changed_.notify_all();
  if (keeper_.joinable()) keeper_.join();
}

Buffer Device::make_buffer(size_t bytes) {
  return Buffer(xrt::bo(device_, bytes, XRT_BO_FLAGS_HOST_ONLY, kernel_.group_id(overlay::kFirstBufferArgument)));
}

xrt::bo Device::make_instructions(const std::vector<uint32_t>& words) {
  const size_t bytes = words.size() * sizeof(uint32_t);
  xrt::bo bo(device_, bytes, XCL_BO_FLAGS_CACHEABLE, kernel_.group_id(overlay::kInstructionArgument));
  std::memcpy(bo.map<void*>(), words.data(), bytes);
  bo.sync(XCL_BO_SYNC_BO_TO_DEVICE);
  return bo;
}

Command Device::prepare(const xrt::bo& instructions, const std::vector<xrt::bo>& buffers, double predicted_us) {
  Command command{xrt::run(kernel_), buffers, predicted_us};
  command.buffers.push_back(instructions);
  // Of 64 bits: XRT writes no more than an argument has, and the packet may hold another run's remains.
  command.run.set_arg(0, uint64_t{overlay::kRunTransaction});
  command.run.set_arg(overlay::kInstructionArgument, instructions);
  command.run.set_arg(overlay::kInstructionWordsArgument, static_cast<uint32_t>(instructions.size() / sizeof(uint32_t)));
  for (size_t i = 0; i < buffers.size(); ++i) {
    command.run.set_arg(overlay::kFirstBufferArgument + static_cast<int>(i), buffers[i]);
  }
  return command;
}

void Device::execute(Command& command) {
  run(command);
  std::lock_guard<std::mutex> lock(keeper_mutex_);
  last_work_ = last_command_;
}

void Device::run(Command& command) {
  if (failed_) throw Error(ErrorCode::kDevice, "the NPU has failed");
  try {
    // XRT's own timed wait throws at its deadline without saying what happened, so the state is polled.
    const auto deadline = Clock::now() + kCommandLimit;
    {
      std::lock_guard<std::mutex> lock(submit_);
      command.run.start();
      command.in_flight = true;
    }
    // Most of the expected time asleep, then looks that cost little against it.
    std::this_thread::sleep_for(microseconds(static_cast<int64_t>(command.predicted_us * 0.7)));
    ert_cmd_state state = command.run.state();
    for (auto pause = microseconds(10); state < ERT_CMD_STATE_COMPLETED || state == ERT_CMD_STATE_SUBMITTED;) {
      if (Clock::now() > deadline) {
        throw Error(ErrorCode::kDevice, "the NPU did not end a command in " +
                                            std::to_string(kCommandLimit.count()) + " ms");
      }
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 5 / 4, microseconds(500));
      state = command.run.state();
    }
    if (state != ERT_CMD_STATE_COMPLETED) {
      throw Error(ErrorCode::kDevice, std::string("the NPU ended a command with ") + name_of(state));
    }
    command.run.wait();  // XRT's own bookkeeping; returns at once
    command.in_flight = false;
  } catch (const Error&) {
    fail();
    throw;
  } catch (const std::exception& e) {
    fail();
    throw Error(ErrorCode::kDevice, std::string("the NPU failed: ") + e.what());
  }
  std::lock_guard<std::mutex> lock(keeper_mutex_);
  last_command_ = Clock::now();
}

void Device::fail() {
  if (!failed_.exchange(true)) delay_next_open();
}

void Device::bury(std::shared_ptr<Device> device, std::vector<Command> commands, std::shared_ptr<void> buffers) {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  r.graves.push_back({std::move(device), std::move(commands), std::move(buffers)});
}

// One output tile of every core against the definition: the overlay's cores do what this program expects.
void Device::self_test(const std::shared_ptr<Device>& self) {
  const GemmShape shape{overlay::kRowBlock, 2 * overlay::kTileK, variant_->n_block, 2};
  const int rows = shape.m, k = shape.k_bytes, n = shape.n;
  std::vector<int8_t> x(static_cast<size_t>(rows) * k), w(static_cast<size_t>(n) * k);
  std::vector<int32_t> bias(n);
  std::vector<int16_t> multiplier(n);
  uint32_t seed = 1;
  const auto next = [&seed] { return static_cast<int>((seed = seed * 1664525u + 1013904223u) >> 24) - 128; };
  for (auto& v : x) v = static_cast<int8_t>(std::max(next(), -127));
  for (auto& v : w) v = static_cast<int8_t>(std::max(next(), -127));
  for (auto& v : bias) v = next() * 100;
  for (auto& v : multiplier) v = static_cast<int16_t>(16000 + next());
  OutputStage stage;
  stage.mode = OutputMode::kInt16;
  stage.s1 = 5, stage.s2 = 15;

  const auto buffers = std::make_shared<std::array<Buffer, 3>>();
  auto& [a, packed, c] = *buffers;
  a = make_buffer(x.size());
  packed = make_buffer(shape.weights_size());
  c = make_buffer(static_cast<size_t>(rows) * n * 2);
  std::memcpy(a.data(), x.data(), x.size());
  pack_weights(*variant_, shape, {n, k, w.data(), bias.data(), multiplier.data(), nullptr, stage, false}, packed.data());
  a.to_device(x.size());
  packed.to_device(shape.weights_size());
  std::vector<Operation> operations = token_set_up(*variant_);
  const auto product = gemm_operations(*variant_, shape, {0, 1, 0, 1}, LoopOrder::kRowsOuter, {});
  operations.insert(operations.end(), product.begin(), product.end());
  Command command = prepare(make_instructions(encode(operations)), {a.bo(), packed.bo(), c.bo()}, 0);
  try {
    execute(command);
  } catch (const Error&) {
    bury(self, {command}, buffers);
    throw;
  }
  c.from_device(static_cast<size_t>(rows) * n * 2);

  for (int row = 0; row < rows; row += 7) {
    for (int channel = row % 5; channel < n; channel += 5) {
      const int32_t sum = dot(&x[static_cast<size_t>(row) * k], &w[static_cast<size_t>(channel) * k], k);
      const int16_t expected = output(sum, bias[channel], multiplier[channel], stage);
      const uint8_t* at = c.data() + (static_cast<size_t>(row) * 2) * n + channel;
      if (join16(static_cast<int8_t>(at[0]), at[n]) != expected) {
        fail();
        throw Error(ErrorCode::kDevice, "the NPU's self-test gave a wrong number: its overlay is not the one that belongs to "
                                        "this program, or was miscompiled");
      }
    }
  }
}

void Device::keep_awake() {
  pthread_setname_np(pthread_self(), "npu-keep-awake");
  std::unique_lock<std::mutex> lock(keeper_mutex_);
  while (!closing_ && !failed_) {
    keeper_changed_.wait_for(lock, kAwakePeriod / 4);
    const auto now = Clock::now();
    if (closing_ || failed_ || now - last_command_ < kAwakePeriod - kAwakePeriod / 4 || now - last_work_ > kAwakeAfterWork) {
      continue;
    }
    lock.unlock();
    Command command = prepare(nothing_, {}, 0);
    try {
      run(command);
    } catch (const Error&) {
      bury(nullptr, {command}, nullptr);
    }
    lock.lock();
  }
}

}  // namespace whisperxdna2::npu
