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
#include "kernels/cpu/profile.h"
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
// What to do about a failure that has its cause in the device.
constexpr char kAdvice[] =
    " (the kernel's log, dmesg, may say why; whisperxdna2-check-npu tests the NPU; backend=cpu does without)";
// PCI device of the first generation, from the driver (drivers/accel/amdxdna/aie2_pci.c); the second's is 0x17f0.
constexpr char kXdna1[] = "0x1502";
constexpr char kGone[] =
    "the NPU was removed, or its driver unloaded, while it worked: it is used again once it is back";
// A command takes a millisecond, 0.15 s where it wakes the device, and the driver's watchdog ends one that hangs after
// 2 s. Only where that does not help either is a command given up while it runs.
constexpr auto kCommandLimit = seconds(10);
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
  std::chrono::steady_clock::duration first_delay = seconds(1), longest_delay = seconds(60), delay = first_delay;
};
Registry& registry() {
  static Registry* r = new Registry;  // never destroyed: a run in flight cannot be
  return *r;
}

bool is_over(ert_cmd_state state) { return state >= ERT_CMD_STATE_COMPLETED && state != ERT_CMD_STATE_SUBMITTED; }

// A run that was never started and one in flight have the same state.
bool ended(const Command& command) { return !command.in_flight || is_over(command.run.state()); }

const char* name_of(ert_cmd_state state) {
  switch (state) {
    case ERT_CMD_STATE_ERROR: return "error";
    case ERT_CMD_STATE_ABORT: return "abort";
    case ERT_CMD_STATE_TIMEOUT: return "time-out";
    default: return "unknown state";
  }
}

// No cause may count twice: each failure on the way may call this.
void delay_next_open() {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  const auto now = std::chrono::steady_clock::now();
  if (now < r.not_before) return;
  // Long after the last failure the delays start anew.
  if (now > r.not_before + 2 * r.longest_delay) r.delay = r.first_delay;
  r.not_before = now + r.delay;
  r.delay = std::min(2 * r.delay, r.longest_delay);
}

// What a device says of itself on the PCI bus. bdf: its address there.
std::string pci_attribute(const std::string& bdf, const char* name) {
  std::string value;
  std::ifstream("/sys/bus/pci/devices/" + bdf + "/" + name) >> value;
  return value;
}

Error no_npu() {
  return {ErrorCode::kNotFound, std::string("there is no NPU at ") + kNode +
                                    ": an XDNA2 processor and the amdxdna driver (Linux 6.14) are needed"};
}

}  // namespace

Error explain(const std::exception& e) {
  const std::string what = e.what();
  const auto* system = dynamic_cast<const std::system_error*>(&e);
  const int code = system ? system->code().value() : 0;
  if (code == ENODEV) return {ErrorCode::kDevice, kGone};
  if (access(kNode, F_OK) != 0) return no_npu();
  if (access(kNode, R_OK | W_OK) != 0 || code == EACCES || code == EPERM) {
    return {ErrorCode::kNoResource, std::string("no permission to use the NPU: add the user to the group of ") + kNode +
                                        " (render on most systems)"};
  }
  if (code == EAGAIN || what.find("mmap") != std::string::npos) {
    return {ErrorCode::kNoResource,
            "the NPU's memory cannot be locked: raise the limit (ulimit -l unlimited; " + what + ")"};
  }
  if (code == ENOMEM || dynamic_cast<const std::bad_alloc*>(&e)) {
    return {ErrorCode::kNoResource,
            "out of memory for the NPU: close other programs, or take a smaller model (" + what + ")"};
  }
  if (what.find("CREATE_HWCTX") != std::string::npos) {
    return {ErrorCode::kNoResource, "the NPU gives no context: close other programs that use it (" + what + ")"};
  }
  if (code == EINVAL && what.find("SYNC_BO") != std::string::npos) {
    return {ErrorCode::kUnsupported,
            "the driver does not flush buffers: remove force_driver_sync from XRT's settings (xrt.ini, "
            "XRT_INI_PATH, environment; " +
                what + ")"};
  }
  if (what.find("device with index") != std::string::npos) {
    return {ErrorCode::kNotFound, std::string("XRT does not find the NPU at ") + kNode +
                                      ": install its driver for XRT, of the same version (libxrt-npu2; " + what + ")"};
  }
  return {ErrorCode::kDevice, "the NPU cannot be used: " + what + kAdvice};
}

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
    if (Clock::now() < r.not_before)
      throw Error(ErrorCode::kDevice, "the NPU has failed and is left alone for a while");
  }
  std::shared_ptr<Device> device;
  try {
    device.reset(new Device);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kNoResource) delay_next_open();
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
  // First: without an NPU nobody misses an overlay. And without asking XRT, which after an open that failed has lost
  // the device's properties in this process.
  if (access(kNode, F_OK) != 0) throw no_npu();
  device_ = xrt::device(0);
  const std::string bdf = device_.get_info<xrt::info::device::bdf>();
  if (pci_attribute(bdf, "device") == kXdna1) {
    throw Error(ErrorCode::kUnsupported,
                "the NPU is an XDNA1 (Ryzen 7040 or 8040), whose array is another: an XDNA2 is needed "
                "(Ryzen AI 300 or later); backend=cpu does without");
  }
  const OverlayFile file = load_overlay();
  variant_ = file.variant;
  device_.register_xclbin(file.xclbin);
  context_ = xrt::hw_context(device_, file.xclbin.get_uuid());
  kernel_ = xrt::kernel(context_, overlay::kKernelName);
  name_ = device_.get_info<xrt::info::device::name>();
  firmware_ = pci_attribute(bdf, "fw_version");
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
  return checked([&] {
    return Buffer(xrt::bo(device_, bytes, XRT_BO_FLAGS_HOST_ONLY, kernel_.group_id(overlay::kFirstBufferArgument)));
  });
}

