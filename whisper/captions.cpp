#include "whisper/captions.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <deque>
#include <string_view>

namespace whisperxdna2 {
namespace {

constexpr double kRate = 16000.0;
constexpr int64_t kGrid = 160;  // windows start on the log-mel frame grid

int64_t samples(double seconds) { return std::llround(seconds * kRate); }
int64_t on_grid(int64_t sample) { return std::max<int64_t>(0, sample / kGrid * kGrid); }

constexpr double kShortestWord = 0.09;  // seconds of voice

// Whether anything is said.
bool has_speech(const Signal& signal, int64_t from, int64_t to) { return signal.speech(from, to) >= kShortestWord; }

// Number of code points.
size_t length(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

// How long a word can sound, in seconds; alignment lets the last word before a pause swallow it.
double likely_duration(const Word& word) {
  return std::min(word.end - word.start, 0.25 + 0.1 * static_cast<double>(length(word.text)));
}

bool ends_with_any(std::string_view text, const std::vector<std::string_view>& endings) {
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view e) {
    return text.size() >= e.size() && text.substr(text.size() - e.size()) == e;
  });
}

// Text without closing quotes and brackets, which may follow the mark that ends a sentence.
std::string_view without_closers(std::string_view text) {
  static const std::vector<std::string_view> closers = {"\"",     "'",      ")",      "]",     "\u201d",
                                                        "\u2019", "\u00bb", "\u300d", "\u300f"};
  for (bool found = true; found;) {
    found = false;
    for (std::string_view c : closers) {
      if (text.size() > c.size() && text.substr(text.size() - c.size()) == c) {
        text.remove_suffix(c.size());
        found = true;
      }
    }
  }
  return text;
}

bool ends_sentence(std::string_view word) {
  static const std::vector<std::string_view> marks = {".", "?", "!", "\u2026", "\u3002", "\uff01", "\uff1f"};
  static const std::vector<std::string_view> abbreviations = {"Mr.", "Mrs.", "Ms.",  "Dr.",  "St.",  "Prof.",
                                                              "Jr.", "Sr.",  "vs.",  "etc.", "e.g.", "i.e.",
                                                              "No.", "z.B.", "Sra.", "Mme."};
  word = without_closers(word);
  if (!ends_with_any(word, marks)) return false;
  if (std::find(abbreviations.begin(), abbreviations.end(), word) != abbreviations.end()) return false;
  // An initial ("J.") does not end a sentence.
  return !(word.size() == 2 && word[1] == '.' && word[0] >= 'A' && word[0] <= 'Z');
}

bool ends_clause(std::string_view word) {
  static const std::vector<std::string_view> marks = {",", ";", ":", "\u3001", "\uff0c", "\u2014"};
  return ends_with_any(without_closers(word), marks);
}

// A word as loops are judged: letters only, in lower case where ASCII has one.
std::string folded(const std::string& text) {
  std::string out;
  for (unsigned char c : text) {
    if (c >= 0x80 || std::isalnum(c)) out += static_cast<char>(c < 0x80 ? std::tolower(c) : c);
  }
  return out;
}

// Whether there is nothing to read but punctuation.
bool marks_only(const std::string& text) {
  static const std::vector<std::string_view> marks = {
      "\u3002", "\u3001", "\uff0c", "\uff0e", "\uff01", "\uff1f", "\u2026", "\u2014", "\u2013", "\u201c",
      "\u201d", "\u2018", "\u2019", "\u00ab", "\u00bb", "\u00bf", "\u00a1", "\u300c", "\u300d", "\u266a"};
  const std::string rest = folded(text);
  for (std::string_view at = rest; !at.empty();) {
    const auto mark = std::find_if(marks.begin(), marks.end(),
                                   [&](std::string_view m) { return at.substr(0, m.size()) == m; });
    if (mark == marks.end()) return false;
    at.remove_prefix(mark->size());
  }
  return true;
}

// Signs that words are not really said again: without a mean probability of a half, or faster than anybody speaks.
bool is_unsure(const std::vector<Word>& words) {
  double log_probability = 0;
  for (const Word& w : words) log_probability += std::log(std::max(w.probability, 1e-6f));
  return log_probability < std::log(0.5) * static_cast<double>(words.size());
}
bool is_hasty(const std::vector<Word>& words) {
  constexpr double kSecondsPerWord = 0.12, kSecondsPerLetter = 0.04;
  size_t letters = 0;
  for (const Word& w : words) letters += length(folded(w.text));
  return words.back().end - words.front().start < std::max(kSecondsPerWord * static_cast<double>(words.size()),
                                                           kSecondsPerLetter * static_cast<double>(letters));
}

}  // namespace

