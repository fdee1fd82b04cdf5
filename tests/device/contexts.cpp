#include "tests/device/contexts.h"

#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "tests/device/settings.h"

namespace emulated_npu {
namespace {

// Contexts share the whole array by time: one command at a time, in the order of asking. Under driver_mutex.
struct ArrayTurns {
  std::deque<const Job*> waiting;
  int64_t idle_since_ns = 0;
};
ArrayTurns& turns() {
  static ArrayTurns* instance = new ArrayTurns;
  return *instance;
}

void set_state(uint32_t* packet, uint32_t state) {
  __atomic_store_n(packet, (packet[0] & ~15u) | state, __ATOMIC_RELEASE);
}

// As the driver does: the packet's data is gone after a failure, so such a run cannot be started again by setting one
// argument. After a timeout its first words are the health report that XRT prints.
void set_failed(Bo& bo, uint32_t state) {
  auto* const packet = reinterpret_cast<uint32_t*>(bo.host);
  memset(packet + 1, 0xff, bo.size - sizeof(uint32_t));
  if (state == abi::kTimeout) {
    const uint32_t health[8] = {1, 0, 0, 0, 0, 0, 0, 0};  // kind, -, operation index, program counter, fatal errors
    memcpy(packet + 1, health, sizeof health);
  }
  set_state(packet, state);
}

template <class T>
T read(const uint8_t* at) {
  T value;
  memcpy(&value, at, sizeof value);
  return value;
}

// Hardware does not wait for a processor. Nor does a thread that only takes its time, where the system allows it.
void go_ahead_of_others(bool yes) {
  sched_param parameters{};
  parameters.sched_priority = yes ? 1 : 0;
  sched_setscheduler(0, yes ? SCHED_FIFO : SCHED_OTHER, &parameters);
}

}  // namespace

uint32_t Timelines::create() {
  points_[next_] = -1;
  return next_++;
}

void Timelines::signal(uint32_t handle, uint64_t point) {
  const auto found = points_.find(handle);
  if (found != points_.end()) found->second = std::max(found->second, static_cast<int64_t>(point));
}

bool Timelines::reached(uint32_t handle, uint64_t point) const {
  const auto found = points_.find(handle);
  return found == points_.end() || found->second >= static_cast<int64_t>(point);
}

Context::Context(uint32_t context_handle, uint32_t context_timeline, uint32_t context_columns, long generation,
                 Timelines& timelines)
    : handle(context_handle), timeline(context_timeline), columns(context_columns), generation_(generation),
      timelines_(timelines), thread_([this] { work(); }) {
  ++settings().live_contexts;
}

Context::~Context() {
  {
    std::lock_guard<std::mutex> lock(settings().driver_mutex);
    stopping_ = true;
    for (const Job& job : queue_) {
      set_state(reinterpret_cast<uint32_t*>(job.packet->host), abi::kAbort);
      timelines_.signal(timeline, job.sequence);
    }
    settings().driver_changed.notify_all();
  }
  thread_.join();
  --settings().live_contexts;
}

int Context::load(const std::string& pdi) {
  const std::string trouble = array_.load(pdi);
  if (trouble.empty()) return 0;
  settings().fail("context " + std::to_string(handle) + ": " + trouble);
  return EINVAL;
}

int Context::submit(std::unique_lock<std::mutex>& lock, Job job, uint64_t* sequence) {
  Settings& s = settings();
  s.driver_changed.wait(lock, [&] {
    return stopping_ || s.gone(generation_) || s.slots == 0 || queue_.size() < static_cast<size_t>(s.slots);
  });
  if (stopping_) return EINVAL;
  if (s.gone(generation_)) return ENODEV;
  *sequence = job.sequence = submitted++;
  job.submitted_ns = monotonic_ns();
  if (s.in_submission) return perform(lock, job) ? 0 : EINVAL;
  queue_.push_back(std::move(job));
  s.driver_changed.notify_all();
  return 0;
}

void Context::work() {
  prctl(PR_SET_TIMERSLACK, 1000);  // ns: commands end when the cost model says
  Settings& s = settings();
  bool ahead = false;
  std::unique_lock<std::mutex> lock(s.driver_mutex);
  for (;;) {
    s.driver_changed.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    if (const bool computes = s.mode != Array::Mode::kDelay; computes == ahead) go_ahead_of_others(ahead = !computes);
    const Job job = queue_.front();  // BOs live on while the command runs, whatever the process closes
    if (!perform(lock, job)) return;
    queue_.pop_front();
    s.driver_changed.notify_all();
  }
}

// Waits for the array, runs the job there without the lock, and completes it. False if the context has ended: its
// destructor tells those who wait.
bool Context::perform(std::unique_lock<std::mutex>& lock, const Job& job) {
  Settings& s = settings();
  std::deque<const Job*>& waiting = turns().waiting;
  waiting.push_back(&job);
  s.driver_changed.wait(lock, [&] { return stopping_ || waiting.front() == &job; });
  const auto leave = [&] {
    waiting.erase(std::find(waiting.begin(), waiting.end(), &job));
    s.driver_changed.notify_all();
  };
  if (stopping_) return leave(), false;

  uint32_t failed_entry = 0;
  lock.unlock();
  Result result = run_job(job, &failed_entry);
  if (result.hang) {
    const int watchdog = s.watchdog_ms;
    const bool undisturbed = idle_until(watchdog ? monotonic_ns() + watchdog * int64_t{1000000} : INT64_MAX);
    result.state = abi::kTimeout;
    if (undisturbed) array_.reset();  // the driver restarts the context
  }
  lock.lock();

  leave();
  turns().idle_since_ns = monotonic_ns();
  if (stopping_) return false;
  if (s.gone(generation_)) result.state = abi::kAbort;

  auto* const packet = reinterpret_cast<uint32_t*>(job.packet->host);
  if (result.state != abi::kCompleted) ++errors;
  if (result.state == abi::kCompleted) {
    set_state(packet, abi::kCompleted);
  } else if (job.chained.empty()) {
    set_failed(*job.packet, result.state);
  } else {
    reinterpret_cast<abi::ChainPacket*>(packet)->error_index = failed_entry;
    set_state(packet, result.state);
  }
  ++completed;
  timelines_.signal(timeline, job.sequence);
  return true;
}

// Sleeps till the deadline; false if the context or the device ended before.
bool Context::idle_until(int64_t deadline_ns) {
  Settings& s = settings();
  std::unique_lock<std::mutex> lock(s.driver_mutex);
  const auto ended = [&] { return stopping_ || s.gone(generation_); };
  if (deadline_ns == INT64_MAX) {
    s.driver_changed.wait(lock, ended);
    return false;
  }
  const auto deadline = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline_ns));
  return !s.driver_changed.wait_until(lock, deadline, ended);
}

