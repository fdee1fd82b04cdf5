#include "whisper/engine.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <optional>

#include "dsp/log_mel.h"
#include "dsp/voice_activity.h"
#include "whisper/decoder.h"
#include "whisper/error.h"
#include "whisper/silent_tail.h"
#include "whisper/tokenizer.h"

namespace whisperxdna2 {
namespace {

using Clock = std::chrono::steady_clock;
using Lock = std::unique_lock<std::mutex>;

constexpr int64_t kSamplesPerPosition = kFrameHop * kFramesPerPosition;
constexpr int64_t kPushChunk = kSampleRate;
// An encoder that needs longer than this for a window is taken for dead.
constexpr auto kEncoderPatience = std::chrono::seconds(60);
// Largest sample value taken at face value; a square sum over a frame of larger ones could overflow.
constexpr float kLoudest = 1e3f;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double steady_seconds() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

// Consecutive windows, for features: nothing depends on what was said.
class ConsecutiveWindows : public CaptionPolicy {
 public:
  explicit ConsecutiveWindows(int positions) : window_(positions * kSamplesPerPosition) {}

  std::optional<AudioWindow> plan(int64_t available, bool ended, const Signal&) override {
    AudioWindow w;
    w.first = next_;
    w.count = std::min(window_, available - next_);
    if (w.count <= 0 || (available < w.first + window_ + kLookahead && !ended)) return std::nullopt;
    next_ = w.end();
    w.last = ended && w.end() == available;
    return w;
  }
  Decision decide(const AudioWindow& window, const Recognizer&, const Signal&) override {
    settled_ = window.end();
    return {};
  }
  int64_t needed_from() const override { return settled_; }
  int64_t settled() const override { return settled_; }

 private:
  const int64_t window_;
  int64_t next_ = 0, settled_ = 0;
};

// The samples held by the front end and the voice activity in them, as policies see them.
class HeldSignal : public Signal {
 public:
  HeldSignal(const LogMel& mel, const SpeechRules& rules)
      : mel_(mel), threshold_(rules.threshold), segmenter_({rules.threshold, rules.negative_threshold, rules.min_speech,
                                                            rules.min_silence, 0}) {}

  // Probabilities of speech of the next kVoiceHop samples each.
  void add(const std::vector<float>& probabilities) {
    for (const float p : probabilities) {
      voice_.push_back(p);
      segmenter_.push(p);
      const int64_t now = (first_hop_ + static_cast<int64_t>(voice_.size())) * kVoiceHop;
      const auto begin_at = [&](int64_t begin) {
        if (spoken_.empty() || begin - spoken_.back().end >= kNewSegment) segments_.push_back(begin);
        spoken_.push_back({begin, kOpen, now});
      };
      for (const SpeechInterval& interval : segmenter_.take_finished()) {
        if (spoken_.empty() || spoken_.back().end != kOpen) begin_at(interval.begin);
        spoken_.back().end = interval.end;
      }
      const std::optional<int64_t> begin = segmenter_.speaking_since();
      if (begin && (spoken_.empty() || spoken_.back().end != kOpen)) begin_at(*begin);
    }
  }
  void discard_before(int64_t sample) {
    const int64_t hops = std::min<int64_t>(sample / kVoiceHop - first_hop_, static_cast<int64_t>(voice_.size()));
    if (hops <= 0) return;
    voice_.erase(voice_.begin(), voice_.begin() + hops);
    first_hop_ += hops;
    // One interval and one segment before stay: what follows is measured by them.
    while (spoken_.size() > 1 && spoken_[1].begin < sample) spoken_.pop_front();
    while (segments_.size() > 1 && segments_[1] < sample) segments_.pop_front();
  }
  void reset() {
    voice_.clear();
    segmenter_.reset();
    spoken_.clear();
    segments_.clear();
    first_hop_ = 0;
  }
  // Begin of the last speech segment that begins before `sample`, -1 before the first: what is said without a long
  // silence.
  int64_t segment_before(int64_t sample) const {
    const auto after = std::lower_bound(segments_.begin(), segments_.end(), sample);
    return after == segments_.begin() ? -1 : *(after - 1);
  }

