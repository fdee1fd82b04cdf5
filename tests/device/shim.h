// The shim row: buffer descriptors, task queues and tokens, as a stream programs them, and the bytes they move.
//
// A queue's tasks start to move when the stream waits for a token, so that everything pushed before counts as
// outstanding: silicon may be faster, but a stream must not rely on it. For the same reason a task that has ended keeps
// its place in the queue and its descriptor until a token that proves its end has been taken.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "kernels/overlay.h"
#include "tests/device/array.h"
#include "tests/device/transactions.h"

namespace emulated_npu {

using whisperxdna2::overlay::Channel;
using whisperxdna2::overlay::Direction;

std::string describe(const Channel& channel);

// A task's walk over memory. Steps are never negative, so that one check at the start covers them all.
struct ShimTask {
  uint8_t* base = nullptr;
  uint64_t address = 0, extent = 0;  // what it touches lies in [address, address + extent)
  uint64_t run_words = 0, runs = 0;  // words of one run, number of runs
  uint64_t size0 = 0, size1 = 0;     // words; 0: the dimension has no end
  uint64_t step0 = 1, step1 = 0, step2 = 0, run_step = 0;  // words
  int bd = 0;
  bool token = false;
  uint64_t pushed_at = 0;  // word in the stream
  uint64_t done = 0;       // words moved

  uint64_t words() const { return run_words * runs; }
  bool ended() const { return done == words(); }
  // Where the next word is, and how many follow it without a gap.
  uint8_t* next(uint64_t* contiguous_words) const;
};

class Shim {
 public:
  // Bytes of the objects the overlay moves over a channel, 0 for a channel that leads nowhere.
  using ObjectSize = std::function<uint64_t(const Channel&)>;
  explicit Shim(int columns, ObjectSize object_size) : columns_(columns), object_size_(std::move(object_size)) {}

  // The stream's accesses. Throw Violation.
  void write(const Operation& operation, const Memory& memory, bool patched);
  void block_write(const Operation& operation);
  void mask_write(const Operation& operation);
  void patch(const Operation& operation, const std::vector<uint64_t>& arguments);

  // The array's. Whether a whole object can be taken from, or given to, the channel's tasks.
  bool ready(const Channel& channel) const;
  // Where the next object lies, if it does so without a gap; null otherwise.
  const uint8_t* peek(const Channel& channel) const;
  void take(const Channel& channel, uint8_t* object);  // null: only moves on
  void give(const Channel& channel, const uint8_t* object);

  bool take_token(const Channel& channel);
  // A token was taken there. `proves(channel)`: whether it proves the end of that channel's ended tasks.
  void retire(const std::function<bool(const Channel&)>& proves);
  // What is left of tasks and tokens at the end of a stream, or an empty string.
  std::string leftovers() const;

 private:
  struct Bd {
    std::array<uint32_t, whisperxdna2::overlay::kBdWords> words{};
    bool patched = false;
    int users = 0;  // tasks outstanding
  };
  struct Queue {
    std::deque<ShimTask> tasks;  // outstanding, oldest first
    uint32_t control = 0;
    int tokens = 0;
  };
  struct Column {
    Bd bd[whisperxdna2::overlay::kShimBds];
    Queue queue[2][2];  // direction, index
  };
  Queue& queue(const Channel& c) { return column_[c.column].queue[static_cast<int>(c.direction)][c.index]; }
  const Queue& queue(const Channel& c) const { return const_cast<Shim*>(this)->queue(c); }
  ShimTask* moving(const Channel& channel);
  Bd& bd_of(const Operation& operation, uint32_t address, uint32_t* word);
  void push(const Operation& operation, const Channel& channel, const Memory& memory, bool patched);
  void move(const Channel& channel, uint8_t* to, const uint8_t* from);
  template <class Visit>
  void for_each_channel(Visit visit);

  int columns_;
  ObjectSize object_size_;
  Column column_[whisperxdna2::overlay::kMaxColumns];
};

}  // namespace emulated_npu
