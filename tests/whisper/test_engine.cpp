// The engine's windows, queues and threads, with an encoder that takes its time, fails or hangs on demand.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <thread>

#include <unistd.h>

#include "tests/fake_encoder.h"
#include "tests/fake_model.h"
#include "tests/npy.h"
#include "whisper/engine.h"

#include <check.h>  // last: it defines macros with names such as fail

using namespace whisperxdna2;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int64_t kWindow = 163840;

std::shared_ptr<const Model> model() {
  static const std::shared_ptr<const Model> m = make_fake_model();
  return m;
}

struct Rig {
  explicit Rig(Output output, FakeBehavior behavior = {}, int positions = 512, int beams = 1) {
    EngineOptions o;
    o.output = output;
    o.language = "en";
    o.audio_context = positions;
    o.beam_size = beams;
    auto e = std::make_unique<FakeEncoder>(80, 64, behavior);
    encoder = e.get();
    engine = std::make_unique<Engine>(o, model(), std::move(e));
  }
  FakeEncoder* encoder;
  std::unique_ptr<Engine> engine;
};

// A tone whose loudness tells the samples apart.
std::vector<float> tone(int64_t count, float amplitude = 0.3f) {
  std::vector<float> x(count);
  for (int64_t i = 0; i < count; ++i) x[i] = amplitude * std::sin(0.05f * static_cast<float>(i % 16000));
  return x;
}

std::vector<Result> until_drained(Engine& engine) {
  std::vector<Result> all;
  while (true) {
    all.push_back(engine.next());
    if (all.back().kind != Result::Kind::kFeatures && all.back().kind != Result::Kind::kSegments) return all;
  }
}

int64_t milliseconds_since(Clock::time_point t) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - t).count();
}

}  // namespace

START_TEST(features_come_as_consecutive_windows_with_the_valid_part_of_the_last) {
  for (const int64_t count : {int64_t{1}, int64_t{320}, kWindow - 1, kWindow, kWindow + 1, 3 * kWindow + 5000}) {
    Rig rig(Output::kFeatures);
    std::thread producer([&] {
      const std::vector<float> x = tone(count);
      ck_assert(rig.engine->push(x.data(), count));
      ck_assert(rig.engine->drain());
    });
    const std::vector<Result> results = until_drained(*rig.engine);
    producer.join();
    const int64_t windows = (count + kWindow - 1) / kWindow;
    ck_assert_int_eq(results.size(), windows + 1);
    for (int64_t i = 0; i < windows; ++i) {
      const Result& r = results[i];
      ck_assert_int_eq(r.first_sample, i * kWindow);
      ck_assert_int_eq(r.samples, std::min(kWindow, count - i * kWindow));
      ck_assert_int_eq(r.valid_positions, (r.samples + 319) / 320);
      ck_assert_int_eq(r.positions, 512);
      ck_assert_int_eq(r.d_model, 64);
      ck_assert_uint_eq(r.features.size(), 512 * 64);
      ck_assert_int_eq(r.window, i);
      ck_assert_float_eq(r.features[1], static_cast<float>(i));
    }
    ck_assert(results.back().kind == Result::Kind::kDrained);
    ck_assert_int_eq(results.back().settled, count);
  }
}
END_TEST

START_TEST(features_do_not_depend_on_how_samples_are_pushed) {
  const int64_t count = 2 * kWindow + 777;
  const std::vector<float> x = tone(count);
  std::vector<std::vector<float>> outcomes;
  for (const int64_t piece : {int64_t{160}, int64_t{4099}, count}) {
    Rig rig(Output::kFeatures);
    std::thread producer([&] {
      for (int64_t at = 0; at < count; at += piece) rig.engine->push(&x[at], std::min(piece, count - at));
      rig.engine->drain();
    });
    std::vector<float> all;
    for (const Result& r : until_drained(*rig.engine)) all.insert(all.end(), r.features.begin(), r.features.end());
    producer.join();
    outcomes.push_back(all);
  }
  ck_assert(outcomes[0] == outcomes[1]);
  ck_assert(outcomes[0] == outcomes[2]);
}
END_TEST