  int64_t quietest(int64_t from, int64_t to) const override {
    constexpr int64_t kHalf = kSampleRate * 80 / 1000;
    from = std::max<int64_t>(0, from / kFrameHop * kFrameHop);
    to = std::min(to, mel_.samples());
    int64_t best = from;
    double least = -1;
    for (int64_t center = from; center <= to; center += kFrameHop) {
      const int64_t first = std::max<int64_t>(0, center - kHalf), end = std::min(mel_.samples(), center + kHalf);
      const float* x = mel_.held(first, end - first);
      if (!x) continue;
      double energy = 0;
      for (int64_t i = 0; i < end - first; ++i) energy += static_cast<double>(x[i]) * x[i];
      if (least < 0 || energy < least) {
        least = energy;
        best = center;
      }
    }
    return best;
  }

  double speech(int64_t from, int64_t to) const override {
    int64_t voiced = 0;
    for (const Spoken& s : spoken_) {
      if (s.sure_at > to) break;
      const int64_t end = last_hop(std::min(s.end, to));
      for (int64_t hop = first_hop(std::max(s.begin, from)); hop < end; ++hop) voiced += is_voiced(hop);
    }
    return static_cast<double>(voiced) * kVoiceHop / kSampleRate;
  }

  int64_t voice_begin(int64_t from, int64_t to) const override {
    for (int64_t hop = first_hop(from); hop < last_hop(to); ++hop) {
      if (is_voiced(hop)) return std::max(from, hop * kVoiceHop);
    }
    return to;
  }

  int64_t voice_end(int64_t from, int64_t to) const override {
    for (int64_t hop = last_hop(to) - 1; hop >= first_hop(from); --hop) {
      if (is_voiced(hop)) return std::min(to, (hop + 1) * kVoiceHop);
    }
    return from;
  }

 private:
  static constexpr int64_t kOpen = INT64_MAX;
  static constexpr int64_t kNewSegment = 2 * kSampleRate;

  // Speech for certain.
  struct Spoken {
    int64_t begin, end;  // samples; kOpen while it lasts
    int64_t sure_at;     // when it had lasted long enough
  };

  bool is_voiced(int64_t hop) const { return voice_[hop - first_hop_] >= threshold_; }
  // Hops that are held and lie in a stretch. One that reaches beyond its end may not be there yet.
  int64_t first_hop(int64_t from) const { return std::max(from / kVoiceHop, first_hop_); }
  int64_t last_hop(int64_t to) const {
    return std::min(to / kVoiceHop, first_hop_ + static_cast<int64_t>(voice_.size()));
  }

  const LogMel& mel_;
  const float threshold_;
  SpeechSegmenter segmenter_;
  std::deque<float> voice_;
  std::deque<Spoken> spoken_;
  std::deque<int64_t> segments_;  // begins
  int64_t first_hop_ = 0;         // of voice_
};

}  // namespace

struct Engine::State {
  struct Queued {
    AudioWindow window;
    int64_t index = 0;
    int slot = -1;         // -1: silent, nothing was encoded
    bool dropped = false;  // made void by a decision; its slot still has to be waited for
    Clock::time_point submitted;
  };

  State(const EngineOptions& o, std::shared_ptr<const Model> m, std::unique_ptr<Encoder> e, std::optional<Decoder> d,
        std::function<double()> c)
      : options(o),
        model(std::move(m)),
        encoder(std::move(e)),
        clock(std::move(c)),
        mel(model->dims.n_mels),
        signal(mel, o.voice),
        live(o.live),
        language(o.language),
        prompt(prompt_tokens(o.initial_prompt, o.hotwords)),
        decoder(std::move(d)) {
    if (o.audio_context < 64 || o.audio_context > kMaxPositions) {
      throw Error(ErrorCode::kInvalidUse, "audio-context must lie between 64 and 1500 positions of 20 ms, not " +
                                              std::to_string(o.audio_context));
    }
    if (o.beam_size < 1 || o.beam_size > kMostBeams) {
      throw Error(ErrorCode::kInvalidUse, "beam-size must lie between 1 and 8, not " + std::to_string(o.beam_size));
    }
    written = written_language(wanted_token(o.language));
    for (auto& buffer : mel_buffers) {
      buffer.resize(static_cast<size_t>(model->dims.n_mels) * o.audio_context * kFramesPerPosition);
    }
    start_stream();
  }

