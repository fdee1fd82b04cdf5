// The NPU: one device, one overlay, one hardware context in the process, shared by all encoders.
//
// The context asks for no quality of service: the driver then runs the NPU at its highest clock, and any hint could
// only lower it. The power mode (xrt-smi configure --pmode) is the administrator's.
//
// A context is changed at a cost of milliseconds and the overlay serves every shape, so there is never a second one.
// After any failed, aborted or overdue command the context is not used again: the array may hold half a product, and
// only a new context resets it. The Device says so from then on (failed()), its users let go of everything they have
// from it, and the next open() makes another, not sooner than a delay that doubles from 1 s to a minute.
#pragma once

#include <xrt/xrt_bo.h>
#include <xrt/xrt_device.h>
#include <xrt/xrt_hw_context.h>
#include <xrt/xrt_kernel.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/overlay.h"
#include "npu/fair_mutex.h"
#include "whisper/error.h"

namespace whisperxdna2::npu {

// What an exception of XRT means to the user, and what to do about it.
Error explain(const std::exception& e);

// Calls into XRT, whose exceptions leave as Error.
template <class Call>
auto checked(const Call& call) {
  try {
    return call();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw explain(e);
  }
}

// Memory that the NPU and the processor share. Their caches do not know of each other: what the processor wrote is
// flushed before a command reads it, what a command wrote is flushed before the processor reads it, and a buffer that
// the processor has written is flushed before a command writes it. Buffers are clean when made; what only the NPU
// touches needs nothing.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(xrt::bo bo) : bo_(std::move(bo)), data_(bo_.map<uint8_t*>()) {}

  uint8_t* data() const { return data_; }
  const xrt::bo& bo() const { return bo_; }
  void to_device(size_t bytes) { sync(XCL_BO_SYNC_BO_TO_DEVICE, bytes); }
  void from_device(size_t bytes) { sync(XCL_BO_SYNC_BO_FROM_DEVICE, bytes); }

 private:
  void sync(xclBOSyncDirection direction, size_t bytes) {
    checked([&] { bo_.sync(direction, bytes, 0); });
  }
  xrt::bo bo_;
  uint8_t* data_ = nullptr;
};

// A stream bound to its buffers; started any number of times, one at a time.
struct Command {
  xrt::run run;
  std::vector<xrt::bo> buffers;  // what the run uses and XRT does not keep for it
  double expected_us = 0;  // the time it takes: predicted at first, then seen
  bool in_flight = false;
};

class Device {
 public:
  // The process's device, made and tested where nobody has it. Throws Error: kNotFound without an NPU or overlay,
  // kNoResource for permissions, locked memory or contexts, kUnsupported for a foreign overlay, kDevice where the
  // self-test fails or the delay after a failure has not passed. Thread-safe.
  static std::shared_ptr<Device> open();
  ~Device();

  const overlay::Variant& variant() const { return *variant_; }
  const std::string& name() const { return name_; }
  const std::string& firmware() const { return firmware_; }

  Buffer make_buffer(size_t bytes);
  // In the instruction heap, flushed.
  xrt::bo make_instructions(const std::vector<uint32_t>& words);
  // buffers: the kernel's arguments for address patches, in order.
  Command prepare(const xrt::bo& instructions, const std::vector<xrt::bo>& buffers, double predicted_us);

  // Runs it and waits until it has ended. Thread-safe for different commands, which are started in the order in which
  // their threads came: nobody waits for more commands than there are threads. Throws Error(kDevice); then the device
  // has failed for everyone, and the command may still be running: see bury(). started: called once the NPU has the
  // command.
  void execute(Command& command, const std::function<void()>& started = nullptr);
  // Lets it fall asleep until the next command.
  void rest();
  bool failed() const { return failed_; }
  // Makes it failed, for a user to whom something else than a command failed that only a new context can bring back.
  void fail();
  // For users who do not get what they need from a device that has not failed, such as memory.
  static void leave_alone_for_a_while();
  // Of the delays before a device that has failed is opened anew. For tests.
  static void set_delays(std::chrono::milliseconds first, std::chrono::milliseconds longest);

  // Keeps commands, their buffers and the device until the commands have ended, since XRT waits for ever where a run in
  // flight is destroyed. They are looked at by the next open().
  static void bury(std::shared_ptr<Device> device, std::vector<Command> commands, std::shared_ptr<void> buffers);

 private:
  using Clock = std::chrono::steady_clock;
  Device();
  void self_test(const std::shared_ptr<Device>& self);
  void run(Command& command, const std::function<void()>& started);
  void start(Command& command);
  void keep_awake();

  xrt::device device_;
  xrt::hw_context context_;
  xrt::kernel kernel_;
  const overlay::Variant* variant_ = nullptr;
  std::string name_, firmware_;

  std::atomic<bool> failed_{false};

  // Whose turn it is to start a command. A thread may wait inside its turn, since the driver takes four commands at a
  // time.
  FairMutex turn_;

  // The keeper of the device's wakefulness.
  xrt::bo nothing_;  // a stream that changes nothing
  std::mutex keeper_mutex_;
  std::condition_variable keeper_changed_;
  Clock::time_point last_work_{}, last_command_{};
  bool closing_ = false;
  std::thread keeper_;
};

}  // namespace whisperxdna2::npu