bool is_loop(const Recognition& recognition, size_t* first_copy_end) {
  constexpr size_t kLongest = 12;
  constexpr size_t kCopies = 3, kCopiesAtAnySpeed = 6;
  constexpr float kCompressionLimit = 2.4f;  // openai/whisper's sign of repetition

  const std::vector<Word>& words = recognition.words;
  std::vector<std::string> keys;
  for (const Word& w : words) keys.push_back(folded(w.text));
  for (size_t n = 1; n <= kLongest; ++n) {
    for (size_t at = 0; at + 2 * n <= keys.size(); ++at) {
      size_t copies = 1;
      while (at + (copies + 1) * n <= keys.size() &&
             std::equal(keys.begin() + at, keys.begin() + at + n, keys.begin() + at + copies * n)) {
        ++copies;
      }
      if (copies < 2) continue;
      const std::vector<Word> again(words.begin() + at + n, words.begin() + at + 2 * n);
      const std::vector<Word> all(words.begin() + at, words.begin() + at + copies * n);
      if (copies >= kCopiesAtAnySpeed || (copies >= kCopies && (is_unsure(all) || is_hasty(all))) ||
          (is_unsure(again) && is_hasty(again))) {
        *first_copy_end = at + n;
        return true;
      }
    }
  }
  *first_copy_end = words.size();
  return !recognition.ended || recognition.compression_ratio > kCompressionLimit;
}

void fit_to_voice(Word* word, const Signal& signal) {
  constexpr double kAttack = 0.06;   // the network hears a voice about this late,
  constexpr double kRelease = 0.1;   // and voiceless sounds follow it
  const int64_t start = samples(word->start), end = samples(word->end);
  const int64_t begin = signal.voice_begin(start, end);
  if (begin >= end) return;  // as it is: a short word between others need not be voiced for the network
  word->start = std::max(word->start, begin / kRate - kAttack);
  word->end = std::min(word->end, signal.voice_end(start, end) / kRate + kRelease);
}

bool is_invented(const std::vector<Word>& words, double speech, bool continues, const Signal& signal) {
  constexpr double kHardlyAny = 1.0;   // seconds of voice in the window
  constexpr double kNear = 0.3;        // alignment is wrong by this, at most
  constexpr double kUnsure = 0.5, kImpossible = 0.1;  // mean probabilities
  // Subtitles that the training data had where nobody speaks; the second kind is said, too.
  static const std::vector<std::string_view> notes = {
      "music", "applause", "laughter", "silence", "blankaudio", "thanksforwatching",
      "thankyouforwatching", "pleasesubscribe", "subtitlesbytheamaraorgcommunity"};
  static const std::vector<std::string_view> phrases = {"you", "thankyou", "thanks", "bye", "okay", "oh", "so", "hmm"};
  if (words.empty()) return false;
  const auto one_of = [](const std::vector<std::string_view>& all, const std::string& text) {
    return std::find(all.begin(), all.end(), text) != all.end();
  };
  std::string text;
  double log_probability = 0;
  bool near_voice = false;
  for (const Word& w : words) {
    text += folded(w.text);
    log_probability += std::log(std::max(w.probability, 1e-6f));
    const int64_t from = std::max<int64_t>(0, samples(w.start - kNear)), to = samples(w.end + kNear);
    near_voice = near_voice || signal.voice_end(from, to) > from;
  }
  if (!near_voice) return true;
  if (speech < kHardlyAny && marks_only(text)) return true;
  if (continues) return false;
  const double probability = std::exp(log_probability / static_cast<double>(words.size()));
  return one_of(notes, text) || probability < kImpossible ||
         (speech < kHardlyAny && probability < kUnsure && one_of(phrases, text));
}

namespace {

// Whether words go on with what was said before them.
bool continue_speech(const std::vector<Word>& words, const std::vector<Word>& before) {
  constexpr double kSoon = 1.0;  // seconds
  return !words.empty() && !before.empty() && words.front().start - before.back().end < kSoon;
}

// The constants were found on real speech with the base model; each says what it does. Lengths that depend on the
// window are scaled with it below 10.24 s.
class ShortWindowPolicy : public CaptionPolicy {
 public:
  explicit ShortWindowPolicy(int positions)
      : positions_(positions),
        window_((positions - positions / kUnfilled) * kSamplesPerPosition),
        scale_(std::min(1.0, positions / 512.0)) {}

  std::optional<AudioWindow> plan(int64_t available, bool ended, const Signal& signal) override {
    int64_t first = 0;
    if (ahead_.empty() && decided_) {
      if (decided_->last || (ended && available - cut_ <= samples(kTooShort))) return std::nullopt;
      first = next_start(*decided_, signal);
      if (loses_words(first, signal)) first = fresh_start();
    } else if (!ahead_.empty()) {
      // One window ahead of the one being decoded: more would often be void.
      if (ahead_.back().last || ahead_.size() > 1) return std::nullopt;
      first = next_start(ahead_.back(), signal);
    }
    if (available < first + window_ + kLookahead && !ended) return std::nullopt;
    AudioWindow w;
    w.first = first;
    w.count = std::min(window_, available - first);
    w.last = ended && w.end() == available;
    if (w.count <= 0) return std::nullopt;
    w.silent = !has_speech(signal, w.first, w.end());
    ahead_.push_back(w);
    restart_ = false;
    return w;
  }