  int64_t window_samples() const { return options.audio_context * kSamplesPerPosition; }

  void start_stream() {
    mel.reset();
    signal.reset();
    draining = false;
    queue.clear();
    shaper = SegmentShaper(options.output == Output::kWords);
    finished = false;
    language_lock = LanguageLock();
    arrivals.clear();
    backlog = 0;
    pushed_at = -1;
    planned_to = 0;
    catching_up = false;
    skipped = Skipped();
    choose_policy();
  }

  void choose_policy() {
    long_windows = false;
    if (options.output == Output::kFeatures) {
      policy = std::make_unique<ConsecutiveWindows>(options.audio_context);
    } else if (live) {
      LiveOptions o = *live;
      o.positions = options.audio_context;
      o.onset = static_cast<double>(options.voice.min_speech + options.voice.padding) / kSampleRate + kNotice;
      policy = make_live_policy(o);
    } else if (options.audio_context == kMaxPositions) {
      long_windows = true;
      policy = make_long_window_policy();
    } else {
      policy = make_short_window_policy(options.audio_context);
    }
  }

  // --- With the mutex held -------------------------------------------------------------------------------------------

  std::optional<int> free_slot() const {
    for (int s = 0; s < Encoder::kSlots; ++s) {
      if (!slot_used[s]) return s;
    }
    return std::nullopt;
  }

  // Notes when audio came, and by how much it was late because push() had blocked before: a source that has to wait
  // keeps its audio, and catches up later. `blocked`: seconds that this push() waited.
  void note_arrival(int64_t count, double blocked) {
    const double now = clock(), duration = static_cast<double>(count) / kSampleRate;
    const double pause = pushed_at < 0 ? duration : now - blocked - pushed_at;
    // One that makes us wait has nothing left.
    backlog = pause >= duration ? 0 : std::max(0.0, backlog - (duration - pause));
    backlog += blocked;
    pushed_at = now;
    arrivals.push_back({mel.samples(), now - backlog});
  }

  // Seconds that the oldest audio that nobody has looked at has waited.
  double lag() {
    while (arrivals.size() > 1 && arrivals.front().end <= planned_to) arrivals.pop_front();
    return arrivals.empty() || arrivals.front().end <= planned_to ? 0 : clock() - arrivals.front().due;
  }

  // Gives up audio that has waited too long.
  void skip_late() {
    if (!live || live->max_lag <= 0 || draining || !queue.empty() || options.output == Output::kFeatures) return;
    const double waited = lag();
    if (waited <= live->max_lag && !catching_up) return;
    catching_up = backlog > kCaughtUp;
    const auto kept = static_cast<int64_t>(catching_up ? 0 : live->max_lag / 2 * kSampleRate);
    const int64_t to = std::max(planned_to, mel.samples() - kept);
    if (to == planned_to) return;
    std::vector<Word> words = policy->skip(to);
    skipped.words.insert(skipped.words.end(), words.begin(), words.end());
    skipped.seconds += static_cast<double>(to - planned_to) / kSampleRate;
    skipped.lag = std::max(skipped.lag, waited);
    planned_to = to;
    discard_old();
  }

  // Plans and submits windows for which there is audio and a free slot.
  void submit_ready() {
    skip_late();
    while (const std::optional<int> slot = free_slot()) {
      const std::optional<AudioWindow> w = policy->plan(mel.samples(), draining, signal);
      if (!w) return;
      planned_to = std::max(planned_to, w->end());
      Queued q;
      q.window = *w;
      q.index = next_index++;
      if (w->silent) {
        ++stats.skipped_windows;
      } else {
        const int frames = options.audio_context * kFramesPerPosition;
        const int content = static_cast<int>(std::min<int64_t>(frames, w->count / kFrameHop));
        mel.window(w->first / kFrameHop, content, frames, mel_buffers[*slot].data());
        encoder->submit(*slot, mel_buffers[*slot].data(), options.audio_context);
        slot_used[*slot] = true;
        q.slot = *slot;
        q.submitted = Clock::now();
        ++stats.encodes;
      }
      queue.push_back(q);
    }
  }

