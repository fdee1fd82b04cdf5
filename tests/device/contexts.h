// Hardware contexts: their queues of commands, the packets of those, and completion.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/device/array.h"
#include "tests/device/buffers.h"

namespace emulated_npu {

// Timeline fences. Point 0 is a real point: it is the first command's.
class Timelines {
 public:
  uint32_t create();
  void destroy(uint32_t handle) { points_.erase(handle); }
  bool exists(uint32_t handle) const { return points_.count(handle) != 0; }
  void signal(uint32_t handle, uint64_t point);
  bool reached(uint32_t handle, uint64_t point) const;

 private:
  uint32_t next_ = 1;
  std::map<uint32_t, int64_t> points_;  // the last point reached, -1 for none
};

struct Job {
  std::shared_ptr<Bo> packet;
  std::vector<std::shared_ptr<Bo>> chained;  // packets of a chain
  CommandMemory memory;                      // what EXEC_CMD listed
  CommandMemory everything;                  // all BOs: what control code that XRT has patched may touch
  uint64_t sequence = 0;
  int64_t submitted_ns = 0;
};

// All members but `array` are under Settings::driver_mutex.
class Context {
 public:
  Context(uint32_t handle, uint32_t timeline, uint32_t columns, long generation, Timelines& timelines);
  ~Context();  // ends commands in flight with state 6 and waits for the thread; call without the lock

  // What CONFIG_HWCTX brings. Returns an errno.
  int load(const std::string& pdi);
  // Takes a place in the queue, waiting for one while all slots are taken. Returns an errno.
  int submit(std::unique_lock<std::mutex>& lock, Job job, uint64_t* sequence);
  void stop() { stopping_ = true; }
  bool idle() const { return queue_.empty(); }

  const uint32_t handle, timeline, columns;
  uint64_t submitted = 0, completed = 0, errors = 0;

 private:
  struct Result {
    uint32_t state;
    bool hang;
  };
  void work();
  bool perform(std::unique_lock<std::mutex>& lock, const Job& job);
  Result run_job(const Job& job, uint32_t* failed_entry);
  Result run_packet(const Job& job, const uint32_t* packet, bool chained);
  bool idle_until(int64_t deadline_ns);

  const long generation_;  // of the device it is on
  Timelines& timelines_;
  std::deque<Job> queue_;
  bool stopping_ = false;
  Array array_;  // the thread's, and load()'s while nothing is queued
  std::thread thread_;
};

}  // namespace emulated_npu