  Decision decide(const AudioWindow& window, const Recognizer& recognize, const Signal& signal) override {
    Decision d;
    AudioWindow heard = window;
    if (window.silent) {
      settle(heard, {}, signal);
      d.replan = decided(heard, signal);
      return d;
    }
    const std::vector<int> prefix = committed_tokens(window.first);
    Recognition r = hear(heard, recognize, positions_, prefix, signal);
    size_t first_copy_end = 0;
    if (is_loop(r, &first_copy_end)) {
      d.retried = true;
      r = hear(heard, recognize, positions_ - positions_ / 16, prefix, signal);  // 480 of 512
      shorten(&heard, positions_ - positions_ / 16);
      if (is_loop(r, &first_copy_end)) r.words.resize(first_copy_end);
    } else if (const Stretch missed = unheard(heard, r.words, signal); missed.end > 0) {
      d.retried = true;
      if (r.words.empty() && window.first < fresh_start()) {
        // The prefix can silence the decoder: hear what follows afresh, in a window without it.
        restart_ = true;
        d.replan = decided(heard, signal);
        return d;
      }
      // Whole sentences can be passed over for what is said later in the window: hear it without that.
      const int fewer = static_cast<int>((missed.end - heard.first + kSamplesPerPosition - 1) / kSamplesPerPosition);
      if (fewer < positions_) {
        Recognition again = hear(heard, recognize, fewer, prefix, signal);
        AudioWindow shorter = heard;
        shorten(&shorter, fewer);
        if (!is_loop(again, &first_copy_end) && unheard(shorter, again.words, signal).end == 0) {
          r = std::move(again);
          heard = shorter;
        } else {
          restart_ = false;
        }
      }
    }
    if (is_invented(r.words, signal.speech(std::max(cut_, heard.first), heard.end()),
                    continue_speech(r.words, committed_), signal)) {
      d.invented = static_cast<int>(r.words.size());
      r.words.clear();
    }
    r.words.resize(settle(heard, r.words, signal));
    commit(r.words);
    d.words = std::move(r.words);
    d.replan = decided(heard, signal);
    return d;
  }

  int64_t needed_from() const override {
    int64_t from = cut_;
    if (decided_) from = std::min(from, decided_->end() - samples(kNextFrom * scale_));
    return std::max<int64_t>(0, from - samples(kHeld));
  }
  int64_t settled() const override { return cut_; }

 private:
  static constexpr int64_t kSamplesPerPosition = 320;
  // One position in this many is left empty: a window that is full of speech to the end makes the decoder loop.
  static constexpr int kUnfilled = 40;
  static constexpr double kDrop = 0.5;            // words ending closer to the edge are left to the next window
  static constexpr double kEarly = 1.5;           // a last word starting earlier than this means the text is complete
  static constexpr double kMinStep = 2.0;         // least progress from one window to the next
  static constexpr double kSilentOverlap = 1.0;   // kept of a window in which nothing was heard
  static constexpr double kNextFrom = 4.0, kNextTo = 2.5;  // where, before the edge, the next window may start
  static constexpr double kBack = 0.1;            // a window planned anew starts this much before the cut
  static constexpr double kUnheard = 1.2;         // speech without words that makes a decode doubtful
  static constexpr double kTooShort = 0.2;        // a rest shorter than this holds no word
  static constexpr double kHeld = 0.3;            // audio kept before the earliest start of a window

  // Start of the window after `w`, from the audio alone, so that it can be encoded before `w` is decoded.
  int64_t next_start(const AudioWindow& w, const Signal& signal) const {
    return on_grid(signal.quietest(w.end() - samples(kNextFrom * scale_), w.end() - samples(kNextTo * scale_)));
  }

  struct Stretch {
    int64_t first = 0, end = 0;  // samples
  };

  // Decodes a window; word times become those of the stream.
  static Recognition hear(const AudioWindow& window, const Recognizer& recognize, int positions,
                          const std::vector<int>& prefix, const Signal& signal) {
    Recognition r = recognize(positions, prefix);
    for (Word& w : r.words) {
      w.start += window.first / kRate;
      w.end += window.first / kRate;
      fit_to_voice(&w, signal);
    }
    return r;
  }

  // Takes the audio after `positions` out of the window; the next one is planned from the cut.
  void shorten(AudioWindow* window, int positions) {
    if (window->count <= positions * kSamplesPerPosition) return;
    window->count = positions * kSamplesPerPosition;
    window->last = false;
    restart_ = true;
  }

  // The first long stretch of speech after the cut that no word accounts for; {0, 0} where there is none.
  Stretch unheard(const AudioWindow& window, const std::vector<Word>& words, const Signal& signal) const {
    const auto missing = [&](int64_t from, int64_t to) {
      return to - from > samples(kUnheard) && signal.speech(from, to) > kUnheard;
    };
    int64_t heard_to = std::max(cut_, window.first);
    for (const Word& w : words) {
      if (missing(heard_to, samples(w.start))) return {heard_to, samples(w.start)};
      heard_to = std::max(heard_to, samples(w.start + likely_duration(w)));
    }
    const int64_t edge = window.end() - samples(window.last ? 0 : kDrop * scale_);
    if (missing(heard_to, edge)) return {heard_to, window.end()};
    return {};
  }