  // Whether push() may take more: enough for the window after the queued ones, and no more.
  bool has_room() const {
    const int64_t oldest = queue.empty() ? policy->needed_from() : queue.back().window.first;
    return !draining && mel.samples() - oldest < 2 * window_samples() + kPushChunk;
  }

  void discard_old() {
    int64_t from = policy->needed_from();
    for (const Queued& q : queue) from = std::min(from, q.window.first);
    mel.discard_before(from / kFrameHop);
    signal.discard_before(from);
  }

  int64_t settled() const {
    int64_t at = policy->settled();
    if (const auto held = shaper.held_since()) at = std::min(at, static_cast<int64_t>(*held * kSampleRate));
    return at;
  }

  Result segments_result(std::vector<Segment> segments) {
    Result r;
    r.kind = Result::Kind::kSegments;
    r.language = written;
    r.settled = settled();
    for (Segment& s : segments) {
      s.language = written;
      s.window = window_index;
    }
    r.segments = std::move(segments);
    return r;
  }

  Result skipped_result() {
    std::vector<Segment> segments;
    shaper.add(std::move(skipped.words), &segments);
    shaper.finish(&segments);
    stats.skipped_seconds += skipped.seconds;
    Result r = segments_result(std::move(segments));
    r.skipped_seconds = skipped.seconds;
    r.lag_seconds = skipped.lag;
    skipped = Skipped();
    return r;
  }

  // --- On the thread of next(), without the mutex --------------------------------------------------------------------

  // Waits for the window's features and copies them; its slot is free afterwards.
  void fetch_features(const Queued& q) {
    const auto release = [&] {
      Lock lock(mutex);
      slot_used[q.slot] = false;
      stats.encode_seconds += seconds_since(q.submitted);
    };
    try {
      const float* rows = encoder->wait(q.slot, Clock::now() + kEncoderPatience);
      features.assign(rows, rows + static_cast<size_t>(options.audio_context) * model->dims.d_model);
    } catch (...) {
      release();
      throw;
    }
    release();
  }

  // Language token of a setting; -1 where it is to be detected or the model knows English only. "en-US" and "en_US"
  // name a language with a region.
  int wanted_token(const std::string& wanted) const {
    if (!model->tokenizer->special().multilingual || wanted.empty() || wanted == "auto") return -1;
    const int id = model->tokenizer->language_id(wanted.substr(0, wanted.find_first_of("-_")));
    if (id < 0) throw Error(ErrorCode::kInvalidUse, "the model knows no language \"" + wanted + "\"");
    return id;
  }

  // Code of the language of the text, where a language token is heard or wanted; empty where it is to be detected.
  std::string written_language(int id) const {
    if (options.translate || !model->tokenizer->special().multilingual) return "en";
    return id < 0 ? "" : model->tokenizer->language_code(id);
  }

  // Language token for the features at hand, of a window in this speech segment: as set, or the one that is heard.
  int language_token(const std::string& wanted, int64_t segment) {
    const SpecialTokens& special = model->tokenizer->special();
    if (!special.multilingual) return -1;
    int id = wanted_token(wanted);
    if (id < 0) {
      if (language_lock.open(segment)) language_lock.hear(segment, decoder->detect_language());
      id = special.language_begin + language_lock.language();
    }
    written = written_language(id);
    return id;
  }

  // A text's tokens as they stand before a window (faster-whisper get_prompt).
  std::vector<int> prompt_tokens(const std::string& initial_prompt, const std::string& hotwords) const {
    const auto tokens = [&](std::string text) {
      text.erase(0, text.find_first_not_of(" \t\r\n"));
      text.erase(text.find_last_not_of(" \t\r\n") + 1);
      return text.empty() ? std::vector<int>() : model->tokenizer->encode(" " + text);
    };
    std::vector<int> all = tokens(hotwords), prompt = tokens(initial_prompt);
    all.resize(std::min(all.size(), kPromptTokens));
    const size_t room = kPromptTokens - all.size();
    all.insert(all.end(), prompt.size() > room ? prompt.end() - static_cast<ptrdiff_t>(room) : prompt.begin(),
               prompt.end());
    return all;
  }