xrt::bo Device::make_instructions(const std::vector<uint32_t>& words) {
  const size_t bytes = words.size() * sizeof(uint32_t);
  return checked([&] {
    xrt::bo bo(device_, bytes, XCL_BO_FLAGS_CACHEABLE, kernel_.group_id(overlay::kInstructionArgument));
    std::memcpy(bo.map<void*>(), words.data(), bytes);
    bo.sync(XCL_BO_SYNC_BO_TO_DEVICE);
    return bo;
  });
}

Command Device::prepare(const xrt::bo& instructions, const std::vector<xrt::bo>& buffers, double predicted_us) {
  return checked([&] {
    Command command{xrt::run(kernel_), buffers, predicted_us};
    command.buffers.push_back(instructions);
    // Of 64 bits: XRT writes no more than an argument has, and the packet may hold another run's remains.
    command.run.set_arg(0, uint64_t{overlay::kRunTransaction});
    command.run.set_arg(overlay::kInstructionArgument, instructions);
    command.run.set_arg(overlay::kInstructionWordsArgument,
                        static_cast<uint32_t>(instructions.size() / sizeof(uint32_t)));
    for (size_t i = 0; i < buffers.size(); ++i) {
      command.run.set_arg(overlay::kFirstBufferArgument + static_cast<int>(i), buffers[i]);
    }
    return command;
  });
}

void Device::execute(Command& command, const std::function<void()>& started) {
  run(command, started);
  std::lock_guard<std::mutex> lock(keeper_mutex_);
  last_work_ = last_command_;
}

void Device::rest() {
  std::lock_guard<std::mutex> lock(keeper_mutex_);
  last_work_ = {};
}

void Device::start(Command& command) {
  ProfileScope scope("npu submit", 0);
  std::lock_guard<FairMutex> lock(turn_);
  command.run.start();
  command.in_flight = true;
}

void Device::run(Command& command, const std::function<void()>& started) {
  if (failed_) throw Error(ErrorCode::kDevice, "the NPU has failed");
  try {
    // XRT's own timed wait throws at its deadline without saying what happened, so the state is polled.
    start(command);
    if (started) started();
    const auto began = Clock::now();
    const auto over = [&command] { return is_over(command.run.state()); };
    if (!over()) {
      // Most of the expected time asleep, then looks that cost little against it and come little too late.
      std::this_thread::sleep_for(microseconds(static_cast<int64_t>(command.expected_us * 0.8)));
      const bool overslept = over();
      // Time in which this process was stopped does not count: a sleep is worth 20 ms at most.
      for (microseconds waited(0); !over();) {
        if (waited > kCommandLimit) {
          throw Error(ErrorCode::kDevice, "the NPU did not end a command in " +
                                              std::to_string(kCommandLimit.count()) + " s" + kAdvice);
        }
        const auto before = Clock::now();
        const auto elapsed = std::chrono::duration_cast<microseconds>(before - began);
        std::this_thread::sleep_for(std::clamp(elapsed / 32, microseconds(10), microseconds(500)));
        waited += std::min(std::chrono::duration_cast<microseconds>(Clock::now() - before), microseconds(20000));
      }
      // Another's command may have been ahead in the queue: more is believed little by little, less at once.
      const double seen_us = std::chrono::duration<double, std::micro>(Clock::now() - began).count();
      command.expected_us = overslept ? command.expected_us * 0.8 : std::min(seen_us, command.expected_us * 1.1 + 1);
    }
    const ert_cmd_state state = command.run.state();
    if (state != ERT_CMD_STATE_COMPLETED) {
      const bool there = access(kNode, F_OK) == 0;
      throw Error(ErrorCode::kDevice,
                  there ? std::string("the NPU ended a command with ") + name_of(state) + kAdvice : kGone);
    }
    command.run.wait();  // XRT's own bookkeeping; returns at once
    command.in_flight = false;
  } catch (const Error&) {
    fail();
    throw;
  } catch (const std::exception& e) {
    fail();
    const Error error = explain(e);
    throw Error(ErrorCode::kDevice, error.code() == ErrorCode::kNotFound ? kGone : error.what());
  }
  std::lock_guard<std::mutex> lock(keeper_mutex_);
  last_command_ = Clock::now();
}

void Device::leave_alone_for_a_while() { delay_next_open(); }