  // Moves the cut and returns how many of the words are final.
  size_t settle(const AudioWindow& heard, const std::vector<Word>& words, const Signal& signal) {
    const double edge = heard.end() / kRate;
    if (heard.last) {
      cut_ = heard.end();
      return words.size();
    }
    if (words.empty()) {
      cut_ = std::max(cut_, heard.end() - samples(kSilentOverlap * scale_));
      return 0;
    }
    const Word& last = words.back();
    if (last.start < edge - kEarly * scale_) {
      // The decoder stopped well before the edge, so its text is complete; go on in the pause after it. The end of the
      // last word is not used: the end token absorbs the rest of the window.
      const double from = last.start + 0.15;
      const double to = from + 0.8 + 0.06 * static_cast<double>(length(last.text));
      cut_ = std::max(cut_ + samples(0.1), signal.quietest(samples(from), std::min(heard.end(), samples(to))));
      return words.size();
    }
    size_t keep = words.size() - 1;
    while (keep > 0 && words[keep - 1].end > edge - kDrop * scale_) --keep;
    if (samples(words[keep].start) - heard.first >= samples(kMinStep * scale_)) {
      cut_ = std::max(cut_, samples(words[keep].start));
      return keep;
    }
    // One word fills the window: without this the next window would be the same again.
    cut_ = std::min(heard.end(), std::max(cut_ + samples(kMinStep * scale_), samples(last.start + 0.8)));
    return words.size();
  }

  // Start of a window that goes on at the cut without context: a little before it, but after the last committed word.
  int64_t fresh_start() const {
    int64_t first = cut_ - samples(kBack);
    if (!committed_.empty()) first = std::max(first, std::min(cut_, samples(committed_.back().end)));
    return on_grid(first);
  }

  // Whether something is said between the cut and the start of the next window.
  bool loses_words(int64_t first, const Signal& signal) const {
    return restart_ || (cut_ < first && has_speech(signal, cut_, first));
  }

  // Bookkeeping after a decision. True if the windows planned after this one are void.
  bool decided(const AudioWindow& heard, const Signal& signal) {
    decided_ = heard;
    if (!ahead_.empty()) ahead_.pop_front();
    if (ahead_.empty() || !loses_words(ahead_.front().first, signal)) return false;
    ahead_.clear();
    return true;
  }

  // Tokens of the committed words that are heard in a window from `first` on.
  std::vector<int> committed_tokens(int64_t first) const {
    std::vector<int> tokens;
    if (first >= fresh_start()) return tokens;
    for (const Word& w : committed_) {
      if (w.start >= first / kRate - 0.05 && w.end <= cut_ / kRate + 0.2) {
        tokens.insert(tokens.end(), w.tokens.begin(), w.tokens.end());
      }
    }
    return tokens;
  }

  void commit(const std::vector<Word>& words) {
    committed_.insert(committed_.end(), words.begin(), words.end());
    const double horizon = (cut_ - 2 * window_) / kRate;  // no later window reaches back further
    committed_.erase(committed_.begin(), std::find_if(committed_.begin(), committed_.end(),
                                                      [&](const Word& w) { return w.end > horizon; }));
  }

  const int positions_;
  const int64_t window_;
  const double scale_;
  int64_t cut_ = 0;                     // audio before this is final
  std::vector<Word> committed_;         // the recent ones
  std::deque<AudioWindow> ahead_;       // planned, not decided
  std::optional<AudioWindow> decided_;  // the last one, as far as it was heard
  bool restart_ = false;                // a loop shortened the window: plan the next one from the cut
};

// The constants were found on real speech with the base model, in simulated time.
class LivePolicy : public CaptionPolicy {
 public:
  explicit LivePolicy(const LiveOptions& options)
      : options_(options),
        hop_(std::max<int64_t>(kStep, samples(options.hop) / kStep * kStep)),
        pause_(std::max<int64_t>(kStep, samples(options.pause) / kStep * kStep)),
        longest_(options.positions * 320 - samples(kRoom)) {}

  std::optional<AudioWindow> plan(int64_t available, bool ended, const Signal& signal) override {
    if (busy_ || finished_) return std::nullopt;
    const int64_t heard = ended ? available : available - kLookahead;
    int64_t edge = next_edge(heard, ended, signal);
    if (edge == edge_) return std::nullopt;
    edge = std::min(edge, std::max(first_, edge_) + longest_);  // never skip audio unasked
    overload_ = judge(heard - edge_);
    finished_ = ended && edge == available;
    before_ = edge_;
    edge_ = edge;
    AudioWindow w;
    w.silent = !has_speech(signal, std::max(first_, cut_), edge);
    if (!w.silent && edge - first_ > longest_) move_window(edge);
    w.first = w.silent ? std::max(first_, cut_) : first_;
    w.count = edge - w.first;
    w.last = finished_;
    if (w.count <= 0) return std::nullopt;
    busy_ = true;
    return w;
  }

