// What is prepared from a model once, at some length, and shared by all who use it.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "whisper/error.h"
#include "whisper/model.h"

namespace whisperxdna2 {

// Locks a mutex that is held while something is prepared, so that a second thread waits for the first one. Throws
// Error(kInterrupted, stopped) soon after *cancel (may be null) became true while it waits.
inline std::unique_lock<std::timed_mutex> lock_unless_canceled(std::timed_mutex& mutex, const std::atomic<bool>* cancel,
                                                               const std::string& stopped) {
  std::unique_lock<std::timed_mutex> lock(mutex, std::defer_lock);
  while (!lock.try_lock_for(std::chrono::milliseconds(20))) {
    if (cancel && *cancel) throw Error(ErrorCode::kInterrupted, stopped);
  }
  return lock;
}

// One T for each model in use. An entry goes with its last user. Thread-safe.
template <class T>
class Prepared {
 public:
  // The T that somebody holds, else the one that `make` returns. stopped, cancel: as lock_unless_canceled().
  template <class Make>
  std::shared_ptr<const T> get(const std::shared_ptr<const Model>& model, const Make& make, const std::string& stopped,
                               const std::atomic<bool>* cancel = nullptr) {
    const std::unique_lock<std::timed_mutex> lock = lock_unless_canceled(mutex_, cancel, stopped);
    entries_.erase(std::remove_if(entries_.begin(), entries_.end(), [](const Entry& e) { return e.made.expired(); }),
                   entries_.end());
    for (const Entry& e : entries_) {
      if (e.model.lock() != model) continue;
      if (auto made = e.made.lock()) return made;
    }
    const std::shared_ptr<const T> made = make();
    entries_.push_back({model, made});
    return made;
  }

 private:
  struct Entry {
    std::weak_ptr<const Model> model;
    std::weak_ptr<const T> made;
  };
  std::timed_mutex mutex_;  // held while making
  std::vector<Entry> entries_;
};

}  // namespace whisperxdna2
