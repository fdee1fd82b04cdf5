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

// Number of code points.
size_t length(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

bool ends_with_any(std::string_view text, const std::vector<std::string_view>& endings) {
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view e) {
    return text.size() >= e.size() && text.substr(text.size() - e.size()) == e;
  });
}

// Text without closing quotes and brackets, which may follow the mark that ends a sentence.
std::string_view without_closers(std::string_view text) {
  static const std::vector<std::string_view> closers = {"\"", "'", ")", "]", "\u201d", "\u2019", "\u00bb", "\u300d", "\u300f"};
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
  static const std::vector<std::string_view> abbreviations = {"Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Prof.", "Jr.", "Sr.",
                                                              "vs.", "etc.", "e.g.", "i.e.", "No.", "z.B.", "Sra.", "Mme."};
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

}  // namespace

bool is_loop(const Recognition& recognition, size_t* first_copy_end) {
  constexpr size_t kLongest = 12;
  constexpr size_t kCopies = 3, kCopiesAtAnySpeed = 6;
  constexpr double kSecondsPerWord = 0.12;
  constexpr float kCompressionLimit = 2.4f;  // openai/whisper's sign of repetition

  const std::vector<Word>& words = recognition.words;
  std::vector<std::string> keys;
  for (const Word& w : words) keys.push_back(folded(w.text));
  for (size_t n = 1; n <= kLongest; ++n) {
    for (size_t at = 0; at + kCopies * n <= keys.size(); ++at) {
      size_t copies = 1;
      while (at + (copies + 1) * n <= keys.size() &&
             std::equal(keys.begin() + at, keys.begin() + at + n, keys.begin() + at + copies * n)) {
        ++copies;
      }
      if (copies < kCopies) continue;
      const size_t count = copies * n;
      const double duration = words[at + count - 1].end - words[at].start;
      if (copies >= kCopiesAtAnySpeed || duration < kSecondsPerWord * static_cast<double>(count)) {
        *first_copy_end = at + n;
        return true;
      }
    }
  }
  *first_copy_end = words.size();
  return !recognition.ended || recognition.compression_ratio > kCompressionLimit;
}

namespace {

// The constants were found on real speech with the base model; each says what it does. Lengths that depend on the window
// are scaled with it below 10.24 s.
class ShortWindowPolicy : public CaptionPolicy {
 public:
  explicit ShortWindowPolicy(int positions)
      : positions_(positions),
        window_(positions * kSamplesPerPosition),
        scale_(std::min(1.0, positions / 512.0)) {}

  std::optional<AudioWindow> plan(int64_t available, bool ended, const QuietestPlace& quietest) override {
    int64_t first = 0;
    if (ahead_.empty() && decided_) {
      if (decided_->last || (ended && available - cut_ <= samples(kTooShort))) return std::nullopt;
      first = next_start(*decided_, quietest);
      if (restart_ || cut_ < first) first = on_grid(cut_ - samples(kBack));
    } else if (!ahead_.empty()) {
      if (ahead_.back().last) return std::nullopt;
      first = next_start(ahead_.back(), quietest);
    }
    // One sample more than the window shows that the stream goes on; so the plan does not depend on when the end is told.
    if (available <= first + window_ && !ended) return std::nullopt;
    AudioWindow w;
    w.first = first;
    w.count = std::min(window_, available - first);
    w.last = ended && w.end() == available;
    if (w.count <= 0) return std::nullopt;
    ahead_.push_back(w);
    restart_ = false;
    return w;
  }

  Decision decide(const AudioWindow& window, const Recognizer& recognize, const QuietestPlace& quietest) override {
    Decision d;
    const std::vector<int> prefix = committed_tokens(window.first);
    AudioWindow heard = window;

    Recognition r = recognize(positions_, prefix);
    size_t first_copy_end = 0;
    if (is_loop(r, &first_copy_end)) {
      d.retried = true;
      const int fewer = positions_ - positions_ / 16;  // 480 of 512
      r = recognize(fewer, prefix);
      if (heard.count > fewer * kSamplesPerPosition) {
        heard.count = fewer * kSamplesPerPosition;
        heard.last = false;
        restart_ = true;
      }
      if (is_loop(r, &first_copy_end)) r.words.resize(first_copy_end);
    }
    std::vector<Word>& words = r.words;
    for (Word& w : words) {
      w.start += heard.first / kRate;
      w.end += heard.first / kRate;
    }
    words.resize(settle(heard, words, quietest));
    commit(words);
    d.words = std::move(words);
    d.replan = decided(heard);
    return d;
  }

