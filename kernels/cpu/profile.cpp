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
thread_local int current_layer = -1;

// The entry for a name and a layer, made if need be.
ProfileEntry& entry_of(std::vector<ProfileEntry>* all, const std::string& name, int layer) {
  auto found = std::find_if(all->begin(), all->end(),
                            [&](const ProfileEntry& e) { return e.layer == layer && e.name == name; });
  if (found == all->end()) found = all->insert(all->end(), {name, layer, 0, 0, 0});
  return *found;
}

}  // namespace

void enable_profile(bool on) { enabled = on; }

std::vector<ProfileEntry> take_profile(bool by_layer) {
  std::unique_lock<std::mutex> lock(mutex);
  const std::vector<ProfileEntry> taken = std::exchange(entries, {});
  lock.unlock();
  if (by_layer) return taken;
  std::vector<ProfileEntry> sums;
  for (const ProfileEntry& e : taken) {
    ProfileEntry& sum = entry_of(&sums, e.name, -1);
    sum.calls += e.calls;
    sum.nanoseconds += e.nanoseconds;
    sum.operations += e.operations;
  }
  return sums;
}

ProfileLayer::ProfileLayer(int layer) { current_layer = layer; }
ProfileLayer::~ProfileLayer() { current_layer = -1; }

ProfileScope::ProfileScope(const char* name, int64_t operations)
    : name_(enabled.load(std::memory_order_relaxed) ? name : nullptr), operations_(operations) {
  if (name_) begin_ = Clock::now();
}

ProfileScope::~ProfileScope() {
  if (!name_) return;
  const int64_t time = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin_).count();
  std::lock_guard<std::mutex> lock(mutex);
  ProfileEntry& entry = entry_of(&entries, name_, current_layer);
  ++entry.calls;
  entry.nanoseconds += time;
  entry.operations += operations_;
}

}  // namespace whisperxdna2