  Decision decide(const AudioWindow& window, const Recognizer& recognize, const Signal& signal) override {
    Decision d;
    d.overload = overload_;
    d.words = std::move(forced_);
    d.forced = static_cast<int>(d.words.size());
    forced_.clear();
    if (window.silent) {
      d.words.insert(d.words.end(), hypothesis_.begin(), hypothesis_.end());
      commit(hypothesis_);
      hypothesis_.clear();
      cut_ = window.last ? window.end() : std::max(cut_, window.end() - samples(options_.onset));
      if (committed_.empty() || window.end() - samples(committed_.back().end) > samples(kForget)) {
        first_ = std::max(first_, on_grid(cut_));
        committed_.clear();
      }
      busy_ = false;
      return d;
    }

    // What was heard before a pause is complete.
    const bool complete = window.last || !voiced(window.end() - pause_, window.end(), signal);
    Recognition r = recognize(options_.positions, prefix());
    busy_ = false;
    for (Word& w : r.words) {
      w.start += window.first / kRate;
      w.end += window.first / kRate;
    }
    if (!r.words.empty()) r.words.back().end = r.words.back().start + likely_duration(r.words.back());
    for (Word& w : r.words) fit_to_voice(&w, signal);
    const bool afresh = committed_.empty();
    const int64_t repeated_to = drop_repeated(&r.words);
    const double speech = signal.speech(std::max(first_, cut_), window.end());
    if (is_invented(r.words, speech, continue_speech(r.words, committed_), signal)) {
      d.invented = static_cast<int>(r.words.size());
      r.words.clear();
    } else if (r.words.empty() && !committed_.empty() &&
               (complete ? speech >= kShortestWord : window.end() - cut_ > samples(kDeaf))) {
      // Speech, but no words: the prefix can silence the decoder. Hear it afresh from the pause after the last word,
      // and before what was heard next, or else what is voiced next.
      const Word& last = committed_.back();
      int64_t from = std::max(cut_ - samples(0.2), samples(std::min(last.start + 0.15, last.end)));
      int64_t to = from + samples(1.1);
      if (!hypothesis_.empty()) {
        to = std::min(to, samples(hypothesis_.front().start));
      } else {
        to = voiced(cut_, cut_ + samples(0.1), signal) ? cut_ : signal.voice_begin(cut_, to);
      }
      from = std::min(from, to);
      first_ = std::max(first_, on_grid(signal.quietest(from, std::min(window.end(), to))));
      before_first_ = std::move(committed_);
      committed_.clear();
      hypothesis_.clear();
      finished_ = false;
      edge_ = before_;
      return d;
    }
    if (r.words.empty() && afresh && repeated_to > first_ && has_speech(signal, repeated_to, window.end())) {
      // Words before the window, and nothing of what follows them: hear it without those.
      first_ = repeated_to;
      finished_ = false;
      edge_ = before_;
      return d;
    }
    if (r.words.empty() && !complete) {
      // What was heard before stands, until something else is heard or its time is up. Where nothing was, nothing more
      // is expected from what would be too late.
      const auto waiting = std::find_if(hypothesis_.begin(), hypothesis_.end(),
                                        [&](const Word& w) { return !is_due(w, window.end() / kRate); });
      d.forced += static_cast<int>(waiting - hypothesis_.begin());
      d.words.insert(d.words.end(), hypothesis_.begin(), waiting);
      commit({hypothesis_.begin(), waiting});
      hypothesis_.erase(hypothesis_.begin(), waiting);
      if (hypothesis_.empty()) cut_ = std::max(cut_, samples(due(window.end() / kRate)));
      d.partial = hypothesis_;
      return d;
    }
    for (Word& w : r.words) {
      if (w.end < cut_ / kRate) w.start = w.end = cut_ / kRate;
    }
    size_t first_copy_end = 0;
    const bool loop = is_loop(r, &first_copy_end);
    d.retried = loop;
    if (loop) r.words.resize(first_copy_end);
    const size_t keep =
        window.last ? r.words.size() : settled_words(r.words, window.end() / kRate, complete, loop, &d.forced);
    commit({r.words.begin(), r.words.begin() + keep});
    d.words.insert(d.words.end(), r.words.begin(), r.words.begin() + keep);
    hypothesis_.assign(r.words.begin() + keep, r.words.end());
    if (overload_ < Overload::kNoPartials) d.partial = hypothesis_;
    if (complete && hypothesis_.empty()) cut_ = window.end();
    return d;
  }

  int64_t needed_from() const override { return std::max<int64_t>(0, std::min(first_, cut_ - samples(kKeep))); }
  int64_t settled() const override { return cut_; }

