// A mutex for threads of equal right: each gets it in the order in which they asked. With std::mutex a holder that
// comes back has it again before a thread that waits is awake.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace whisperxdna2::npu {

class FairMutex {
 public:
  void lock() {
    std::unique_lock<std::mutex> lock(mutex_);
    const uint64_t mine = asked_++;
    changed_.wait(lock, [&] { return served_ == mine; });
  }
  void unlock() {
    std::lock_guard<std::mutex> lock(mutex_);
    ++served_;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t asked_ = 0, served_ = 0;
};

}  // namespace whisperxdna2::npu
