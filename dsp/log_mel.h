// Whisper's log-mel front end (openai/whisper whisper/audio.py): periodic Hann window of 400 samples, hop of 160, power
// spectrum, Slaney mel filters, log10.
//
// Every 10 ms frame is computed once, unclamped, and kept; a window's features are then clamped and scaled from the
// frames it covers, since the clamp depends on the window's own maximum.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace whisperxdna2 {

constexpr int kSampleRate = 16000;
constexpr int kFrameHop = 160;     // samples per frame, 10 ms
constexpr int kFrameLength = 400;  // samples under the window, 25 ms

// One stream of mono f32 samples in [-1, 1] at kSampleRate. Frame k is centered on sample 160 k; before the first
// sample the signal is reflected, after the last one it is silence. Not thread-safe; the FFT plan behind it is shared
// and made once per process.
class LogMel {
 public:
  // bands: 80 or 128.
  explicit LogMel(int bands);
  ~LogMel();
  LogMel(LogMel&&) noexcept;

  int bands() const;

  // Appends samples.
  void push(const float* samples, int64_t count);
  // Samples pushed since construction or reset().
  int64_t samples() const;
  // Forgets frames and samples before `first_frame`; they can no longer be asked for.
  void discard_before(int64_t first_frame);
  // Forgets everything; the next sample is sample 0.
  void reset();

  // Normalized features of `content` frames from `first_frame` on, padded to `frames` columns: `out` is row-major
  // [bands][frames]. x = max(log10 mel, max - 8), then (x + 4) / 4, the maximum taken over the content; columns beyond
  // the content are 0.0, as openai/whisper pads a trimmed window. A frame whose last samples have not been pushed yet
  // is computed with silence in their place and recomputed when asked for again.
  void window(int64_t first_frame, int content, int frames, float* out);

  // Samples [first, first + count) as pushed, for policies that look at the signal itself (pauses); null outside what
  // is still held. Valid until the next push, discard or reset.
  const float* held(int64_t first, int64_t count) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace whisperxdna2
