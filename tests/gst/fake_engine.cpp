#include "tests/gst/fake_engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <thread>

FakeEngine fake;

void FakeEngine::reset() {
  load_ms = window_ms = silent_samples = made = load_error = 0;
  load_fails = load_ignores_cancel = never_answers = no_durations = false;
  fail_at_window = skips_window = -1;
  std::lock_guard<std::mutex> lock(mutex);
  detected_language = "en";
  notices.clear();
  info = {"cpu", "imagination", "", "f32"};
}

namespace whisperxdna2 {

namespace {
constexpr double kRate = 16000;
using Lock = std::unique_lock<std::mutex>;
}  // namespace

struct Engine::State {
  EngineOptions options;
  Model model;
  std::vector<std::string> notices;

  std::mutex mutex;
  std::condition_variable changed;
  bool flushing = false, draining = false;
  std::vector<float> samples;  // of this stream
  int64_t done = 0;            // of these, recognized
  int64_t windows = 0;
  std::string language, written;
  EngineStats stats;

  std::optional<LiveOptions> live;

  // The caption and the word that are being said at `done`.
  std::vector<Word> caption;
  int word = 0;
  int64_t word_start = 0;

  int64_t window() const { return options.audio_context * 320; }

  void start_stream() {
    draining = false;
    samples.clear();
    done = 0;
    caption.clear();
    word = 0;
  }

  void end_word(int64_t at) {
    if (word == 0) return;
    Word w;
    w.text = "w" + std::to_string(word);
    w.start = word_start / kRate;
    w.end = fake.no_durations ? w.start : at / kRate;
    w.probability = 0.5f;
    caption.push_back(w);
    word = 0;
  }

  void end_caption(std::vector<Segment>* out) {
    if (caption.empty()) return;
    Segment s;
    s.start = caption.front().start;
    s.end = caption.back().end;
    for (const Word& w : caption) s.text += (s.text.empty() ? "" : " ") + w.text;
    s.words = std::move(caption);
    s.confidence = 0.5f;
    s.window = windows;
    caption.clear();
    std::lock_guard<std::mutex> lock(fake.mutex);
    written = language.empty() || language == "auto" ? fake.detected_language : language;
    s.language = written;
    out->push_back(s);
  }