  // What a window's decode takes from the settings.
  struct Wish {
    std::string language;
    std::vector<int> prompt;
    int64_t segment;  // of speech
  };

  Recognition recognize(const AudioWindow& window, int positions, const std::vector<int>& prefix, const Wish& wish) {
    const int heard = static_cast<int>((window.count + kSamplesPerPosition - 1) / kSamplesPerPosition);
    const int content = std::min(positions, heard);
    const int tail_rows = static_cast<int>(tail.size()) / model->dims.d_model;  // none for 1500 positions
    decoder->set_features(features.data(), positions, content, tail.data(), tail_rows);

    DecodeOptions o;
    o.language = language_token(wish.language, wish.segment);
    o.translate = options.translate;
    o.beam_size = options.beam_size;
    o.prompt = wish.prompt;
    o.timestamps = long_windows;
    o.prefix = prefix;
    o.suppress_blank = prefix.empty();  // nothing need follow what has been said already
    o.alignment = true;
    o.interrupted = &flushing;
    if (long_windows) {
      o.temperatures = {0.0f, 0.2f, 0.4f, 0.6f, 0.8f, 1.0f};
    } else {
      o.stop_at_loop = true;
      o.max_new_tokens = kTokensAtRest + static_cast<int>(kTokensPerSecond * static_cast<double>(content) / 50);
    }
    DecodeResult d = decoder->decode(o);

    Recognition r;
    r.resume = static_cast<double>(window.count) / kSampleRate;
    if (long_windows) keep_closed_segments(&d, &r.resume);
    r.ended = d.ended;
    r.compression_ratio = d.compression_ratio;
    if (d.no_speech_prob > kNoSpeech && d.mean_log_prob < kUnsure) return r;
    int prefix_words = 0;
    std::vector<Word> words = word_times(*model->tokenizer, written, prefix, d,
                                         static_cast<int>(model->alignment_heads.size()), content, &prefix_words);
    r.words.assign(std::make_move_iterator(words.begin() + prefix_words), std::make_move_iterator(words.end()));
    r.words.erase(std::remove_if(r.words.begin(), r.words.end(), [](const Word& w) { return w.text.empty(); }),
                  r.words.end());
    return r;
  }

  // openai/whisper transcribe.py: text after the last closed pair of timestamps is left to the next window, which
  // starts there; a single timestamp at the end means that nothing is said after it.
  void keep_closed_segments(DecodeResult* d, double* resume) const {
    const Tokenizer& t = *model->tokenizer;
    const std::vector<int>& ids = d->tokens;
    const size_t n = ids.size();
    const bool single_ending = n >= 2 && t.is_timestamp(ids[n - 1]) && !t.is_timestamp(ids[n - 2]);
    size_t last_pair = 0;  // index of the second timestamp of the last pair
    for (size_t i = 1; i < n; ++i) {
      if (t.is_timestamp(ids[i]) && t.is_timestamp(ids[i - 1])) last_pair = i;
    }
    if (last_pair == 0 || single_ending) return;
    *resume = (ids[last_pair - 1] - t.special().timestamp_begin) * 0.02;
    const int rows = d->alignment_rows;
    const int kept = rows - static_cast<int>(n - last_pair);
    if (rows > 0) {
      const int heads = static_cast<int>(model->alignment_heads.size());
      const size_t columns = d->alignment.size() / (static_cast<size_t>(heads) * rows);
      for (int h = 0; h < heads; ++h) {
        std::memmove(&d->alignment[static_cast<size_t>(h) * kept * columns],
                     &d->alignment[static_cast<size_t>(h) * rows * columns], kept * columns * sizeof(float));
      }
      d->alignment.resize(static_cast<size_t>(heads) * kept * columns);
      d->alignment_rows = kept;
    }
    d->tokens.resize(last_pair);
    d->log_probs.resize(last_pair);
  }