START_TEST(both_slots_are_used_at_once) {
  Rig rig(Output::kFeatures, {milliseconds(200)});
  std::thread producer([&] {
    const std::vector<float> x = tone(5 * kWindow);
    rig.engine->push(x.data(), static_cast<int64_t>(x.size()));
    rig.engine->drain();
  });
  until_drained(*rig.engine);
  producer.join();
  ck_assert_int_eq(rig.encoder->most_in_flight(), 2);
}
END_TEST

START_TEST(push_blocks_when_nobody_takes_results_and_flushing_frees_it) {
  Rig rig(Output::kFeatures);
  std::atomic<bool> returned{false};
  std::thread producer([&] {
    const std::vector<float> x = tone(20 * kWindow);
    ck_assert(!rig.engine->push(x.data(), static_cast<int64_t>(x.size())));
    returned = true;
  });
  std::this_thread::sleep_for(milliseconds(300));
  ck_assert(!returned);
  const auto start = Clock::now();
  rig.engine->set_flushing(true);
  producer.join();
  ck_assert_int_lt(milliseconds_since(start), 500);
  ck_assert_int_le(rig.encoder->submitted(), 2);
}
END_TEST

START_TEST(flushing_frees_next_while_it_waits_for_samples) {
  Rig rig(Output::kCaptions);
  std::thread consumer([&] { ck_assert(rig.engine->next().kind == Result::Kind::kInterrupted); });
  std::this_thread::sleep_for(milliseconds(50));
  const auto start = Clock::now();
  rig.engine->set_flushing(true);
  consumer.join();
  ck_assert_int_lt(milliseconds_since(start), 500);
}
END_TEST

START_TEST(flushing_frees_next_while_the_encoder_hangs) {
  FakeBehavior hangs;
  hangs.hangs = true;
  Rig rig(Output::kFeatures, hangs);
  const std::vector<float> x = tone(kWindow + kLookahead);
  rig.engine->push(x.data(), static_cast<int64_t>(x.size()));
  ck_assert_int_eq(rig.encoder->in_flight(), 1);
  std::thread consumer([&] { ck_assert(rig.engine->next().kind == Result::Kind::kInterrupted); });
  std::this_thread::sleep_for(milliseconds(100));
  const auto start = Clock::now();
  rig.engine->set_flushing(true);
  consumer.join();
  ck_assert_int_lt(milliseconds_since(start), 500);
}
END_TEST

START_TEST(after_a_flush_the_stream_starts_at_zero_and_old_audio_is_gone) {
  Rig rig(Output::kFeatures, {milliseconds(30)});
  const std::vector<float> loud = tone(kWindow + 5000, 0.9f), soft = tone(kWindow, 0.1f);
  rig.engine->push(loud.data(), static_cast<int64_t>(loud.size()));
  rig.engine->set_flushing(true);
  rig.engine->flush();
  ck_assert_int_eq(rig.encoder->in_flight(), 0);
  rig.engine->set_flushing(false);
  rig.engine->push(soft.data(), kWindow);
  rig.engine->drain();
  const std::vector<Result> after = until_drained(*rig.engine);

  Rig fresh(Output::kFeatures);
  fresh.engine->push(soft.data(), kWindow);
  fresh.engine->drain();
  const std::vector<Result> expected = until_drained(*fresh.engine);
  ck_assert_uint_eq(after.size(), 2);
  ck_assert_int_eq(after[0].first_sample, 0);
  for (int p = 0; p < 512; ++p) ck_assert_float_eq(after[0].features[p * 64], expected[0].features[p * 64]);
}
END_TEST

START_TEST(streams_follow_each_other_through_drain) {
  Rig rig(Output::kFeatures);
  std::thread producer([&] {
    const std::vector<float> x = tone(kWindow / 2);
    for (int i = 0; i < 5; ++i) {
      rig.engine->push(x.data(), static_cast<int64_t>(x.size()));
      rig.engine->drain();
    }
  });
  for (int i = 0; i < 5; ++i) {
    const std::vector<Result> results = until_drained(*rig.engine);
    ck_assert_uint_eq(results.size(), 2);
    ck_assert_int_eq(results[0].first_sample, 0);
    ck_assert_int_eq(results[0].samples, kWindow / 2);
  }
  producer.join();
}
END_TEST