Context::Result Context::run_job(const Job& job, uint32_t* failed_entry) {
  if (job.chained.empty()) return run_packet(job, reinterpret_cast<const uint32_t*>(job.packet->host), false);
  for (size_t i = 0; i < job.chained.size(); ++i) {
    *failed_entry = static_cast<uint32_t>(i);
    const Result result = run_packet(job, reinterpret_cast<const uint32_t*>(job.chained[i]->host), i > 0);
    if (result.hang || result.state != abi::kCompleted) return result;
  }
  return {abi::kCompleted, false};
}

Context::Result Context::run_packet(const Job& job, const uint32_t* packet, bool chained) {
  Settings& s = settings();
  if (s.gone(generation_)) return {abi::kAbort, false};
  const int64_t start = monotonic_ns();
  const long number = s.commands;
  const std::optional<Fault> fault = s.next_fault();

  int64_t wake_ns = 0;
  {
    std::lock_guard<std::mutex> lock(s.driver_mutex);
    const int64_t idle_since = turns().idle_since_ns;
    const bool asleep = s.suspend_ms && idle_since && start - idle_since > s.suspend_ms * int64_t{1000000};
    if (s.take_sleep_request() || asleep) {
      ++s.wakes;
      wake_ns = s.wake_us * int64_t{1000};
      array_.reset();
    }
    turns().idle_since_ns = start;
  }

  if (fault == Fault::kUnplug) s.unplug();
  if (fault == Fault::kHang || fault == Fault::kUnplug) return {abi::kTimeout, true};
  if (fault == Fault::kError) return {abi::kError, false};
  if (fault == Fault::kAbort) return {abi::kAbort, false};
  if (fault == Fault::kTimeout) return {abi::kTimeout, false};

  const auto failed = [&](const std::string& why) {
    s.fail("command " + std::to_string(number) + ": " + why);
    return Result{abi::kError, false};
  };

  // The packet, as XRT writes it for each of its flows.
  const uint32_t masks = abi::packet_masks(packet[0]), count = abi::packet_count(packet[0]);
  const uint8_t* const payload = reinterpret_cast<const uint8_t*>(packet + 1 + masks);
  const uint64_t bytes = count > masks ? (count - masks) * sizeof(uint32_t) : 0;
  uint64_t instructions = 0, instruction_bytes = 0;
  std::vector<uint64_t> arguments;
  const uint32_t opcode = abi::packet_opcode(packet[0]);
  switch (opcode) {
    case abi::kStartCu: {
      constexpr uint64_t kArguments = 0x14, kRunTransaction = 3;
      if (bytes < kArguments) return failed("the packet is shorter than its fixed part");
      if (read<uint64_t>(payload) != kRunTransaction) return failed("the opcode argument is not 3 (run a transaction)");
      instructions = read<uint64_t>(payload + 8);
      instruction_bytes = uint64_t{read<uint32_t>(payload + 16)} * sizeof(uint32_t);
      if (!instruction_bytes) return failed("the instruction count is 0: hardware reports completion and does nothing");
      for (uint64_t at = kArguments; at + 8 <= bytes; at += 8) arguments.push_back(read<uint64_t>(payload + at));
      break;
    }
    case abi::kStartNpu:
      if (bytes < 16) return failed("the packet is shorter than its fixed part");
      instructions = read<uint64_t>(payload);
      instruction_bytes = read<uint32_t>(payload + 8);
      break;
    case abi::kStartNpuPreempt:
    case abi::kStartNpuPreemptElf:
      if (bytes < 40) return failed("the packet is shorter than its fixed part");
      instructions = read<uint64_t>(payload);
      instruction_bytes = read<uint32_t>(payload + 24);
      break;
    default:
      return failed("packet opcode " + std::to_string(opcode) + " is unknown");
  }
  const bool patched = opcode != abi::kStartCu;
  if (instructions < Buffers::kHeapBase || instructions >= Buffers::kHeapBase + Buffers::kHeapMax ||
      instructions % sizeof(uint32_t)) {
    return failed("the instruction address is not a word in the heap; instructions need a cacheable BO");
  }
  const CommandMemory& memory = patched ? job.everything : job.memory;
  const uint8_t* const code = memory.at(instructions, instruction_bytes);
  if (!code) return failed("the instructions are longer than their BO, or it is not among the command's");

  Outcome outcome;
  if (fault != Fault::kSkip) {
    Command command;
    command.words = reinterpret_cast<const uint32_t*>(code);
    command.word_count = instruction_bytes / sizeof(uint32_t);
    command.arguments = patched ? nullptr : &arguments;
    outcome = array_.run(command, memory, s.mode);
    s.kmac += static_cast<long>(outcome.mmac * 1000);
  }

  const double cost_us = (chained ? s.cost_chained_us : s.cost_fixed_us) + outcome.mmac * s.cost_us_per_mmac;
  const int64_t cost_ns = wake_ns + static_cast<int64_t>(cost_us * 1000);
  if (cost_ns > 0) {
    const int64_t watchdog_ns = s.watchdog_ms * int64_t{1000000};
    if (watchdog_ns && cost_ns > watchdog_ns) return {abi::kTimeout, true};
    idle_until(start + cost_ns);
  }
  const int64_t end = monotonic_ns();
  s.busy_us += static_cast<long>((end - start) / 1000);
  s.trace(number, job.submitted_ns, start, end, outcome.mmac, arguments.empty() ? 0 : arguments[0]);

  switch (outcome.kind) {
    case Outcome::kFailed:
      return failed(outcome.message);
    case Outcome::kHung:
      failed(outcome.message);
      return {abi::kTimeout, true};
    case Outcome::kDone:
      break;
  }
  return {abi::kCompleted, false};
}

}  // namespace emulated_npu