  static constexpr size_t kPromptTokens = 200;
  static constexpr double kNotice = 0.1;          // seconds: the voice network and its hops are late by less
  static constexpr double kCaughtUp = 0.5;        // seconds: a source that is less late has no audio left to hand over
  static constexpr int kTokensAtRest = 12;        // token cap of a window: this many,
  static constexpr double kTokensPerSecond = 8;   // and this many for each second of audio
  static constexpr float kNoSpeech = 0.6f, kUnsure = -1.0f;  // openai/whisper's thresholds for silence

  const EngineOptions options;
  const std::shared_ptr<const Model> model;
  // One per slot; a used slot's buffer belongs to the encoder. Declared first: the encoder's thread may read it to the
  // end.
  std::array<std::vector<float>, Encoder::kSlots> mel_buffers;
  const std::unique_ptr<Encoder> encoder;
  const std::function<double()> clock;
  std::vector<float> tail;
  std::vector<std::string> notices;

  mutable std::mutex mutex;  // guards everything down to the next comment
  std::condition_variable changed;
  LogMel mel;
  HeldSignal signal;
  std::unique_ptr<CaptionPolicy> policy;
  std::optional<LiveOptions> live;  // for the next stream; `policy` is for the present one
  bool long_windows = false;        // the policy is Whisper's own; constant while windows are queued
  bool draining = false;
  std::deque<Queued> queue;  // planned, oldest first; the front stays until it is decided
  std::array<bool, Encoder::kSlots> slot_used{};
  int64_t next_index = 0;
  struct Arrival {
    int64_t end;  // samples
    double due;   // by the clock: when they came, or would have
  };
  std::deque<Arrival> arrivals;  // of audio that is not planned
  double backlog = 0;            // seconds of audio that the source holds back
  double pushed_at = -1;         // by the clock
  int64_t planned_to = 0;        // end of the last window
  bool catching_up = false;      // audio is given up until the source has none left
  struct Skipped {
    std::vector<Word> words;
    double seconds = 0, lag = 0;
  } skipped;                     // since the last result
  std::string language;
  std::vector<int> prompt;
  EngineStats stats;    // `received_seconds` and `idle` are made from the next two
  int64_t received = 0;  // samples
  bool waiting = false;  // next() waits for audio

  std::atomic<bool> flushing{false};  // written with the mutex held

  VoiceActivity voice;  // only for the thread of push()

