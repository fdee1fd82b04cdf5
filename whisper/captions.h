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

// A window is planned when this much audio after it is there, or the stream has ended: its last log-mel frame reaches
// that far, and so does not depend on how the audio came in.
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
  // Seconds of speech in [from, to), as known at `to`: what has not lasted long enough by then to be sure counts for
  // nothing.
  virtual double speech(int64_t from, int64_t to) const = 0;
  // Begin of the first and end of the last voiced moment in [from, to), however short; `to` and `from` where there is
  // none.
  virtual int64_t voice_begin(int64_t from, int64_t to) const = 0;
  virtual int64_t voice_end(int64_t from, int64_t to) const = 0;
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

// How far a machine that is too slow has gone in doing less. Each step includes those before.
enum class Overload {
  kNone,          // a decode each hop
  kLongerHop,     // several hops a decode
  kNoPartials,    // and nothing but final words is returned
  kOneDecode,     // and each stretch of speech is decoded once: words are final at the first hearing
};

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
    Overload overload = Overload::kNone;
    bool replan = false;        // windows planned after this one are void: drop them and call plan() again
    bool retried = false;       // a loop made a second decode necessary
    int forced = 0;             // of `words`: final because their time was up, neither sure nor confirmed
    int invented = 0;           // words dropped because nobody said them
  };
  // `recognize` is not called for a silent window.
  virtual Decision decide(const AudioWindow& window, const Recognizer& recognize, const Signal& signal) = 0;

  // Audio before this sample is no longer needed.
  virtual int64_t needed_from() const = 0;
  // Words that start before this sample have been returned.
  virtual int64_t settled() const = 0;

  // Gives up the audio before `sample`, because there is no time for it: it is neither planned nor settled later. Words
  // that were heard in it are returned, final as they are. Not while a window is planned and not decided.
  virtual std::vector<Word> skip(int64_t sample) {
    (void)sample;
    return {};
  }
};

// Windows shorter than Whisper's 30 s: left context with its committed words forced as prefix, words near the right
// edge left to the next window, loops recognized by speed and decoded again over fewer positions. `positions` per
// window.
std::unique_ptr<CaptionPolicy> make_short_window_policy(int positions);

// The rule for captions of live audio; times in seconds.
struct LiveOptions {
  double hop = 1.0;        // audio between two decodes; a machine that cannot keep up takes more
  double pause = 0.5;      // silence after which what was said is final; decoded at once, and nothing more until speech
  double onset = 0.5;  // audio kept from before the moment at which speech is sure; follows from the rules of speech
  double deadline = 4.0;   // a word is final at the latest this long after its end; more than hop + 0.5
  double max_lag = 10.0;   // audio that waits longer than this is given up; 0 = never (see Engine)
  int positions = 512;     // per window
};

// One window that slides over live audio and is decoded again each hop, the words that are already final forced as
// prefix. A word becomes final when it ends a little before the live edge and is either sure or said at the same place
// by the hypothesis before, or when a pause follows, or when its time is up; nothing is ever taken back.
std::unique_ptr<CaptionPolicy> make_live_policy(const LiveOptions& options);

// Whisper's own algorithm on 30 s windows: continue at the last closed timestamp (openai/whisper
// whisper/transcribe.py).
std::unique_ptr<CaptionPolicy> make_long_window_policy();

// Whether a decode repeats itself: the token cap was reached, or an n-gram of up to 12 words is said three times or
// more in a row, with six copies, or faster than anybody speaks, or with a mean probability below a half ("words,
// words, words" at speaking speed and without doubt is speech); or twice, if the second time is that fast and that
// unsure. first_copy_end: number of words up to the end of the n-gram's first copy; words.size() where only the cap was
// reached.
bool is_loop(const Recognition& recognition, size_t* first_copy_end);

// Puts the ends of a word where its voice is: alignment gives the silence around words to one of them.
void fit_to_voice(Word* word, const Signal& signal);

// Whether words can only have been invented: nothing is voiced where they are said to be; or they do not continue what
// was said just before (`continues`) and are captions of music and noise, or phrases that Whisper makes of those where
// hardly anything is voiced in the window (`speech`, seconds), or next to impossible.
bool is_invented(const std::vector<Word>& words, double speech, bool continues, const Signal& signal);

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

// Which language a stream is in, from the model's probabilities of each window. Locked when three windows of a speech
// segment agree; the next segment may be in another one, if it sounds clearly like it.
class LanguageLock {
 public:
  // Whether probabilities are needed for a window of this speech segment; segments are told apart by any number.
  bool open(int64_t segment) const { return segment != segment_ || agreed_ < kAgreeing; }
  // Probabilities of the languages in such a window.
  void hear(int64_t segment, const std::vector<float>& probabilities);
  // Index of the language, -1 before the first window.
  int language() const { return language_; }

 private:
  static constexpr int kAgreeing = 3;         // windows
  static constexpr float kExpectation = 0.5;  // what a new segment's first window must exceed the language before by

  int64_t segment_ = -1;
  std::vector<float> votes_;
  int agreed_ = 0, language_ = -1;
};

// Groups final words into captions: at sentence ends and pauses, at most two lines of 42 characters (21 where they are
// wide, as Chinese ones are) and 7 s, as subtitling guidelines have it (BBC Subtitle Guidelines, Netflix Timed Text
// Style Guide). A sentence that is too long is parted where enough is left for a caption that is worth reading. Marks
// that come as words of their own join the word before them.
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
