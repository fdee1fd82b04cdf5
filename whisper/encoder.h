// The interface between the engine and whatever executes Whisper's audio encoder (radford et al. 2022, section 2.2).
//
// Two executors implement it: the CPU (cpu_encoder.h) and the NPU module (npu/), loaded on demand by backend.h. A third
// one in the tests sleeps and fails on demand. Work is double buffered: while slot k is being encoded, the caller may
// fill and submit slot 1 - k.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace whisperxdna2 {

// Frames of log-mel per encoder position: the stem's second convolution has stride 2.
constexpr int kFramesPerPosition = 2;
// Longest input the model's positional table covers: 1500 positions of 20 ms, 30 s.
constexpr int kMaxPositions = 1500;

struct EncoderInfo {
  std::string backend;    // "cpu" or "npu"
  std::string device;     // processor or NPU name, for people
  std::string firmware;   // empty where there is none
  std::string precision;  // "f32", "bf16" or "int8"
  // Why the CPU does at present what the device was to do: a sentence that says what to do about it. Empty while the
  // device works, and from the start where the CPU was chosen. Set as soon as the device fails, together with backend =
  // "cpu", while the window in flight is still being finished; kept while attempts to use the device again fail;
  // cleared by the first window that has the device again. A fault that begins and ends between two calls of describe()
  // is not seen.
  std::string fault{};
  uint64_t dispatches = 0;  // commands that the NPU has carried out for this encoder's windows
};

class Encoder {
 public:
  static constexpr int kSlots = 2;

  virtual ~Encoder() = default;

  virtual EncoderInfo describe() const = 0;  // from any thread

  // Starts to encode `mel`, a row-major [n_mels][positions * kFramesPerPosition] f32 array of normalized log-mel, and
  // returns at once. The caller keeps `mel` alive and unchanged until wait() for the slot has returned or thrown.
  // positions: 1..kMaxPositions. Submitting to a slot in use throws Error(kInvalidUse).
  virtual void submit(int slot, const float* mel, int positions) = 0;

  // Waits until the slot's encoding ends and returns its features, a row-major [positions][d_model] f32 array that the
  // encoder owns and that stays valid until the next submit() to the same slot. Frees the slot, also when it throws:
  //   Error(kDevice)       the executor failed or `deadline` passed
  //   Error(kNoResource)   there was not enough memory
  //   Error(kInterrupted)  interrupt() was called; the slot's work is abandoned
  virtual const float* wait(int slot, std::chrono::steady_clock::time_point deadline) = 0;

  // Makes a present and every future wait() throw Error(kInterrupted) until resume(), and abandons work in progress as
  // soon as the executor can (within 100 ms). Callable from any thread; submit() and wait() are for one thread each.
  virtual void interrupt() = 0;
  virtual void resume() = 0;
};

}  // namespace whisperxdna2