  // Only for the thread of next().
  std::optional<Decoder> decoder;
  std::vector<float> features;
  SegmentShaper shaper;
  bool finished = false;  // the shaper has been closed for this stream
  LanguageLock language_lock;
  std::string written;
  int64_t window_index = 0;
};

Engine::Engine(const EngineOptions& options, const std::function<void(const std::string&, double)>& progress,
               const std::atomic<bool>* cancel) {
  const auto report = [&](const char* what, double fraction) {
    if (progress) progress(what, fraction);
    if (cancel && *cancel) throw Error(ErrorCode::kInterrupted, "canceled");
  };
  report("loading the model", 0);
  const std::shared_ptr<const Model> model =
      load_model(options.model_path.empty() ? default_model_path() : options.model_path,
                 [&](double fraction) { report("loading the model", 0.2 * fraction); }, cancel);
  report(("the model is " + model->description).c_str(), 0.2);
  std::string notice;
  std::vector<float> tail;
  if (options.output != Output::kFeatures && options.audio_context != kMaxPositions) {
    report("preparing the model for short windows", 0.2);
    tail = silent_tail(
        model, options.threads,
        [&](double fraction) { report("preparing the model for short windows", 0.2 + 0.6 * fraction); }, cancel,
        &notice);
  }
  report("preparing the encoder and the decoder", 0.8);
  std::future<Decoder> decoder;  // beside the encoder: neither keeps all processors busy
  if (options.output != Output::kFeatures) {
    decoder =
        std::async(std::launch::async, [&] { return Decoder(model, options.precision, options.threads, cancel); });
  }
  BackendChoice choice =
      make_encoder(model, options.backend, options.precision, options.threads,
                   [&](double fraction) { report("measuring the model", 0.8 + 0.2 * fraction); }, cancel);
  std::optional<Decoder> ready;
  if (decoder.valid()) ready.emplace(decoder.get());
  state_ = std::make_unique<State>(options, model, std::move(choice.encoder), std::move(ready), steady_seconds);
  state_->tail = std::move(tail);
  for (const std::string& n : {choice.fallback_reason, notice}) {
    if (!n.empty()) state_->notices.push_back(n);
  }
  report("ready", 1);
}

Engine::Engine(const EngineOptions& options, std::shared_ptr<const Model> model, std::unique_ptr<Encoder> encoder,
               std::function<double()> clock) {
  std::optional<Decoder> decoder;
  if (options.output != Output::kFeatures) decoder.emplace(model, options.precision, options.threads);
  state_ = std::make_unique<State>(options, std::move(model), std::move(encoder), std::move(decoder),
                                   clock ? std::move(clock) : steady_seconds);
  state_->tail.assign(static_cast<size_t>(kTailRows) * state_->model->dims.d_model, 0.0f);
}

Engine::~Engine() { state_->encoder->interrupt(); }

const Model& Engine::model() const { return *state_->model; }
EncoderInfo Engine::encoder_info() const { return state_->encoder->describe(); }
const std::vector<std::string>& Engine::notices() const { return state_->notices; }

bool Engine::push(const float* samples, int64_t count) {
  State& s = *state_;
  std::vector<float> clean;
  while (count > 0) {
    const int64_t n = std::min(count, kPushChunk);
    clean.assign(samples, samples + n);
    for (float& x : clean) x = std::isfinite(x) ? std::clamp(x, -kLoudest, kLoudest) : 0.0f;
    const double came = s.clock();
    {
      Lock lock(s.mutex);
      s.changed.wait(lock, [&] { return s.flushing || s.has_room(); });
      if (s.flushing) return false;
    }
    const double blocked = s.clock() - came;
    std::vector<float> voice;
    if (s.options.output != Output::kFeatures) s.voice.push(clean.data(), n, &voice);
    Lock lock(s.mutex);
    s.mel.push(clean.data(), n);
    s.received += n;
    s.signal.add(voice);
    s.note_arrival(n, blocked);
    s.submit_ready();
    s.changed.notify_all();
    samples += n;
    count -= n;
  }
  return !s.flushing;
}

bool Engine::push_silence(int64_t count) {
  const std::vector<float> zeros(static_cast<size_t>(std::min(count, kPushChunk)));
  for (; count > 0; count -= static_cast<int64_t>(zeros.size())) {
    if (!push(zeros.data(), std::min<int64_t>(count, static_cast<int64_t>(zeros.size())))) return false;
  }
  return true;
}

bool Engine::drain() {
  State& s = *state_;
  Lock lock(s.mutex);
  s.changed.wait(lock, [&] { return s.flushing || !s.draining; });
  if (s.flushing) return false;
  std::vector<float> voice;
  s.voice.drain(&voice);
  s.signal.add(voice);
  s.draining = true;
  s.submit_ready();
  s.changed.notify_all();
  return true;
}

Result Engine::next() {
  State& s = *state_;
  for (;;) {
    Lock lock(s.mutex);
    s.waiting = true;
    s.changed.wait(lock, [&] { return s.flushing || !s.queue.empty() || s.draining || s.skipped.seconds > 0; });
    s.waiting = false;
    if (s.flushing) return {};
    if (s.skipped.seconds > 0) return s.skipped_result();
    if (s.queue.empty()) s.submit_ready();
    if (s.queue.empty()) {
      if (!s.finished) {
        s.finished = true;
        std::vector<Segment> rest;
        s.shaper.finish(&rest);
        if (!rest.empty()) return s.segments_result(std::move(rest));
      }
      Result r;
      r.kind = Result::Kind::kDrained;
      r.settled = s.mel.samples();
      s.stats.audio_seconds += static_cast<double>(r.settled) / kSampleRate;
      s.start_stream();
      s.changed.notify_all();
      return r;
    }
    const State::Queued q = s.queue.front();
    const State::Wish wish = {s.language, s.prompt, s.signal.segment_before(q.window.end())};
    lock.unlock();

    try {
      if (q.slot >= 0) s.fetch_features(q);
      lock.lock();
      if (q.slot >= 0) s.submit_ready();
      if (s.queue.front().dropped) {
        s.queue.pop_front();
        s.changed.notify_all();
        continue;
      }
      s.window_index = q.index;
      const Clock::time_point start = Clock::now();
      const Recognizer recognizer = [&](int positions, const std::vector<int>& prefix) {
        lock.unlock();
        Recognition r = s.recognize(q.window, positions, prefix, wish);
        lock.lock();
        return r;
      };
      const CaptionPolicy::Decision d = s.policy->decide(q.window, recognizer, s.signal);
      if (s.options.output != Output::kFeatures && q.slot >= 0) s.stats.decode_seconds += seconds_since(start);
      s.queue.pop_front();
      if (d.replan) {
        for (State::Queued& other : s.queue) other.dropped = true;
      }
      ++s.stats.windows;
      s.stats.retries += d.retried;
      s.stats.forced_words += d.forced;
      s.stats.invented_words += d.invented;
      s.stats.overload = d.overload;
      s.submit_ready();
      s.discard_old();
      s.changed.notify_all();

      if (s.options.output == Output::kFeatures) {
        Result r;
        r.kind = Result::Kind::kFeatures;
        r.features = s.features;
        r.positions = s.options.audio_context;
        r.d_model = s.model->dims.d_model;
        r.valid_positions =
            static_cast<int>((q.window.count + kSamplesPerPosition - 1) / kSamplesPerPosition);
        r.window = q.index;
        r.first_sample = q.window.first;
        r.samples = q.window.count;
        r.settled = s.policy->settled();
        return r;
      }
      std::vector<Segment> segments;
      s.shaper.add(d.words, &segments);
      if (s.live) {
        // A caption may not wait for its sentence to end.
        const double patience = s.live->deadline - s.live->hop;
        s.shaper.finish_before(static_cast<double>(q.window.end()) / kSampleRate - patience, &segments);
      }
      Result r = s.segments_result(std::move(segments));
      r.partial = d.partial;
      return r;
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kInterrupted) throw;
      return {};
    }
  }
}

