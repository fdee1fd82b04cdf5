#include "kernels/cpu/profile.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

namespace whisperxdna2 {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> enabled{false};
std::mutex mutex;
std::vector<ProfileEntry> entries;  // guarded by mutex

}  // namespace

void enable_profile(bool on) { enabled = on; }

std::vector<ProfileEntry> take_profile() {
  std::lock_guard<std::mutex> lock(mutex);
  return std::exchange(entries, {});
}

ProfileScope::ProfileScope(const char* name, int64_t operations)
    : name_(enabled.load(std::memory_order_relaxed) ? name : nullptr), operations_(operations) {
  if (name_) begin_ = Clock::now();
}

ProfileScope::~ProfileScope() {
  if (!name_) return;
  const int64_t time = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin_).count();
  std::lock_guard<std::mutex> lock(mutex);
  auto entry = std::find_if(entries.begin(), entries.end(), [&](const ProfileEntry& e) { return e.name == name_; });
  if (entry == entries.end()) entry = entries.insert(entries.end(), {name_, 0, 0, 0});
  ++entry->calls;
  entry->nanoseconds += time;
  entry->operations += operations_;
}

}  // namespace whisperxdna2