  Decision decide_silent(const AudioWindow& window) override {
    Decision d;
    settle(window, {}, {});
    d.replan = decided(window);
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
  static constexpr double kDrop = 0.5;            // words ending closer to the edge are left to the next window
  static constexpr double kEarly = 1.5;           // a last word starting earlier than this means the text is complete
  static constexpr double kMinStep = 2.0;         // least progress from one window to the next
  static constexpr double kSilentOverlap = 1.0;   // kept of a window in which nothing was heard
  static constexpr double kNextFrom = 4.0, kNextTo = 2.5;  // where, before the edge, the next window may start
  static constexpr double kBack = 0.1;            // a window planned anew starts this much before the cut
  static constexpr double kTooShort = 0.2;        // a rest shorter than this holds no word
  static constexpr double kHeld = 0.3;            // audio kept before the earliest start of a window

  // Start of the window after `w`, from the audio alone, so that it can be encoded before `w` is decoded.
  int64_t next_start(const AudioWindow& w, const QuietestPlace& quietest) const {
    return on_grid(quietest(w.end() - samples(kNextFrom * scale_), w.end() - samples(kNextTo * scale_)));
  }

  // Moves the cut and returns how many of the words are final.
  size_t settle(const AudioWindow& heard, const std::vector<Word>& words, const QuietestPlace& quietest) {
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
      cut_ = std::max(cut_ + samples(0.1), quietest(samples(from), std::min(heard.end(), samples(to))));
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

  // Bookkeeping after a decision. True if the windows planned after this one are void, because words between the cut and
  // their start would be lost.
  bool decided(const AudioWindow& heard) {
    decided_ = heard;
    if (!ahead_.empty()) ahead_.pop_front();
    if (ahead_.empty() || !(restart_ || cut_ < ahead_.front().first)) return false;
    ahead_.clear();
    return true;
  }

  // Tokens of the committed words that are heard in a window from `first` on.
  std::vector<int> committed_tokens(int64_t first) const {
    std::vector<int> tokens;
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

class LongWindowPolicy : public CaptionPolicy {
 public:
  std::optional<AudioWindow> plan(int64_t available, bool ended, const QuietestPlace&) override {
    if (busy_) return std::nullopt;
    const int64_t rest = available - seek_;
    if (ended ? rest < samples(kTooShort) && (seek_ > 0 || rest <= 0) : rest <= kWindow) return std::nullopt;
    busy_ = true;
    AudioWindow w;
    w.first = seek_;
    w.count = std::min(kWindow, rest);
    w.last = ended && w.end() == available;
    return w;
  }

  Decision decide(const AudioWindow& window, const Recognizer& recognize, const QuietestPlace&) override {
    Decision d;
    Recognition r = recognize(kPositions, {});
    for (Word& w : r.words) {
      w.start += window.first / kRate;
      w.end += window.first / kRate;
    }
    d.words = std::move(r.words);
    seek_ = std::min(window.end(), std::max(seek_ + samples(0.02), on_grid(window.first + samples(r.resume))));
    busy_ = false;
    return d;
  }

  Decision decide_silent(const AudioWindow& window) override {
    seek_ = window.end();
    busy_ = false;
    return {};
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

std::unique_ptr<CaptionPolicy> make_long_window_policy() { return std::make_unique<LongWindowPolicy>(); }

namespace {

constexpr size_t kCaptionLength = 84;      // two lines of 42 characters
constexpr double kCaptionDuration = 7.0;   // seconds
constexpr double kPause = 1.0;             // seconds without speech that end a caption
constexpr double kShortestCaption = 0.1;   // seconds

size_t shown_length(const Word& word, bool first) { return length(word.text) + (word.space_before && !first ? 1 : 0); }

}  // namespace

void SegmentShaper::add(std::vector<Word> words, std::vector<Segment>* out) {
  for (Word& word : words) {
    if (!held_.empty()) {
      size_t shown = 0;
      for (size_t i = 0; i < held_.size(); ++i) shown += shown_length(held_[i], i == 0);
      if (word.start - held_.back().end >= kPause) {
        close(held_.size(), out);
      } else if (shown + shown_length(word, false) > kCaptionLength ||
                 word.end - held_.front().start > kCaptionDuration) {
        // Break after the last clause in the second half, else here.
        size_t count = held_.size();
        while (count > held_.size() / 2 && !ends_clause(held_[count - 1].text)) --count;
        close(count > held_.size() / 2 ? count : held_.size(), out);
      }
    }
    const bool sentence_end = ends_sentence(word.text);
    held_.push_back(std::move(word));
    if (sentence_end) close(held_.size(), out);
  }
}

void SegmentShaper::finish(std::vector<Segment>* out) {
  if (!held_.empty()) close(held_.size(), out);
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