  void recognize(int64_t to, std::vector<Segment>* out) {
    for (; done < to; ++done) {
      const int said = static_cast<int>(std::lround(samples[done] * 100));
      if (said == word) continue;
      end_word(done);
      if (said == 0 || options.output == Output::kWords) end_caption(out);
      word = said;
      word_start = done;
    }
  }
};

Engine::Engine(const EngineOptions& options, const std::function<void(const std::string&, double)>& progress,
               const std::atomic<bool>* cancel)
    : state_(std::make_unique<State>()) {
  ++fake.made;
  {
    std::lock_guard<std::mutex> lock(fake.mutex);
    fake.options = options;
    state_->notices = fake.notices;
  }
  if (progress) progress("loading", 0.5);
  for (int ms = 0; ms < fake.load_ms; ms += 5) {
    if (cancel && *cancel && !fake.load_ignores_cancel) throw Error(ErrorCode::kInterrupted, "canceled");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (fake.load_fails) throw Error(static_cast<ErrorCode>(fake.load_error.load()), "no model at /nowhere: fetch one");
  state_->options = options;
  state_->language = options.language;
  state_->model.dims.d_model = FakeEngine::kDModel;
  ++fake.alive;
}

Engine::~Engine() { --fake.alive; }

const Model& Engine::model() const { return state_->model; }
EncoderInfo Engine::encoder_info() const {
  std::lock_guard<std::mutex> lock(fake.mutex);
  return fake.info;
}
const std::vector<std::string>& Engine::notices() const { return state_->notices; }

bool Engine::push(const float* samples, int64_t count) {
  State& s = *state_;
  Lock lock(s.mutex);
  s.changed.wait(lock, [&] {
    return s.flushing || (!s.draining && static_cast<int64_t>(s.samples.size()) - s.done < 3 * s.window());
  });
  if (s.flushing) return false;
  for (int64_t i = 0; i < count; ++i) s.samples.push_back(std::isfinite(samples[i]) ? samples[i] : 0);
  s.stats.received_seconds += count / kRate;
  s.changed.notify_all();
  return true;
}

bool Engine::push_silence(int64_t count) {
  fake.silent_samples += static_cast<int>(count);
  const std::vector<float> zeros(count);
  return push(zeros.data(), count);
}

bool Engine::drain() {
  State& s = *state_;
  Lock lock(s.mutex);
  s.changed.wait(lock, [&] { return s.flushing || !s.draining; });
  if (s.flushing) return false;
  s.draining = true;
  s.changed.notify_all();
  return true;
}

Result Engine::next() {
  State& s = *state_;
  Result r;
  Lock lock(s.mutex);
  s.changed.wait(lock, [&] {
    return s.flushing ||
           (!fake.never_answers && (s.draining || static_cast<int64_t>(s.samples.size()) - s.done >= s.window()));
  });
  if (!s.flushing && fake.window_ms > 0)
    s.changed.wait_for(lock, std::chrono::milliseconds(fake.window_ms), [&] { return s.flushing; });
  if (s.flushing) return r;
  if (s.windows == fake.fail_at_window)
    throw Error(ErrorCode::kDevice, "the NPU did not answer within 60 s: reload its driver");

  const int64_t left = static_cast<int64_t>(s.samples.size()) - s.done;
  if (left == 0 && s.word == 0 && s.caption.empty()) {
    r.kind = Result::Kind::kDrained;
    r.settled = s.done;
    s.start_stream();
    s.changed.notify_all();
    return r;
  }
  const int64_t count = std::min(left, s.window());
  if (s.options.output == Output::kFeatures) {
    r.kind = Result::Kind::kFeatures;
    r.positions = s.options.audio_context;
    r.d_model = FakeEngine::kDModel;
    r.valid_positions = static_cast<int>((count + 319) / 320);
    r.features.resize(static_cast<size_t>(r.positions) * r.d_model);
    for (size_t i = 0; i < r.features.size(); ++i) r.features[i] = static_cast<float>(s.windows * 1000000 + i);
    r.first_sample = s.done;
    r.samples = count;
    s.done += count;
    r.settled = s.done;
  } else {
    r.kind = Result::Kind::kSegments;
    if (s.windows == fake.skips_window) {
      std::fill_n(s.samples.begin() + s.done, count, 0.0f);
      r.skipped_seconds = count / kRate;
      r.lag_seconds = 11;
    }
    s.recognize(s.done + count, &r.segments);
    if (s.draining && s.done == static_cast<int64_t>(s.samples.size())) {
      s.end_word(s.done);
      s.end_caption(&r.segments);
    }
    r.language = s.written;
    if (s.live) r.partial = s.caption;
    r.settled = s.done;
    if (s.word) r.settled = s.word_start;
    if (!s.caption.empty()) r.settled = std::lround(s.caption.front().start * kRate);
  }
  r.window = s.windows++;
  ++s.stats.windows;
  s.changed.notify_all();
  return r;
}

void Engine::set_flushing(bool flushing) {
  Lock lock(state_->mutex);
  state_->flushing = flushing;
  state_->changed.notify_all();
}

void Engine::flush() {
  Lock lock(state_->mutex);
  state_->start_stream();
}

void Engine::set_language(const std::string& language) {
  if (language == "xx") throw Error(ErrorCode::kInvalidUse, "the model knows no language \"xx\"");
  Lock lock(state_->mutex);
  state_->language = language;
}

void Engine::set_prompt(const std::string& initial_prompt, const std::string& hotwords) {
  std::lock_guard<std::mutex> control(fake.mutex);
  fake.prompt = initial_prompt + "|" + hotwords;
}

void Engine::set_live(const std::optional<LiveOptions>& live) {
  Lock lock(state_->mutex);
  state_->live = live;
  std::lock_guard<std::mutex> control(fake.mutex);
  fake.live = live;
}

EngineStats Engine::stats() const {
  Lock lock(state_->mutex);
  return state_->stats;
}

}  // namespace whisperxdna2