  std::vector<Word> skip(int64_t sample) override {
    std::vector<Word> words = std::move(hypothesis_);
    hypothesis_.clear();
    committed_.clear();
    before_first_.clear();
    first_ = cut_ = edge_ = std::max(edge_, on_grid(sample));
    return words;
  }

 private:
  static constexpr int64_t kStep = 800;     // edges lie on multiples of 50 ms
  static constexpr double kRoom = 0.64;     // the window is moved when less than this is left of it
  static constexpr double kGuard = 0.3;     // words closer to the live edge may still be half said
  static constexpr float kSure = 0.6f;      // a probability that needs no confirmation,
  static constexpr float kSureAtEdge = 0.7f;     // and for words after which little was heard, be it a pause
  static constexpr double kRightContext = 0.8;
  static constexpr double kKeep = 2.0;      // left context when the window moves
  static constexpr double kDeaf = 2.0;      // speech without words for longer than this is heard afresh, and before a
                                            // pause all speech is
  static constexpr double kSeam = 0.5;      // what the window begun then hears so soon may be words before it again,
  static constexpr size_t kLongestSeam = 5;  // so many
  static constexpr double kNoTime = 0.03;   // nothing is said within less
  static constexpr double kForget = 2.0;    // silence after which what was said before is no context
  static constexpr double kBreath = 0.2;    // silence that may become a pause; a decode waits for that,
  static constexpr double kPatience = 0.4;  // this long
  // Audio waiting for a decode from which on less is done, in seconds; a machine that keeps up never has 2 hops.
  static constexpr double kLongHop = 2.0, kLate = 3.0, kVeryLate = 5.0;

  static bool voiced(int64_t from, int64_t to, const Signal& signal) {
    from = std::max<int64_t>(0, from);
    return signal.voice_end(from, to) > from;
  }

  // Where the next window ends, or the present edge while that is not known.
  int64_t next_edge(int64_t heard, bool ended, const Signal& signal) const {
    // Whole hops where several have come, so that the windows depend on the machine only if it does not keep up.
    const int64_t waiting = heard - edge_;
    if (waiting >= samples(kLongHop) && waiting >= 2 * hop_) return edge_ + waiting / hop_ * hop_;
    for (int64_t edge = edge_ + kStep; edge <= heard; edge += kStep) {
      const bool speech = has_speech(signal, std::max(first_, cut_), edge);
      const bool breath = speech && !voiced(edge - samples(kBreath), edge, signal);
      if (breath && !voiced(edge - pause_, edge, signal) && voiced(edge_ - pause_, edge, signal)) return edge;
      const int64_t since = edge - edge_;
      if (since >= hop_ && (!breath || since >= hop_ + samples(kPatience))) return edge;
    }
    return ended ? heard : edge_;
  }

  Overload judge(int64_t waiting) const {
    if (waiting < 2 * hop_ || waiting < samples(kLongHop)) return Overload::kNone;
    if (waiting < samples(kLate)) return Overload::kLongerHop;
    return waiting < samples(kVeryLate) ? Overload::kNoPartials : Overload::kOneDecode;
  }

  std::vector<int> prefix() const {
    std::vector<int> tokens;
    for (const Word& w : committed_) tokens.insert(tokens.end(), w.tokens.begin(), w.tokens.end());
    return tokens;
  }

  // Words that end before this must be final at the live edge (both in seconds): the next decode is at most a hop away,
  // steps and lookahead included.
  double due(double edge) const { return edge - options_.deadline + hop_ / kRate + kPatience + 0.2; }

  bool is_due(const Word& w, double edge) const { return w.start + likely_duration(w) <= due(edge); }

  // How many of the words are final at the live edge (seconds). In doubt: only those whose time is up.
  size_t settled_words(const std::vector<Word>& words, double edge, bool complete, bool doubt, int* forced) const {
    size_t keep = 0;
    while (keep < words.size() && (complete || words[keep].end <= edge - kGuard)) {
      const Word& w = words[keep];
      const bool confirmed = keep < hypothesis_.size() && folded(hypothesis_[keep].text) == folded(w.text);
      const float enough = w.end <= edge - kRightContext ? kSure : kSureAtEdge;
      const bool sure = !doubt && (w.probability >= enough || confirmed || marks_only(w.text) ||
                                   overload_ == Overload::kOneDecode);
      if (!sure && !is_due(w, edge)) break;
      *forced += !sure;
      ++keep;
    }
    return keep;
  }

