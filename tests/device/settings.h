// Settings, faults, counters and log of the emulated NPU: everything control.h reaches. One set per process.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tests/device/array.h"

namespace emulated_npu {

// What separates the host's and the device's sight of a BO.
enum class Views {
  kOne,        // nothing: a forgotten sync goes unnoticed (timing runs)
  kDirection,  // SYNC_BO copies the bytes in the direction asked for
  kLine,       // as caches do: dirty lines are written back, clean ones refetched, whatever the direction
};

enum class Fault {
  kError,    // ends with state 5
  kAbort,    // ends with state 6
  kTimeout,  // ends with state 8 at once
  kHang,     // never ends: the watchdog's case
  kUnplug,   // the device vanishes while the command runs
  kSkip,     // ends with state 4, but nothing was done
};

class Settings {
 public:
  Settings();
  long control(const std::string& words);

  // Read by the driver and the device. Plain settings are set before the work they concern; atomics at any time.
  int slots = 4;                          // jobs in flight per context before EXEC_CMD blocks; 0: no limit
  std::atomic<bool> in_submission{false};  // commands run on the thread that submits them
  std::atomic<int> watchdog_ms{2000};     // 0: none
  std::atomic<int> contexts{16};          // how many may exist
  std::atomic<long> suspend_ms{5000};     // idle time after which the device sleeps; 0: never
  std::atomic<long> wake_us{130000};      // what waking costs the next command
  std::atomic<double> cost_fixed_us{0};   // a command takes cost_fixed_us + MMAC * cost_us_per_mmac
  std::atomic<double> cost_chained_us{0}; // the fixed part of a chain's second and later commands
  std::atomic<double> cost_us_per_mmac{0};
  std::atomic<Array::Mode> mode{Array::Mode::kExact};
  std::atomic<long> replug_ms{0};         // time after which a vanished device is back; 0: only by the word "replug"
  std::atomic<bool> denied{false};        // opening the node fails with EACCES
  std::atomic<bool> flushless{false};     // SYNC_BO from the device fails with EINVAL, as the real driver's does
  std::atomic<bool> lock_limited{false};  // locked mappings fail with EAGAIN, as under a small RLIMIT_MEMLOCK
  bool wait_command = false;              // completion by WAIT_CMD instead of a timeline syncobj
  bool user_addresses = false;            // SHARE BOs lie at their user address (PASID mode) instead of an IOVA
  Views views = Views::kLine;
  std::string left_out;                   // ",name,name,": sysfs entries that do not exist

  // Counters
  std::atomic<long> ioctls{0}, syncs{0}, synced_bytes{0}, executions{0}, waits{0}, commands{0}, bos{0},
      live_contexts{0}, wakes{0}, failures{0}, busy_us{0}, kmac{0};

  bool present();  // whether the device can be opened
  // Counts removals: who opened the device in an earlier generation has lost it for good.
  long generation() const { return generation_; }
  bool gone(long generation) const { return generation_ != generation; }
  void unplug();
  void plug();
  // Called at the start of each command: which fault, if any, is due.
  std::optional<Fault> next_fault();
  // True for the SYNC_BO that "drop_sync=n" names: the caller ignores it.
  bool drop_sync() { return sync_countdown_ >= 0 && sync_countdown_-- == 0; }
  // True for the CREATE_BO that "fail_bo=n" names.
  bool fail_bo() { return bo_countdown_ >= 0 && bo_countdown_-- == 0; }
  bool take_sleep_request() { return sleep_request_.exchange(false); }

  void fail(const std::string& message);  // counts, keeps and prints the reason of a failed command
  std::string last_message();
  int log_level() const { return log_level_; }
  void log(const char* format, ...) __attribute__((format(printf, 2, 3)));
  void trace(long command, int64_t submitted_ns, int64_t start_ns, int64_t end_ns, double mmac, uint64_t argument);

  // The driver's lock, and what everyone who blocks in it waits on: completions, removal, the end of a context.
  std::mutex driver_mutex;
  std::condition_variable driver_changed;

 private:
  struct PendingFault {
    Fault kind;
    long at;     // the command's number
    long every;  // 0: once
  };
  long word(const std::string& word);
  bool set(const std::string& key, const std::string& value);
  bool add_fault(const std::string& value);

  std::atomic<bool> present_{true};
  std::atomic<long> generation_{0};
  std::atomic<int64_t> back_at_ns_{0};
  std::atomic<long> sync_countdown_{-1}, bo_countdown_{-1};
  std::atomic<bool> sleep_request_{false};
  std::atomic<int> log_level_{0};
  FILE* log_file_ = stderr;
  FILE* trace_file_ = nullptr;
  std::mutex mutex_;  // of the two below
  std::vector<PendingFault> faults_;
  std::string last_message_;
};

// Never destroyed: interposed functions run before the constructors and after the destructors of this library.
Settings& settings();

int64_t monotonic_ns();

}  // namespace emulated_npu

#define EMULATED_NPU_LOG(level, ...)                                            \
  do {                                                                          \
    if (::emulated_npu::settings().log_level() >= (level)) ::emulated_npu::settings().log(__VA_ARGS__); \
  } while (0)
