// Caption policy: which stretch of audio to decode next, which words of a decode are final, how words become captions.
//
// Knows no model: recognition is a function that the engine passes in, so that the policies can be driven by a scripted
// recognizer. All positions are samples at 16 kHz since the start of the stream, all word times seconds since then.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "whisper/word_timing.h"

namespace whisperxdna2 {

// A window is planned when this much audio after it is there, or the stream has ended: its last log-mel frame reaches that
// far, and so does not depend on how the audio came in.
constexpr int64_t kLookahead = 200;

// A stretch of audio to decode.
struct AudioWindow {
  int64_t first = 0, count = 0;
  bool last = false;    // the stream ends with it
  bool silent = false;  // holds no speech: not worth encoding

  int64_t end() const { return first + count; }
};

// What a policy may ask about the audio itself.
class Signal {
 public:
  virtual ~Signal() = default;
  // Center of the quietest 160 ms whose center lies in [from, to], a multiple of 160 samples.
  virtual int64_t quietest(int64_t from, int64_t to) const = 0;
  // Seconds of speech in [from, to).
  virtual double speech(int64_t from, int64_t to) const = 0;
};

// What the decoder made of one window.
struct Recognition {
  std::vector<Word> words;  // without the forced prefix; times in seconds since the window's first sample
  bool ended = true;        // by itself, not by the token cap
  float compression_ratio = 0;
  // With timestamp tokens only: seconds after the window's start at which Whisper's own rule continues.
  double resume = 0;
};

// Decodes the window at hand over its first `positions` encoder positions (20 ms each), with `prefix` forced.
using Recognizer = std::function<Recognition(int positions, const std::vector<int>& prefix)>;

// One stream's policy. Calls are serialized by the caller with one exception: plan() may be called while decide() is
// inside `recognize`, so a caller's lock can be released there. Windows are decided in the order in which they were
// planned, except those that decide() made void.
class CaptionPolicy {
 public:
  virtual ~CaptionPolicy() = default;

  // The next window to decode, if the audio [0, available) and what has been decoded so far determine it. `ended`: no
  // more audio will come. A window is planned as soon as its audio is there, so that encoding runs ahead of decoding;
  // but never more than one silent window ahead of the one that is to be decided, so that callers need no bound.
  virtual std::optional<AudioWindow> plan(int64_t available, bool ended, const Signal& signal) = 0;

  struct Decision {
    std::vector<Word> words;    // now final; in order, after everything returned before
    std::vector<Word> partial;  // what follows them in the present hypothesis (live windows only)
    bool replan = false;        // windows planned after this one are void: drop them and call plan() again
    bool retried = false;       // a loop made a second decode necessary
  };
  // `recognize` is not called for a silent window.
  virtual Decision decide(const AudioWindow& window, const Recognizer& recognize, const Signal& signal) = 0;

  // Audio before this sample is no longer needed.
  virtual int64_t needed_from() const = 0;
  // Words that start before this sample have been returned.
  virtual int64_t settled() const = 0;
};

// Windows shorter than Whisper's 30 s: left context with its committed words forced as prefix, words near the right edge
// left to the next window, loops recognized by speed and decoded again over fewer positions. `positions` per window.
std::unique_ptr<CaptionPolicy> make_short_window_policy(int positions);

// The rule for captions of live audio; times in seconds.
struct LiveOptions {
  double hop = 1.0;        // audio between two decodes; a machine that cannot keep up takes more
  double deadline = 4.0;   // a word is final at the latest this long after its end
  int positions = 512;     // per window
};

// One window that slides over live audio and is decoded again each hop, the words that are already final forced as prefix.
// A word becomes final when it ends a little before the live edge and is either sure or said at the same place by the
// hypothesis before; nothing is ever taken back.
std::unique_ptr<CaptionPolicy> make_live_policy(const LiveOptions& options);

// Whisper's own algorithm on 30 s windows: continue at the last closed timestamp (openai/whisper whisper/transcribe.py).
std::unique_ptr<CaptionPolicy> make_long_window_policy();

// Whether a decode repeats itself: the token cap was reached, or an n-gram of up to 12 words is said three times or more
// in a row, with six copies, or faster than 0.12 s a word, or with a mean probability below a half ("words, words, words"
// at speaking speed and without doubt is speech).
// first_copy_end: number of words up to the end of the n-gram's first copy; words.size() where only the cap was reached.
bool is_loop(const Recognition& recognition, size_t* first_copy_end);

constexpr double kLongestCaption = 7.0;  // seconds

// A caption: words that are shown together.
struct Segment {
  double start = 0, end = 0;    // seconds since the start of the stream; end > start
  std::string text;             // valid UTF-8, trimmed, not empty
  std::vector<Word> words;
  float confidence = 0;         // geometric mean of the words' probabilities
  std::string language;         // code; filled in by the engine
  int64_t window = 0;           // index of the window that closed it; filled in by the engine
};

// Groups final words into captions: at sentence ends and pauses, at most two lines of 42 characters and 7 s, as
// subtitling guidelines have it (BBC Subtitle Guidelines, Netflix Timed Text Style Guide).
class SegmentShaper {
 public:
  // single_words: every word is a caption of its own.
  explicit SegmentShaper(bool single_words = false) : single_words_(single_words) {}

  // Takes words in time order. Captions that are complete are appended to `out`; their times never overlap.
  void add(std::vector<Word> words, std::vector<Segment>* out);
  // Closes the caption at hand.
  void finish(std::vector<Segment>* out);
  // Closes the caption at hand if its first word ended before `time` (seconds).
  void finish_before(double time, std::vector<Segment>* out);
  // Start of the oldest word still held, in seconds, or nothing.
  std::optional<double> held_since() const;

 private:
  void close(size_t count, std::vector<Segment>* out);

  bool single_words_;
  std::vector<Word> held_;
  double last_end_ = 0;
};

}  // namespace whisperxdna2