START_TEST(the_engine_is_idle_when_all_that_can_be_made_of_the_audio_is_out) {
  Rig rig(Output::kFeatures, {milliseconds(100)});
  const std::vector<float> x = tone(kWindow + kLookahead);
  ck_assert(!rig.engine->stats().idle);
  std::atomic<int> results{0};
  std::thread consumer([&] {
    while (rig.engine->next().kind == Result::Kind::kFeatures) ++results;
  });
  const auto wait_until_idle = [&] {
    while (!rig.engine->stats().idle) std::this_thread::sleep_for(milliseconds(1));
  };
  wait_until_idle();
  rig.engine->push(x.data(), kWindow);
  wait_until_idle();
  ck_assert_int_eq(results, 0);
  rig.engine->push(x.data(), kLookahead);
  ck_assert(!rig.engine->stats().idle);
  wait_until_idle();
  ck_assert_int_eq(results, 1);
  ck_assert_double_eq_tol(rig.engine->stats().received_seconds, (kWindow + kLookahead) / 16000.0, 1e-9);
  rig.engine->set_flushing(true);
  consumer.join();
  rig.engine->flush();
  rig.engine->set_flushing(false);
}
END_TEST

namespace {

// Its encodings take simulated time, in which `pass` may do something.
class TimedEncoder : public FakeEncoder {
 public:
  explicit TimedEncoder(std::function<void()> pass) : FakeEncoder(80, 64), pass_(std::move(pass)) {}
  const float* wait(int slot, std::chrono::steady_clock::time_point deadline) override {
    pass_();
    return FakeEncoder::wait(slot, deadline);
  }

 private:
  const std::function<void()> pass_;
};

// 40 s of speech that come live, to an encoder that needs `cost` seconds for a window. All in simulated time.
struct SlowStream {
  double skipped = 0, latest = 0;  // seconds
  uint64_t windows = 0;

  SlowStream(double cost, double max_lag) {
    const Npy<int16_t> jfk = load_npy<int16_t>("dsp/jfk.npy");
    std::atomic<int> step{0};  // of 0.1 s, each
    EngineOptions o;
    o.output = Output::kWords;
    o.language = "en";
    o.live = LiveOptions();
    o.live->max_lag = max_lag;
    Engine* source = nullptr;
    const auto pass = [&] {
      const int at = step++ * 1600;
      if (at >= 400 * 1600) return;  // the stream has ended
      float x[1600];
      for (int i = 0; i < 1600; ++i) x[i] = jfk.data[(at + i) % jfk.data.size()] / 32768.0f;
      source->push(x, 1600);
    };
    Engine engine(o, model(), std::make_unique<TimedEncoder>([&] {
                    for (int i = 0; i < 10 * cost; ++i) pass();
                  }),
                  [&] { return step * 0.1; });
    source = &engine;
    std::thread consumer([&] {
      int64_t settled = 0;
      for (Result r = engine.next(); r.kind == Result::Kind::kSegments; r = engine.next()) {
        ck_assert_int_ge(r.settled, settled);
        settled = r.settled;
        skipped += r.skipped_seconds;
        if (r.skipped_seconds > 0) ck_assert(r.lag_seconds >= max_lag);
        latest = std::max(latest, step * 0.1 - static_cast<double>(settled) / 16000);
      }
    });
    while (step < 400) {
      while (!engine.stats().idle) std::this_thread::sleep_for(milliseconds(1));
      if (step < 400) pass();
    }
    engine.drain();
    consumer.join();
    windows = engine.stats().windows;
    ck_assert_double_eq_tol(engine.stats().skipped_seconds, skipped, 1e-6);
  }
};

}  // namespace

START_TEST(live_audio_that_waits_too_long_is_given_up) {
  const SlowStream slow(6, 4);
  ck_assert_double_ge(slow.skipped, 5);
  ck_assert_double_le(slow.skipped, 35);
  ck_assert_double_le(slow.latest, 4 + 2 * 6 + 4);
  ck_assert_uint_ge(slow.windows, 3);
}
END_TEST

START_TEST(live_audio_is_kept_where_that_is_wanted) {
  ck_assert_double_eq_tol(SlowStream(6, 0).skipped, 0, 1e-9);
}
END_TEST