void Device::set_delays(milliseconds first, milliseconds longest) {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  r.first_delay = r.delay = first;
  r.longest_delay = longest;
}

void Device::fail() {
  if (!failed_.exchange(true)) delay_next_open();
}

void Device::bury(std::shared_ptr<Device> device, std::vector<Command> commands, std::shared_ptr<void> buffers) {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  r.graves.push_back({std::move(device), std::move(commands), std::move(buffers)});
}

// Two chained products of one output tile of every core against the definition: the overlay's cores do what this
// program expects, in both numbers of planes and with GELU, and the second product sees what the first wrote.
void Device::self_test(const std::shared_ptr<Device>& self) {
  constexpr int kWidth = overlay::kTileK;
  const int hidden = std::max(variant_->n_block, overlay::kTileK), rows = overlay::kRowBlock;
  const LayerPlan plan = plan_layer(*variant_, kWidth, hidden, rows, PlanKind::kChained);
  uint32_t seed = 1;
  const auto next = [&seed] {
    return std::max(static_cast<int>((seed = seed * 1664525u + 1013904223u) >> 24) - 128, -127);
  };
  std::vector<int8_t> x(static_cast<size_t>(rows) * kWidth);
  for (auto& v : x) v = static_cast<int8_t>(next());
  struct Weights {
    std::vector<int8_t> w;
    std::vector<int32_t> bias;
    std::vector<int16_t> multiplier;
    OutputStage stage;
  };
  const auto random = [&](int out, int in, const OutputStage& stage) {
    Weights r{std::vector<int8_t>(static_cast<size_t>(out) * in), std::vector<int32_t>(out), std::vector<int16_t>(out),
              stage};
    for (auto& v : r.w) v = static_cast<int8_t>(next());
    for (auto& v : r.bias) v = next() * 100;
    for (auto& v : r.multiplier) v = static_cast<int16_t>(16000 + next());
    return r;
  };
  const Weights first = random(hidden, kWidth, {OutputMode::kGelu14, 3, 15, {20000, 16, 12000, 14, 2}});
  const Weights second = random(kWidth, hidden, {OutputMode::kInt16, 8, 15, {}});

  const auto buffers = std::make_shared<std::array<Buffer, 4>>();
  auto& [a, packed, between, c] = *buffers;
  const size_t c_size = static_cast<size_t>(rows) * plan.fc2.shape.n * 2;
  a = make_buffer(x.size());
  packed = make_buffer(plan.weights_size);
  between = make_buffer(static_cast<size_t>(rows) * hidden * 2);
  c = make_buffer(c_size);
  std::memcpy(a.data(), x.data(), x.size());
  const auto pack = [&](const PlannedProduct& p, const Weights& w, bool wide) {
    pack_weights(*variant_, p.shape,
                 {p.out, p.in, w.w.data(), w.bias.data(), w.multiplier.data(), nullptr, w.stage, wide},
                 packed.data() + p.weights_at);
  };
  pack(plan.fc1, first, false);
  pack(plan.fc2, second, true);
  a.to_device(x.size());
  packed.to_device(plan.weights_size);
  Command command =
      prepare(make_instructions(plan.fc1.dispatches.at(0).words), {a.bo(), packed.bo(), between.bo(), c.bo()}, 0);
  try {
    execute(command);
  } catch (const Error& e) {
    bury(self, {command}, buffers);
    throw Error(ErrorCode::kDevice,
                std::string("the NPU's self-test failed, as it does with an overlay that does not belong to "
                            "this program: ") +
                    e.what());
  }
  c.from_device(c_size);

  std::vector<int16_t> middle(hidden);
  for (int row = 0; row < rows; row += 7) {
    for (int channel = 0; channel < hidden; ++channel) {
      const int32_t sum =
          dot(&x[static_cast<size_t>(row) * kWidth], &first.w[static_cast<size_t>(channel) * kWidth], kWidth);
      middle[channel] = output(sum, first.bias[channel], first.multiplier[channel], first.stage);
    }
    for (int channel = 0; channel < kWidth; ++channel) {
      const int32_t sum = dot(middle.data(), &second.w[static_cast<size_t>(channel) * hidden], hidden);
      const int16_t expected = output(sum, second.bias[channel], second.multiplier[channel], second.stage);
      const uint8_t* at = c.data() + static_cast<size_t>(row) * plan.fc2.shape.n * 2 + channel;
      if (join16(static_cast<int8_t>(at[0]), at[plan.fc2.shape.n]) != expected) {
        fail();
        throw Error(ErrorCode::kDevice,
                    "the NPU's self-test gave a wrong number: its overlay is not the one that belongs to "
                    "this program, or was miscompiled; install the right one, or use backend=cpu");
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
    if (closing_ || failed_ || now - last_command_ < kAwakePeriod - kAwakePeriod / 4 ||
        now - last_work_ > kAwakeAfterWork) {
      continue;
    }
    lock.unlock();
    Command command = prepare(nothing_, {}, 0);
    try {
      run(command, nullptr);
    } catch (const Error&) {
      bury(nullptr, {command}, nullptr);
    }
    lock.lock();
  }
}

}  // namespace whisperxdna2::npu
