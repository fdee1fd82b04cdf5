// From samples to captions or features, without GStreamer.
//
//   push()/push_silence()/drain()         one thread (the element's chain function)
//        |  log-mel ring, windows cut from the audio alone
//        v
//   Encoder slot 0 | slot 1               the encoder's own thread
//        |
//        v
//   next()                                one thread (the element's source task): waits for a slot, copies its
//                                         features, frees the slot for the window after next, decodes, applies the
//                                         caption policy
//
// push() blocks while both slots are busy and a whole further window is buffered; everything else is bounded by that.
// One mutex guards the shared state; it is never held while encoding, decoding or waiting for the encoder.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dsp/voice_activity.h"
#include "whisper/backend.h"
#include "whisper/captions.h"
#include "whisper/encoder.h"
#include "whisper/model.h"

namespace whisperxdna2 {

constexpr int kMostBeams = 8;

enum class Output {
  kCaptions,  // a Segment is a caption: a sentence, or what fits two lines
  kWords,     // a Segment is a word, returned as soon as it is final
  kFeatures,  // encoder output; the decoder is not needed
};

struct EngineOptions {
  std::string model_path;          // empty = default_model_path()
  Backend backend = Backend::kAuto;
  Precision precision = Precision::kAuto;
  int threads = 0;                 // 0 = available processors
  Output output = Output::kCaptions;
  std::string language;            // "en", ...; "auto" or empty = detect; ignored by English-only models
  bool translate = false;          // to English
  // Hypotheses followed at once, 1..kMostBeams; 1 = greedy decoding. On 2341 words of English, five beams made 8.8 %
  // errors where greedy decoding made 9.8, and live 10.7 instead of 11.4, for a quarter more processor time in all
  // (base, int8, 10.24 s windows).
  int beam_size = 5;
  int audio_context = 512;         // encoder positions per window, 64..1500; 1500 = Whisper's own 30 s algorithm
  // What counts as speech. Its padding is what live windows have before speech, at least; those of recordings overlap.
  SpeechRules voice = {0.5f, 0.35f, 4000, 4800, 2400};
  // Text that the decoder is told came before each window: it makes names and spelling like these more likely. At most
  // 200 tokens are used, the last ones of `initial_prompt` and the first ones of `hotwords`.
  std::string initial_prompt, hotwords;
  std::optional<LiveOptions> live; // captions soon after they are said; ignored for features; see set_live()
};

// What next() returns. Times are samples since the first sample after construction, flush() or the last kDrained.
struct Result {
  enum class Kind {
    kSegments,     // finished text; segments in order, none overlapping; may be empty
    kFeatures,     // one window of encoder output
    kDrained,      // everything pushed before drain() has been returned; the next sample starts at 0 again
    kInterrupted,  // set_flushing(true)
  };
  Kind kind = Kind::kInterrupted;
  std::vector<Segment> segments;
  std::string language;            // code of that of the text, if any; empty while it has not been detected
  std::vector<Word> partial;       // live only: what is being said after them, to be shown but not kept
  // Live only: audio before `settled` that was given up because it waited too long, and how long it had, in seconds.
  double skipped_seconds = 0, lag_seconds = 0;
  // Everything before this sample is final: text that was said there has been returned.
  int64_t settled = 0;
  // kFeatures: row-major [positions][d_model]; the first `valid_positions` of them come from audio.
  std::vector<float> features;
  int positions = 0, d_model = 0, valid_positions = 0;
  int64_t window = 0;              // index
  int64_t first_sample = 0, samples = 0;
};

struct EngineStats {
  uint64_t windows = 0;            // decoded or handed out
  uint64_t encodes = 0;            // encoder runs, windows planned anew included
  uint64_t skipped_windows = 0;    // silent: never encoded
  uint64_t retries = 0;            // windows decoded again because of a loop
  uint64_t forced_words = 0;       // live: final because their time was up, neither sure nor confirmed
  uint64_t invented_words = 0;     // dropped because nobody said them
  double skipped_seconds = 0;      // live: audio given up because it waited too long
  Overload overload = Overload::kNone;  // live: at the last window
  double encode_seconds = 0;       // from submission to result, summed over encoder runs
  double decode_seconds = 0;       // spent decoding
  double audio_seconds = 0;        // settled
  double received_seconds = 0;     // pushed
  // next() has returned all that could be made of the audio received, and waits for more.
  bool idle = false;
};

class Engine {
 public:
  // Loads the model (shared with other engines in the process) and makes the encoder. May take seconds at first use;
  // `progress(what, fraction)` is called on this thread (may be empty). Returns quickly with Error(kInterrupted) after
  // *cancel became true (may be null). Throws Error.
  explicit Engine(const EngineOptions& options,
                  const std::function<void(const std::string& what, double fraction)>& progress = {},
                  const std::atomic<bool>* cancel = nullptr);
  // As above with an encoder made by the caller and a clock in seconds, for tests. The clock is read on any thread that
  // calls push(), drain() or next().
  Engine(const EngineOptions& options, std::shared_ptr<const Model> model, std::unique_ptr<Encoder> encoder,
         std::function<double()> clock = {});
  ~Engine();

  const Model& model() const;
  EncoderInfo encoder_info() const;
  // What people should know about the start: why `auto` took the CPU, a cache that could not be written, and the like.
  const std::vector<std::string>& notices() const;

  // Appends mono f32 samples at 16 kHz. Not-a-number and infinite samples count as silence. Returns false when
  // interrupted by set_flushing.
  bool push(const float* samples, int64_t count);
  // The same as pushing `count` zeros, but silence that fills a window costs no encoder run.
  bool push_silence(int64_t count);
  // No more samples will come for this stream: the rest is to be decoded. next() returns kDrained after its last
  // result.
  bool drain();

  // Waits for the next result. After Result::kDrained it waits for new samples. Throws Error when the encoder fails;
  // the window at hand is lost then, and only flush() or destruction may follow.
  Result next();

  // true: push(), drain() and next() return at once, now and until false is set. Any thread.
  void set_flushing(bool flushing);
  // Forgets all audio and results. Only while flushing and with no call inside push(), drain() or next().
  void flush();

  // Takes effect with the next window. Any thread. Throws Error(kInvalidUse) for a language the model does not know.
  void set_language(const std::string& language);
  // Takes effect with the next window. Any thread.
  void set_prompt(const std::string& initial_prompt, const std::string& hotwords);
  // Takes effect with the next stream: before the first sample, or after drain() or flush(). Any thread.
  void set_live(const std::optional<LiveOptions>& live);
  EngineStats stats() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace whisperxdna2