namespace {

double resident_mb() {
  long pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return static_cast<double>(pages) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

}  // namespace

// Speech and pauses without end, in simulated time: 60 s, or WHISPERXDNA2_LIVE_SECONDS.
START_TEST(live_audio_takes_no_more_memory_the_longer_it_lasts) {
  const char* wanted = getenv("WHISPERXDNA2_LIVE_SECONDS");
  const int steps = 10 * (wanted ? atoi(wanted) : 60);
  const Npy<int16_t> jfk = load_npy<int16_t>("dsp/jfk.npy");
  EngineOptions o;
  o.output = Output::kWords;
  o.language = "en";
  o.live = LiveOptions();
  o.live->max_lag = 0;
  Engine engine(o, model(), std::make_unique<FakeEncoder>(80, 64));
  std::thread consumer([&] {
    while (engine.next().kind == Result::Kind::kSegments) {
    }
  });
  double after_a_third = 0;
  for (int step = 0; step < steps; ++step) {
    float x[1600] = {};
    const size_t at = static_cast<size_t>(step % 150) * 1600;  // 11 s of speech, 4 s of silence
    for (size_t i = 0; i < 1600 && at + i < jfk.data.size(); ++i) x[i] = jfk.data[at + i] / 32768.0f;
    engine.push(x, 1600);
    while (!engine.stats().idle) std::this_thread::sleep_for(milliseconds(1));
    if (step == steps / 3) after_a_third = resident_mb();
  }
  [[maybe_unused]] const double grown = resident_mb() - after_a_third;
  engine.drain();
  consumer.join();
  ck_assert_uint_gt(engine.stats().windows, steps / 20);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which keep what was given back
  ck_assert_msg(grown < 4, "%.1f MB more after %d s", grown, steps / 10);
#endif
}
END_TEST

START_TEST(an_empty_stream_drains_at_once) {
  Rig rig(Output::kCaptions);
  rig.engine->drain();
  ck_assert(rig.engine->next().kind == Result::Kind::kDrained);
  ck_assert_int_eq(rig.encoder->submitted(), 0);
}
END_TEST

START_TEST(silence_costs_no_encoding_and_gives_no_words) {
  Rig rig(Output::kCaptions);
  std::thread producer([&] {
    rig.engine->push_silence(60 * 16000);
    rig.engine->drain();
  });
  for (const Result& r : until_drained(*rig.engine)) ck_assert(r.segments.empty());
  producer.join();
  ck_assert_int_eq(rig.encoder->submitted(), 0);
  ck_assert_uint_gt(rig.engine->stats().skipped_windows, 3);
}
END_TEST

// As much as what may become speech needs: the shortest speech, and its padding.
START_TEST(live_silence_is_kept_for_the_speech_that_may_follow) {
  for (const double padding : {0.0, 0.15, 1.0}) {
    EngineOptions o;
    o.language = "en";
    o.live = LiveOptions();
    o.voice.min_speech = 8000;
    o.voice.padding = static_cast<int64_t>(16000 * padding);
    Engine engine(o, model(), std::make_unique<FakeEncoder>(80, 64));
    int64_t settled = 0;
    for (int second = 1; second <= 10; ++second) {
      engine.push_silence(16000);
      if (second > 1) settled = engine.next().settled;  // of the hop before
    }
    ck_assert_double_le(settled / 16000.0, 8.5 - padding);
    ck_assert_double_ge(settled / 16000.0, 8.3 - padding);
  }
}
END_TEST

START_TEST(captions_settle_up_to_the_end) {
  Rig rig(Output::kCaptions);
  const int64_t count = 25 * 16000;
  std::thread producer([&] {
    const std::vector<float> x = tone(count);
    rig.engine->push(x.data(), count);
    rig.engine->drain();
  });
  int64_t settled = 0;
  for (const Result& r : until_drained(*rig.engine)) {
    ck_assert_int_ge(r.settled, settled);
    settled = r.settled;
  }
  producer.join();
  ck_assert_int_eq(settled, count);
}
END_TEST

START_TEST(bad_samples_count_as_silence) {
  Rig bad(Output::kFeatures), clean(Output::kFeatures);
  std::vector<float> x = tone(kWindow), y = x;
  for (int64_t i = 100; i < kWindow; i += 1000) {
    x[i] = i % 3 == 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    y[i] = 0;
  }
  bad.engine->push(x.data(), kWindow);
  clean.engine->push(y.data(), kWindow);
  bad.engine->drain();
  clean.engine->drain();
  ck_assert(bad.engine->next().features == clean.engine->next().features);
}
END_TEST

START_TEST(an_encoder_failure_comes_out_of_next) {
  FakeBehavior fails;
  fails.fails_at = 1;
  Rig rig(Output::kFeatures, fails);
  const std::vector<float> x = tone(2 * kWindow + kLookahead);
  rig.engine->push(x.data(), static_cast<int64_t>(x.size()));
  ck_assert(rig.engine->next().kind == Result::Kind::kFeatures);
  try {
    rig.engine->next();
    ck_abort_msg("no error");
  } catch (const Error& e) {
    ck_assert(e.code() == ErrorCode::kDevice);
  }
  rig.engine->set_flushing(true);
  rig.engine->flush();
  rig.engine->set_flushing(false);
}
END_TEST

START_TEST(an_engine_can_be_destroyed_with_work_in_flight) {
  for (int i = 0; i < 20; ++i) {
    Rig rig(Output::kFeatures, {milliseconds(200)});
    const std::vector<float> x = tone(kWindow + kLookahead);
    rig.engine->push(x.data(), static_cast<int64_t>(x.size()));
    ck_assert_int_eq(rig.encoder->in_flight(), 1);
    const auto start = Clock::now();
    rig.engine.reset();
    ck_assert_int_lt(milliseconds_since(start), 500);
  }
}
END_TEST

START_TEST(an_unknown_language_is_named) {
  Rig rig(Output::kCaptions);
  rig.engine->set_language("de-AT");
  rig.engine->set_language("auto");
  try {
    rig.engine->set_language("klingon");
    ck_abort_msg("no error");
  } catch (const Error& e) {
    ck_assert(e.code() == ErrorCode::kInvalidUse);
    ck_assert_str_eq(e.what(), "the model knows no language \"klingon\"");
  }
}
END_TEST

START_TEST(impossible_windows_and_beams_are_refused) {
  for (const auto& [positions, beams] : {std::pair(0, 1), {63, 1}, {1501, 1}, {512, 0}, {512, 9}}) {
    try {
      Rig rig(Output::kCaptions, {}, positions, beams);
      ck_abort_msg("no error");
    } catch (const Error& e) {
      ck_assert(e.code() == ErrorCode::kInvalidUse);
    }
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("engine");
  TCase* tc = tcase_create("engine");
  tcase_set_timeout(tc, 60);
  TCase* endless = tcase_create("endless");
  tcase_set_timeout(endless, 3600);
  tcase_add_test(tc, features_come_as_consecutive_windows_with_the_valid_part_of_the_last);
  tcase_add_test(tc, features_do_not_depend_on_how_samples_are_pushed);
  tcase_add_test(tc, both_slots_are_used_at_once);
  tcase_add_test(tc, push_blocks_when_nobody_takes_results_and_flushing_frees_it);
  tcase_add_test(tc, flushing_frees_next_while_it_waits_for_samples);
  tcase_add_test(tc, flushing_frees_next_while_the_encoder_hangs);
  tcase_add_test(tc, after_a_flush_the_stream_starts_at_zero_and_old_audio_is_gone);
  tcase_add_test(tc, streams_follow_each_other_through_drain);
  tcase_add_test(tc, the_engine_is_idle_when_all_that_can_be_made_of_the_audio_is_out);
  tcase_add_test(tc, live_audio_that_waits_too_long_is_given_up);
  tcase_add_test(tc, live_audio_is_kept_where_that_is_wanted);
  tcase_add_test(tc, an_empty_stream_drains_at_once);
  tcase_add_test(endless, live_audio_takes_no_more_memory_the_longer_it_lasts);
  tcase_add_test(tc, silence_costs_no_encoding_and_gives_no_words);
  tcase_add_test(tc, live_silence_is_kept_for_the_speech_that_may_follow);
  tcase_add_test(tc, captions_settle_up_to_the_end);
  tcase_add_test(tc, bad_samples_count_as_silence);
  tcase_add_test(tc, an_encoder_failure_comes_out_of_next);
  tcase_add_test(tc, an_engine_can_be_destroyed_with_work_in_flight);
  tcase_add_test(tc, an_unknown_language_is_named);
  tcase_add_test(tc, impossible_windows_and_beams_are_refused);
  suite_add_tcase(suite, tc);
  suite_add_tcase(suite, endless);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
