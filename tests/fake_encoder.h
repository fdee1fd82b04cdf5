// An encoder that computes nothing: it takes its time, fails or hangs on demand, and remembers what it was given.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "whisper/encoder.h"
#include "whisper/error.h"

namespace whisperxdna2 {

// How a fake encoding goes.
struct FakeBehavior {
  std::chrono::milliseconds duration{0};  // from submission
  bool hangs = false;                     // never ends by itself
  int fails_at = -1;                      // index of the encoding that fails
};

class FakeEncoder : public Encoder {
  using Clock = std::chrono::steady_clock;

 public:
  FakeEncoder(int n_mels, int d_model, FakeBehavior behavior = {})
      : n_mels_(n_mels), d_model_(d_model), behavior_(behavior) {}

  EncoderInfo describe() const override { return {"fake", "none", "", "f32"}; }

  void submit(int slot, const float* mel, int positions) override {
    std::lock_guard<std::mutex> lock(mutex_);
    Slot& s = slots_.at(slot);
    if (s.used) throw Error(ErrorCode::kInvalidUse, "slot in use");
    s.used = true;
    s.index = submitted_++;
    s.end = Clock::now() + behavior_.duration;
    s.features.resize(static_cast<size_t>(positions) * d_model_);
    // Position p, channel 0 = the mean of its two frames over all bands; channel 1 = the encoding's index.
    const int frames = positions * kFramesPerPosition;
    for (int p = 0; p < positions; ++p) {
      float sum = 0;
      for (int band = 0; band < n_mels_; ++band) sum += mel[band * frames + 2 * p] + mel[band * frames + 2 * p + 1];
      s.features[static_cast<size_t>(p) * d_model_] = sum / static_cast<float>(2 * n_mels_);
      s.features[static_cast<size_t>(p) * d_model_ + 1] = static_cast<float>(s.index);
    }
    in_flight_ += 1;
    most_in_flight_ = std::max(most_in_flight_, in_flight_);
  }

  const float* wait(int slot, Clock::time_point deadline) override {
    std::unique_lock<std::mutex> lock(mutex_);
    Slot& s = slots_.at(slot);
    if (!s.used) throw Error(ErrorCode::kInvalidUse, "slot not in use");
    const auto until = behavior_.hangs ? deadline : std::min(deadline, s.end);
    changed_.wait_until(lock, until, [&] { return interrupted_; });
    s.used = false;
    --in_flight_;
    if (interrupted_) throw Error(ErrorCode::kInterrupted, "interrupted");
    if (behavior_.hangs) throw Error(ErrorCode::kDevice, "the encoder does not answer");
    if (s.index == behavior_.fails_at) throw Error(ErrorCode::kDevice, "the encoder failed");
    return s.features.data();
  }

  void interrupt() override { set_interrupted(true); }
  void resume() override { set_interrupted(false); }

  int submitted() const { return locked(submitted_); }
  int in_flight() const { return locked(in_flight_); }
  int most_in_flight() const { return locked(most_in_flight_); }

 private:
  struct Slot {
    bool used = false;
    int index = 0;
    Clock::time_point end;
    std::vector<float> features;
  };

  int locked(const int& value) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return value;
  }
  void set_interrupted(bool value) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      interrupted_ = value;
    }
    changed_.notify_all();
  }

  const int n_mels_, d_model_;
  const FakeBehavior behavior_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::array<Slot, kSlots> slots_;
  int submitted_ = 0, in_flight_ = 0, most_in_flight_ = 0;
  bool interrupted_ = false;
};

}  // namespace whisperxdna2
