// The two slots of an Encoder between its caller and the threads that execute it: who may do what to a slot, and when.
//
//                submit()            serve()                 the executor ends
//      kFree ------------> kQueued ----------> kRunning ---------------------------> kDone, kAbandoned, kFailed
//        ^                    |                   |  abandoned by wait() or interrupt():             |
//        |                    | wait() gives up   |  wait() stays until the executor has ended       |
//        +--------------------+-------------------+--------------------------------------------------+  wait()
//
// wait() alone frees a slot. A slot that runs belongs to its executor: mel is read and features are written without the
// lock.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "whisper/encoder.h"
#include "whisper/error.h"

namespace whisperxdna2 {

// An Encoder but for what encodes. A derived class starts threads that call serve(), and in its destructor calls stop()
// and joins them.
class SlottedEncoder : public Encoder {
 public:
  void submit(int slot, const float* mel, int positions) final;
  const float* wait(int slot, std::chrono::steady_clock::time_point deadline) final;
  void interrupt() final { set_interrupted(true); }
  void resume() final { set_interrupted(false); }

  struct Window {
    const float* mel;
    int positions;
    float* features;
    const std::atomic<bool>& abandoned;  // once true nobody wants the features
  };

 protected:
  // who: what did not end in time, for the message ("the NPU").
  SlottedEncoder(int d_model, int most_positions, std::string who)
      : d_model_(d_model), most_positions_(most_positions), who_(std::move(who)) {}

  // Returns false where it left off because the window is abandoned. An Error or std::bad_alloc it throws is thrown by
  // wait().
  using Encode = std::function<bool(const Window&)>;

  static constexpr int kEverySlot = -1;
  // The life of a thread: encodes the windows submitted to `slot`, or to every slot, until stop(). They begin in the
  // order of submission, and not while interrupted.
  void serve(int slot, const Encode& encode);
  void stop();

 private:
  enum class State { kFree, kQueued, kRunning, kDone, kAbandoned, kFailed };
  struct Slot {
    State state = State::kFree;
    const float* mel = nullptr;
    int positions = 0;
    uint64_t order = 0;  // of submission
    std::vector<float> features;
    ErrorCode code = ErrorCode::kDevice;  // kFailed
    std::string what;
    std::atomic<bool> abandoned{false};   // read by the executor without the lock
  };
  void set_interrupted(bool value);

  const int d_model_, most_positions_;
  const std::string who_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::array<Slot, kSlots> slots_;
  uint64_t next_order_ = 0;
  bool interrupted_ = false, stopping_ = false;
  unsigned interruptions_ = 0;  // counted, so that a wait() does not miss one that ends before its thread runs again
};

}  // namespace whisperxdna2
