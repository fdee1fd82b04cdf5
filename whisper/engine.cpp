#include "whisper/engine.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
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
  explicit HeldSignal(const LogMel& mel) : mel_(mel) {}

  // Probabilities of speech of the next kVoiceHop samples each.
  void add(const std::vector<float>& probabilities) {
    voice_.insert(voice_.end(), probabilities.begin(), probabilities.end());
  }
  void discard_before(int64_t sample) {
    const int64_t hops = std::min<int64_t>(sample / kVoiceHop - first_hop_, static_cast<int64_t>(voice_.size()));
    if (hops <= 0) return;
    voice_.erase(voice_.begin(), voice_.begin() + hops);
    first_hop_ += hops;
  }
  void reset() {
    voice_.clear();
    first_hop_ = 0;
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
    int voiced = 0;
    const int64_t end = std::min((to + kVoiceHop - 1) / kVoiceHop, first_hop_ + static_cast<int64_t>(voice_.size()));
    for (int64_t hop = std::max(from / kVoiceHop, first_hop_); hop < end; ++hop) {
      voiced += voice_[hop - first_hop_] >= kVoiced;
    }
    return static_cast<double>(voiced) * kVoiceHop / kSampleRate;
  }

 private:
  static constexpr float kVoiced = 0.5f;   // Silero's own threshold

  const LogMel& mel_;
  std::deque<float> voice_;
  int64_t first_hop_ = 0;  // of voice_
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

  State(const EngineOptions& o, std::shared_ptr<const Model> m, std::unique_ptr<Encoder> e)
      : options(o),
        model(std::move(m)),
        encoder(std::move(e)),
        mel(model->dims.n_mels),
        signal(mel),
        live(o.live),
        language(o.language) {
    if (o.audio_context < 64 || o.audio_context > kMaxPositions) {
      throw Error(ErrorCode::kInvalidUse, "audio-context must lie between 64 and 1500 positions of 20 ms, not " +
                                              std::to_string(o.audio_context));
    }
    if (o.beam_size < 1 || o.beam_size > kMostBeams) {
      throw Error(ErrorCode::kInvalidUse, "beam-size must lie between 1 and 8, not " + std::to_string(o.beam_size));
    }
    wanted_token(o.language);
    for (auto& buffer : mel_buffers) {
      buffer.resize(static_cast<size_t>(model->dims.n_mels) * o.audio_context * kFramesPerPosition);
    }
    if (o.output != Output::kFeatures) decoder.emplace(model, o.precision, o.threads);
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
    language_votes.clear();
    languages_heard = 0;
    choose_policy();
  }

  void choose_policy() {
    long_windows = false;
    if (options.output == Output::kFeatures) {
      policy = std::make_unique<ConsecutiveWindows>(options.audio_context);
    } else if (live) {
      LiveOptions o = *live;
      o.positions = options.audio_context;
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

  // Plans and submits windows for which there is audio and a free slot.
  void submit_ready() {
    while (const std::optional<int> slot = free_slot()) {
      const std::optional<AudioWindow> w = policy->plan(mel.samples(), draining, signal);
      if (!w) return;
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
    r.settled = settled();
    for (Segment& s : segments) {
      s.language = spoken;
      s.window = window_index;
    }
    r.segments = std::move(segments);
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

  // Language token of a setting; -1 where it is to be detected or the model knows English only. "en-US" and "en_US" name a
  // language with a region.
  int wanted_token(const std::string& wanted) const {
    if (!model->tokenizer->special().multilingual || wanted.empty() || wanted == "auto") return -1;
    const int id = model->tokenizer->language_id(wanted.substr(0, wanted.find_first_of("-_")));
    if (id < 0) throw Error(ErrorCode::kInvalidUse, "the model knows no language \"" + wanted + "\"");
    return id;
  }

  // Language token for the features at hand: as set, or the one that was heard most so far.
  int language_token(const std::string& wanted) {
    const SpecialTokens& special = model->tokenizer->special();
    if (!special.multilingual) {
      spoken = "en";
      return -1;
    }
    if (const int id = wanted_token(wanted); id >= 0) {
      spoken = model->tokenizer->language_code(id);
      return id;
    }
    if (languages_heard < kLanguageWindows) {
      const std::vector<float> p = decoder->detect_language();
      language_votes.resize(p.size());
      for (size_t i = 0; i < p.size(); ++i) language_votes[i] += p[i];
      ++languages_heard;
    }
    const int id = special.language_begin + static_cast<int>(std::max_element(language_votes.begin(), language_votes.end()) -
                                                             language_votes.begin());
    spoken = model->tokenizer->language_code(id);
    return id;
  }

  Recognition recognize(const AudioWindow& window, int positions, const std::vector<int>& prefix,
                        const std::string& wanted_language) {
    const int heard = static_cast<int>((window.count + kSamplesPerPosition - 1) / kSamplesPerPosition);
    const int content = std::min(positions, heard);
    const int tail_rows = static_cast<int>(tail.size()) / model->dims.d_model;  // none for 1500 positions
    decoder->set_features(features.data(), positions, content, tail.data(), tail_rows);

    DecodeOptions o;
    o.language = language_token(wanted_language);
    o.translate = options.translate;
    o.beam_size = options.beam_size;
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
    std::vector<Word> words = word_times(*model->tokenizer, spoken, prefix, d,
                                         static_cast<int>(model->alignment_heads.size()), content, &prefix_words);
    r.words.assign(std::make_move_iterator(words.begin() + prefix_words), std::make_move_iterator(words.end()));
    r.words.erase(std::remove_if(r.words.begin(), r.words.end(), [](const Word& w) { return w.text.empty(); }),
                  r.words.end());
    return r;
  }

  // openai/whisper transcribe.py: text after the last closed pair of timestamps is left to the next window, which starts
  // there; a single timestamp at the end means that nothing is said after it.
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

  static constexpr int kLanguageWindows = 3;      // the language is fixed after this many windows with speech
  static constexpr int kTokensAtRest = 12;        // token cap of a window: this many,
  static constexpr double kTokensPerSecond = 8;   // and this many for each second of audio
  static constexpr float kNoSpeech = 0.6f, kUnsure = -1.0f;  // openai/whisper's thresholds for silence

  const EngineOptions options;
  const std::shared_ptr<const Model> model;
  // One per slot; a used slot's buffer belongs to the encoder. Declared first: the encoder's thread may read it to the end.
  std::array<std::vector<float>, Encoder::kSlots> mel_buffers;
  const std::unique_ptr<Encoder> encoder;
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
  std::string language;
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
  std::vector<float> language_votes;
  int languages_heard = 0;
  std::string spoken;
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
        [&](double fraction) { report("preparing the model for short windows", 0.2 + 0.6 * fraction); }, cancel, &notice);
  }
  report("preparing the encoder", 0.8);
  BackendChoice choice =
      make_encoder(model, options.backend, options.precision, options.threads,
                   [&](double fraction) { report("measuring the model", 0.8 + 0.2 * fraction); }, cancel);
  state_ = std::make_unique<State>(options, model, std::move(choice.encoder));
  state_->tail = std::move(tail);
  for (const std::string& n : {choice.fallback_reason, notice}) {
    if (!n.empty()) state_->notices.push_back(n);
  }
  report("ready", 1);
}

Engine::Engine(const EngineOptions& options, std::shared_ptr<const Model> model, std::unique_ptr<Encoder> encoder)
    : state_(std::make_unique<State>(options, std::move(model), std::move(encoder))) {
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
    {
      Lock lock(s.mutex);
      s.changed.wait(lock, [&] { return s.flushing || s.has_room(); });
      if (s.flushing) return false;
    }
    std::vector<float> voice;
    if (s.options.output != Output::kFeatures) s.voice.push(clean.data(), n, &voice);
    Lock lock(s.mutex);
    s.mel.push(clean.data(), n);
    s.received += n;
    s.signal.add(voice);
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
    s.changed.wait(lock, [&] { return s.flushing || !s.queue.empty() || s.draining; });
    s.waiting = false;
    if (s.flushing) return {};
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
    const std::string language = s.language;
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
        Recognition r = s.recognize(q.window, positions, prefix, language);
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
  stats.idle = s.waiting && s.queue.empty() && !s.draining;
  return stats;
}

}  // namespace whisperxdna2