  // Takes away what is heard again of the words before it: by a window that was begun afresh, or in doubt or no time.
  // Returns where that ended, or 0.
  int64_t drop_repeated(std::vector<Word>* words) const {
    const bool afresh = committed_.empty();
    const std::vector<Word>& before = afresh ? before_first_ : committed_;
    if (words->empty() || before.empty() || words->front().start > before.back().end + kSeam) return 0;
    int64_t end = 0;
    for (size_t n = std::min({kLongestSeam, words->size(), before.size()}); n > 0;) {
      const std::vector<Word> again(words->begin(), words->begin() + n);
      const bool same = std::equal(again.begin(), again.end(), before.end() - n, [](const Word& a, const Word& b) {
        return folded(a.text) == folded(b.text);
      });
      const bool doubtful = is_unsure(again) || again.back().end - again.front().start < kNoTime;
      // More of the same may be a loop.
      if (same && (end > 0 ? is_hasty(again) : afresh || (doubtful && is_hasty(again)))) {
        end = on_grid(samples(again.back().end));
        words->erase(words->begin(), words->begin() + n);
        n = std::min(n, words->size());
      } else {
        --n;
      }
    }
    return end;
  }

  void commit(const std::vector<Word>& words) {
    if (words.empty()) return;
    before_first_.clear();
    committed_.insert(committed_.end(), words.begin(), words.end());
    cut_ = std::max(cut_, samples(words.back().end));
  }

  // Makes room at the live edge. Keeps some committed words as context.
  void move_window(int64_t edge) {
    int64_t first = std::max(cut_ - samples(kKeep), edge - longest_ + std::max(hop_, samples(1.0)));
    // What would leave the window undecided is final as it was heard last.
    const auto open = std::find_if(hypothesis_.begin(), hypothesis_.end(),
                                   [&](const Word& w) { return w.start >= first / kRate; });
    forced_.assign(hypothesis_.begin(), open);
    commit(forced_);
    const auto kept = std::find_if(committed_.begin(), committed_.end(),
                                   [&](const Word& w) { return w.start >= first / kRate - 0.02; });
    committed_.erase(committed_.begin(), kept);
    // Begin at a word, so that no committed word is heard in part and said again.
    first = committed_.empty() ? std::max(first, cut_) : samples(committed_.front().start - 0.1);
    first_ = std::max(first_, on_grid(first));
    hypothesis_.clear();
  }

  const LiveOptions options_;
  const int64_t hop_, pause_, longest_;
  int64_t first_ = 0;             // of the window
  int64_t edge_ = 0, before_ = 0;  // audio heard so far, and before the window at hand
  int64_t cut_ = 0;               // audio before this is final
  std::vector<Word> committed_;   // since first_
  std::vector<Word> before_first_;  // committed before a window that was begun afresh, until it has committed words
  std::vector<Word> hypothesis_;  // heard last, after the committed words
  std::vector<Word> forced_;      // committed by a move of the window, to be returned by the next decision
  Overload overload_ = Overload::kNone;
  bool busy_ = false, finished_ = false;
};

class LongWindowPolicy : public CaptionPolicy {
 public:
  std::optional<AudioWindow> plan(int64_t available, bool ended, const Signal& signal) override {
    if (busy_) return std::nullopt;
    const int64_t rest = available - seek_;
    if (ended ? rest < samples(kTooShort) && (seek_ > 0 || rest <= 0) : rest < kWindow + kLookahead) {
      return std::nullopt;
    }
    busy_ = true;
    AudioWindow w;
    w.first = seek_;
    w.count = std::min(kWindow, rest);
    w.last = ended && w.end() == available;
    w.silent = !has_speech(signal, w.first, w.end());
    return w;
  }

  Decision decide(const AudioWindow& window, const Recognizer& recognize, const Signal& signal) override {
    Decision d;
    Recognition r;
    r.resume = static_cast<double>(window.count) / kRate;
    if (!window.silent) r = recognize(kPositions, {});
    busy_ = false;
    for (Word& w : r.words) {
      w.start += window.first / kRate;
      w.end += window.first / kRate;
      fit_to_voice(&w, signal);
    }
    if (is_invented(r.words, signal.speech(window.first, window.end()), false, signal)) {
      d.invented = static_cast<int>(r.words.size());
      r.words.clear();
    }
    d.words = std::move(r.words);
    seek_ = std::min(window.end(), std::max(seek_ + samples(0.02), on_grid(window.first + samples(r.resume))));
    return d;
  }

  int64_t needed_from() const override { return seek_; }
  int64_t settled() const override { return seek_; }

 private:
  static constexpr int kPositions = 1500;
  static constexpr int64_t kWindow = 30 * 16000;
  static constexpr double kTooShort = 0.1;

  int64_t seek_ = 0;
  bool busy_ = false;
};

}  // namespace

std::unique_ptr<CaptionPolicy> make_short_window_policy(int positions) {
  return std::make_unique<ShortWindowPolicy>(positions);
}

std::unique_ptr<CaptionPolicy> make_live_policy(const LiveOptions& options) {
  return std::make_unique<LivePolicy>(options);
}

void LanguageLock::hear(int64_t segment, const std::vector<float>& probabilities) {
  if (segment != segment_ || votes_.size() != probabilities.size()) {
    segment_ = segment;
    agreed_ = 0;
    votes_.assign(probabilities.size(), 0.0f);
    if (language_ >= 0) votes_[language_] = kExpectation;
  }
  for (size_t i = 0; i < votes_.size(); ++i) votes_[i] += probabilities[i];
  const int best = static_cast<int>(std::max_element(votes_.begin(), votes_.end()) - votes_.begin());
  agreed_ = best == language_ || agreed_ == 0 ? agreed_ + 1 : 1;
  language_ = best;
}