void Engine::set_flushing(bool flushing) {
  State& s = *state_;
  {
    Lock lock(s.mutex);
    s.flushing = flushing;
  }
  if (flushing) {
    s.encoder->interrupt();
  } else {
    s.encoder->resume();
  }
  s.changed.notify_all();
}

void Engine::flush() {
  State& s = *state_;
  Lock lock(s.mutex);
  for (int slot = 0; slot < Encoder::kSlots; ++slot) {
    if (!s.slot_used[slot]) continue;
    lock.unlock();
    try {
      s.encoder->wait(slot, Clock::now() + kEncoderPatience);
    } catch (const Error&) {
      // Interrupted, as it must be; the slot is free either way.
    }
    lock.lock();
    s.slot_used[slot] = false;
  }
  s.voice.reset();
  s.start_stream();
}

void Engine::set_language(const std::string& language) {
  state_->wanted_token(language);
  Lock lock(state_->mutex);
  state_->language = language;
}

void Engine::set_prompt(const std::string& initial_prompt, const std::string& hotwords) {
  std::vector<int> prompt = state_->prompt_tokens(initial_prompt, hotwords);
  Lock lock(state_->mutex);
  state_->prompt = std::move(prompt);
}

void Engine::set_live(const std::optional<LiveOptions>& live) {
  Lock lock(state_->mutex);
  state_->live = live;
  if (state_->mel.samples() == 0 && state_->queue.empty()) state_->choose_policy();
}

EngineStats Engine::stats() const {
  const State& s = *state_;
  Lock lock(s.mutex);
  EngineStats stats = s.stats;
  stats.received_seconds = static_cast<double>(s.received) / kSampleRate;
  stats.idle = s.waiting && s.queue.empty() && !s.draining && s.skipped.seconds == 0;
  return stats;
}

}  // namespace whisperxdna2
