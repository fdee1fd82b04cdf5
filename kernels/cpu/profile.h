// Where the time goes: per kind of operation and layer calls, time and arithmetic operations, summed over the process.
//
// Off until enabled; then each measured operation costs two clock readings and a lock, at most some hundred times per
// window.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace whisperxdna2 {

struct ProfileEntry {
  std::string name;
  int layer = -1;          // -1: outside the layers, or all of them
  int64_t calls = 0;
  int64_t nanoseconds = 0;
  int64_t operations = 0;  // multiplications and additions; 0 where they are not what takes the time
};

// Thread-safe.
void enable_profile(bool enabled);
// The sums since the last call, over all layers or for each one, in the order in which they first appeared.
std::vector<ProfileEntry> take_profile(bool by_layer = false);

// What this thread measures belongs to a layer while this lives.
class ProfileLayer {
 public:
  explicit ProfileLayer(int layer);
  ~ProfileLayer();
  ProfileLayer(const ProfileLayer&) = delete;
  ProfileLayer& operator=(const ProfileLayer&) = delete;
};

// Measures its own life.
class ProfileScope {
 public:
  // `name` must live as long as the process.
  ProfileScope(const char* name, int64_t operations);
  ~ProfileScope();
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  const char* const name_;  // null: off
  const int64_t operations_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace whisperxdna2
