// Where somebody speaks: Silero's voice activity network (github.com/snakers4/silero-vad, MIT; the
// 16 kHz network of version 6) and the rules that make intervals of its probabilities.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace whisperxdna2 {

constexpr int kVoiceHop = 512;  // samples per probability at 16 kHz, 32 ms

// The network over one stream of mono f32 samples in [-1, 1] at 16 kHz; what lies outside is
// clipped and NaN is silence, since the network remembers. The weights are part of the library. Not
// thread-safe.
class VoiceActivity {
 public:
  VoiceActivity();
  ~VoiceActivity();
  VoiceActivity(VoiceActivity&&) noexcept;

  // Appends samples, and to `probabilities` one value in [0, 1] for each kVoiceHop samples that are
  // complete.
  void push(const float* samples, int64_t count, std::vector<float>* probabilities);
  // Completes the last hop with silence, where one was begun, and starts a new stream.
  void drain(std::vector<float>* probabilities);
  // Forgets everything; the next sample starts a new stream.
  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The defaults are Silero's own (utils_vad.py, get_speech_timestamps). Lengths in samples.
struct SpeechRules {
  float threshold = 0.5f;            // speech begins with the hop that reaches it
  float negative_threshold = 0.35f;  // and may end with the hop that falls below this one
  int64_t min_speech = 4000;         // shorter speech is ignored, 250 ms
  int64_t min_silence = 1600;        // shorter silence does not end speech, 100 ms
  int64_t padding =
      480;  // added on both sides, at most half of the silence between two intervals, 30 ms
};

struct SpeechInterval {
  int64_t begin, end;  // samples, [begin, end)
};

// Makes intervals of the probabilities of one stream as they come. The result is that of Silero's
// get_speech_timestamps_from_probs with unlimited speech length, whatever the moments it is asked
// at.
class SpeechSegmenter {
 public:
  explicit SpeechSegmenter(const SpeechRules& rules);

  // The probability of the next kVoiceHop samples.
  void push(float probability);
  // Ends the stream after `samples` samples: the last hop may have been a part only. reset() starts
  // the next stream.
  void drain(int64_t samples);
  void reset();

  // Intervals finished since the last call, in order. They neither overlap nor change later.
  std::vector<SpeechInterval> take_finished();
  // Begin of the interval that is not finished, once it is certain to become one: about min_speech
  // later.
  std::optional<int64_t> speaking_since() const;
  // Between the last finished interval and this sample nobody speaks. Never decreases; begin of the
  // unfinished interval while there is one, else it follows the signal at the distance that the
  // rules need.
  int64_t silent_until() const;

 private:
  enum class Phase { kSilence, kMaybeSpeech, kSpeech, kEnded };

  void begin_speech();
  void finish(const SpeechInterval& interval);

  SpeechRules rules_;
  Phase phase_;
  int64_t heard_;      // samples
  int64_t begin_;      // of the speech being heard; padded once it is certain
  int64_t maybe_end_;  // begin of the silence that may end it, or -1
  std::optional<SpeechInterval>
      closed_;  // ended, but what follows decides how far its end is padded
  std::vector<SpeechInterval> finished_;
  int64_t finished_end_;  // of the last finished interval, 0 before
};

}  // namespace whisperxdna2