std::unique_ptr<CaptionPolicy> make_long_window_policy() { return std::make_unique<LongWindowPolicy>(); }

namespace {

constexpr size_t kLineLength = 42;         // columns
constexpr size_t kLeastRest = 20;          // columns of a sentence's last caption
constexpr double kPause = 1.0;             // seconds without speech that end a caption
constexpr double kShortestCaption = 0.1;   // seconds

// Columns that a text takes: East Asian characters take two.
size_t columns(std::string_view text) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if ((c & 0xC0) == 0x80) continue;
    // Three bytes from U+1100 on (E1 84 80), but not the letters up to U+2E7F that lie between Jamo and the CJK
    // radicals; four bytes: ideographs beyond the basic plane (F0 A0 and on).
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    const bool jamo = c == 0xE1 && next >= 0x84 && next <= 0x85;
    const bool wide = jamo || (c == 0xE2 && next >= 0xBA) || (c >= 0xE3 && c <= 0xED) || (c == 0xEF && next >= 0xBC) ||
                      (c == 0xF0 && next >= 0xA0);
    count += wide ? 2 : 1;
  }
  return count;
}

size_t shown_columns(const Word& word, bool first) {
  return columns(word.text) + (word.space_before && !first ? 1 : 0);
}

// Whether the words fit two lines.
bool fits(const std::vector<Word>& words) {
  size_t line = 0, lines = 1;
  for (const Word& w : words) {
    const size_t wanted = shown_columns(w, line == 0);
    if (line > 0 && line + wanted > kLineLength) {
      ++lines;
      line = columns(w.text);
    } else {
      line += wanted;
    }
  }
  return lines <= 2;
}

// How many of the words to show before the rest: up to the last clause in the second half, or the last word, that
// leaves a caption worth reading.
size_t words_to_part(const std::vector<Word>& words, bool spaced) {
  size_t rest = 0, last = 0;
  for (size_t count = words.size() - 1; count > words.size() / 2; --count) {
    rest += shown_columns(words[count], false);
    if (rest < kLeastRest || (spaced && !words[count].space_before)) continue;
    if (last == 0) last = count;
    if (ends_clause(words[count - 1].text)) return count;
  }
  return last > 0 ? last : words.size() - 1;
}

}  // namespace

void SegmentShaper::add(std::vector<Word> words, std::vector<Segment>* out) {
  for (Word& word : words) {
    if (marks_only(word.text)) {
      // Marks only, as where a sentence's end was not heard together with its last word.
      if (held_.empty()) continue;
      held_.back().text += word.text;
      if (ends_sentence(held_.back().text)) close(held_.size(), out);
      continue;
    }
    // In text with spaces, a word without one continues the word before it ("co", "-operate").
    const bool spaced = std::any_of(held_.begin(), held_.end(), [](const Word& w) { return w.space_before; });
    const bool continues = !word.space_before && spaced;
    if (!held_.empty() && !continues && word.start - held_.back().end >= kPause) close(held_.size(), out);
    const bool sentence_end = single_words_ || ends_sentence(word.text);
    held_.push_back(std::move(word));
    while (held_.size() > 1 && !continues &&
           (!fits(held_) || held_.back().end - held_.front().start > kLongestCaption)) {
      close(words_to_part(held_, spaced), out);
    }
    if (sentence_end) close(held_.size(), out);
  }
}

void SegmentShaper::finish(std::vector<Segment>* out) {
  if (!held_.empty()) close(held_.size(), out);
}

void SegmentShaper::finish_before(double time, std::vector<Segment>* out) {
  if (!held_.empty() && held_.front().end < time) close(held_.size(), out);
}

std::optional<double> SegmentShaper::held_since() const {
  if (held_.empty()) return std::nullopt;
  return held_.front().start;
}

void SegmentShaper::close(size_t count, std::vector<Segment>* out) {
  Segment s;
  s.words.assign(std::make_move_iterator(held_.begin()), std::make_move_iterator(held_.begin() + count));
  held_.erase(held_.begin(), held_.begin() + count);
  double log_probability = 0;
  for (Word& w : s.words) {
    w.start = std::max(w.start, last_end_);
    w.end = std::max(w.end, w.start + kShortestCaption / 2);
    last_end_ = w.end;
    if (w.space_before && !s.text.empty()) s.text += ' ';
    s.text += w.text;
    log_probability += std::log(std::max(w.probability, 1e-6f));
  }
  s.start = s.words.front().start;
  s.end = last_end_ = std::max(s.words.back().end, s.start + kShortestCaption);
  s.confidence = static_cast<float>(std::exp(log_probability / static_cast<double>(s.words.size())));
  out->push_back(std::move(s));
}

}  // namespace whisperxdna2
