#include <check.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "dsp/log_mel.h"
#include "tests/npy.h"

using namespace whisperxdna2;

namespace {

// s16 to f32 by 1/32768, as every Whisper front end reads it.
std::vector<float> speech(const std::string& name) {
  const Npy<int16_t> clip = load_npy<int16_t>("dsp/" + name + ".npy");
  std::vector<float> signal(clip.data.begin(), clip.data.end());
  for (float& sample : signal) sample /= 32768;
  return signal;
}

std::vector<float> noise(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> signal(count);
  for (float& sample : signal) sample = normal(random);
  return signal;
}

std::vector<float> window(LogMel& mel, int64_t first, int content, int frames) {
  std::vector<float> out(static_cast<size_t>(mel.bands()) * frames, 99.0f);
  mel.window(first, content, frames, out.data());
  return out;
}

std::vector<float> window_of(const std::vector<float>& signal, int bands, int64_t first,
                             int content, int frames) {
  LogMel mel(bands);
  mel.push(signal.data(), signal.size());
  return window(mel, first, content, frames);
}

void assert_same(const std::vector<float>& a, const std::vector<float>& b) {
  ck_assert_uint_eq(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    ck_assert_msg(a[i] == b[i], "value %zu: %.9g is not %.9g", i, a[i], b[i]);
}

// Columns of a float64 computation (see tests/data/dsp/README.md). In single precision the
// transform's rounding lies 7 decades below the loudest bin of a frame in amplitude, the clamp 4
// decades below the loudest of the window: a bin at the clamp is known to about 1e-3, that is 1e-4
// of a normalized value. FFTW does better (1.5e-5 on these clips).
void assert_columns(const std::vector<float>& features, int bands, int frames,
                    const std::string& name) {
  const Npy<int32_t> columns = load_npy<int32_t>("dsp/" + name + "_columns.npy");
  const Npy<float> expected = load_npy<float>("dsp/" + name + "_mel.npy");
  ck_assert_int_eq(expected.shape.size(), 2);
  ck_assert_int_eq(expected.shape[0], bands);
  ck_assert_int_eq(expected.shape[1], columns.shape[0]);
  for (int band = 0; band < bands; ++band) {
    for (int64_t i = 0; i < columns.shape[0]; ++i) {
      const float got = features[static_cast<size_t>(band) * frames + columns.data[i]];
      const float want = expected.data[band * columns.shape[0] + i];
      ck_assert_msg(std::fabs(got - want) <= 5e-5f, "band %d frame %d: %.6f, not %.6f", band,
                    columns.data[i], got, want);
    }
  }
}

}  // namespace

// elixir-nx/bumblebee, test/bumblebee/audio/whisper_featurizer_test.exs.
START_TEST(sine_of_100_samples_has_the_features_bumblebee_expects) {
  constexpr float kExpected[4][4] = {{.7313f, .7820f, .7391f, .6787f},
                                     {.4332f, .4861f, .4412f, .3497f},
                                     {-.5938f, -.5938f, -.5938f, -.5938f},
                                     {-.5938f, -.5938f, -.5938f, -.5938f}};
  std::vector<float> signal(100);
  for (int i = 0; i < 100; ++i) signal[i] = std::sin(static_cast<float>(i));
  const std::vector<float> features = window_of(signal, 80, 0, 1024, 1024);
  for (int frame = 0; frame < 4; ++frame)
    for (int band = 0; band < 4; ++band)
      ck_assert_float_eq_tol(features[band * 1024 + frame], kExpected[frame][band], 6e-5f);
}
END_TEST

// huggingface/transformers, tests/models/whisper/test_feature_extraction_whisper.py.
START_TEST(librispeech_clip_has_the_row_transformers_expects) {
  constexpr float kExpected[30] = {
      .1193f,  -.0946f, -.1098f, -.0196f, .0225f,  -.0690f, -.1736f, .0951f,  .0971f,  -.0817f,
      -.0702f, .0162f,  .0260f,  .0017f,  -.0192f, -.1678f, .0709f,  -.1867f, -.0655f, -.0274f,
      -.0234f, -.1884f, -.0516f, -.0554f, -.0274f, -.1425f, -.1423f, .0837f,  .0377f,  -.0854f};
  const std::vector<float> features =
      window_of(speech("libri_1272-128104-0000"), 80, 0, 3000, 3000);
  for (int frame = 0; frame < 30; ++frame)
    ck_assert_float_eq_tol(features[frame], kExpected[frame], 1e-4f);
}
END_TEST

// microsoft/onnxruntime-extensions, test/data/whisper/expected_output.txt; its own test allows
// 1e-2. Their single precision transform is far noisier than FFTW's, which shows below a fifth of
// the range.
START_TEST(all_bands_of_ten_frames_match_onnxruntime_extensions) {
  const Npy<float> expected = load_npy<float>("dsp/libri_1272-141231-0002_mel.npy");
  ck_assert_int_eq(expected.data.size(), 800);
  const std::vector<float> features =
      window_of(speech("libri_1272-141231-0002_cut"), 80, 0, 1024, 1024);
  const float floor = *std::min_element(expected.data.begin(), expected.data.end());
  double sum = 0;
  for (int band = 0; band < 80; ++band) {
    for (int frame = 0; frame < 10; ++frame) {
      const float want = expected.data[band * 10 + frame];
      const float difference = std::fabs(features[band * 1024 + frame] - want);
      ck_assert_msg(difference <= (want > floor + 0.2f ? 1e-3f : 8e-3f),
                    "band %d frame %d: off by %g", band, frame, difference);
      sum += difference;
    }
  }
  ck_assert_double_le(sum / 800, 2e-4);
}
END_TEST

START_TEST(padded_window_matches_double_precision) {
  std::vector<float> signal = speech("jfk");
  signal.resize(128000);
  assert_columns(window_of(signal, 80, 0, 800, 1024), 80, 1024, "jfk_8.00s");
}
END_TEST

START_TEST(full_window_matches_double_precision) {
  std::vector<float> signal = speech("jfk");
  signal.resize(163840);
  assert_columns(window_of(signal, 80, 0, 1024, 1024), 80, 1024, "jfk_10.24s");
}
END_TEST

START_TEST(silent_tail_matches_double_precision) {
  const std::vector<float> signal = speech("libri_1272-128104-0000");
  assert_columns(window_of(signal, 80, 0, 1024, 1024), 80, 1024, "libri_1272-128104-0000_floor");
}
END_TEST

START_TEST(bands_of_large_v3_match_double_precision) {
  std::vector<float> signal = speech("jfk");
  signal.resize(128000);
  assert_columns(window_of(signal, 128, 0, 800, 1024), 128, 1024, "jfk_8.00s_128");
}
END_TEST

START_TEST(digital_silence_is_minus_one_and_a_half) {
  for (float value : window_of(std::vector<float>(16000), 80, 0, 100, 100))
    ck_assert_float_eq_tol(value, -1.5f, 1e-6f);
}
END_TEST

START_TEST(columns_beyond_the_content_are_zero) {
  const std::vector<float> features = window_of(noise(16000, 1), 80, 3, 10, 32);
  for (int band = 0; band < 80; ++band)
    for (int frame = 0; frame < 32; ++frame)
      ck_assert_int_eq(features[band * 32 + frame] == 0, frame >= 10);
  for (float value : window_of(noise(16000, 1), 80, 3, 0, 32)) ck_assert_float_eq(value, 0);
}
END_TEST

START_TEST(clamp_follows_the_loudest_frame_of_the_content) {
  std::vector<float> signal = noise(32000, 2);
  for (int i = 0; i < 16000; ++i) signal[i] *= 1e-6f;
  LogMel mel(80);
  mel.push(signal.data(), signal.size());
  const std::vector<float> quiet = window(mel, 0, 50, 50), both = window(mel, 0, 150, 150);
  const float loudest = *std::max_element(both.begin(), both.end());
  ck_assert_float_eq_tol(*std::min_element(both.begin(), both.end()), loudest - 2, 1e-6f);
  ck_assert_float_lt(*std::max_element(quiet.begin(), quiet.end()), loudest - 2);
}
END_TEST

START_TEST(signal_is_reflected_before_its_first_sample) {
  const std::vector<float> signal = noise(1600, 3);
  std::vector<float> mirrored;
  for (int i = 320; i > 0; --i) mirrored.push_back(signal[i]);
  mirrored.insert(mirrored.end(), signal.begin(), signal.end());
  // One frame a window, so that the clamp sees the same.
  for (int frame = 0; frame < 3; ++frame)
    assert_same(window_of(signal, 80, frame, 1, 1), window_of(mirrored, 80, frame + 2, 1, 1));
}
END_TEST

START_TEST(signal_is_silence_after_its_last_sample) {
  std::vector<float> signal = noise(1000, 4);
  const std::vector<float> features = window_of(signal, 80, 0, 20, 20);
  signal.resize(6400);
  assert_same(features, window_of(signal, 80, 0, 20, 20));
}
END_TEST

START_TEST(signal_shorter_than_its_reflection_is_silence_there) {
  for (int64_t count : {0, 1, 199, 200, 201}) {
    std::vector<float> signal = noise(count, 5);
    const std::vector<float> features = window_of(signal, 80, 0, 4, 4);
    signal.resize(1600);
    assert_same(features, window_of(signal, 80, 0, 4, 4));
  }
}
END_TEST

START_TEST(chunk_sizes_do_not_change_the_features) {
  const std::vector<float> signal = noise(50000, 6);
  const std::vector<float> expected = window_of(signal, 80, 0, 310, 320);
  std::mt19937 random(7);
  for (int round = 0; round < 10; ++round) {
    LogMel mel(80);
    std::uniform_int_distribution<int64_t> size(0, round < 5 ? 700 : 9000);
    for (int64_t at = 0; at < 50000;) {
      const int64_t count = std::min<int64_t>(size(random), 50000 - at);
      mel.push(signal.data() + at, count);
      at += count;
      // Asked for while it grows: frames at the edge are computed early and must be computed again.
      window(mel, std::max<int64_t>(0, at / kFrameHop - 5), 8, 8);
    }
    assert_same(window(mel, 0, 310, 320), expected);
  }
}
END_TEST

START_TEST(frame_is_computed_again_when_its_samples_have_come) {
  const std::vector<float> signal = noise(2000, 8);
  // Frame 0 ends before sample 200, frame 5 before sample 1000.
  for (int64_t first_part : {150, 199, 200, 999}) {
    LogMel mel(80);
    mel.push(signal.data(), first_part);
    const std::vector<float> early = window(mel, 0, 6, 6);
    assert_same(early, window_of({signal.begin(), signal.begin() + first_part}, 80, 0, 6, 6));
    mel.push(signal.data() + first_part, 2000 - first_part);
    assert_same(window(mel, 0, 6, 6), window_of(signal, 80, 0, 6, 6));
  }
}
END_TEST

START_TEST(discarding_does_not_change_what_remains) {
  const std::vector<float> signal = noise(160000, 9);
  LogMel whole(80), trimmed(80);
  whole.push(signal.data(), signal.size());
  std::mt19937 random(10);
  std::uniform_int_distribution<int> step(1, 60);
  int64_t pushed = 0;
  for (int64_t first = 0; first + 40 < 1000; first += step(random)) {
    const int64_t until = std::min<int64_t>(160000, (first + 42) * kFrameHop);
    trimmed.push(signal.data() + pushed, until - pushed);
    pushed = until;
    trimmed.discard_before(first);
    assert_same(window(trimmed, first, 40, 40), window(whole, first, 40, 40));
    ck_assert_mem_eq(trimmed.held(first * kFrameHop, 100), &signal[first * kFrameHop],
                     100 * sizeof(float));
  }
  ck_assert_int_eq(trimmed.samples(), pushed);
}
END_TEST

START_TEST(discarding_ahead_of_the_signal_drops_samples_as_they_come) {
  const std::vector<float> signal = noise(32000, 11);
  LogMel mel(80);
  mel.discard_before(100);
  for (int at = 0; at < 32000; at += 1000) mel.push(signal.data() + at, 1000);
  assert_same(window(mel, 100, 90, 90), window_of(signal, 80, 100, 90, 90));
  ck_assert_ptr_null(mel.held(15999, 1));
  ck_assert_float_eq(*mel.held(16000, 1), signal[16000]);
}
END_TEST

START_TEST(discarding_far_ahead_takes_no_memory) {
  constexpr int64_t kFar = int64_t{1} << 40;
  LogMel mel(80);
  const std::vector<float> signal = noise(16000, 12);
  mel.push(signal.data(), signal.size());
  window(mel, 0, 50, 50);
  mel.discard_before(kFar);
  mel.push(signal.data(), signal.size());
  for (float value : window(mel, kFar, 4, 4)) ck_assert_float_eq_tol(value, -1.5f, 1e-6f);
}
END_TEST

START_TEST(discarded_frames_are_refused) {
  LogMel mel(80);
  const std::vector<float> signal = noise(16000, 12);
  mel.push(signal.data(), signal.size());
  mel.discard_before(50);
  mel.discard_before(20);  // what is gone stays gone
  std::vector<float> out(80);
  bool refused = false;
  try {
    mel.window(49, 1, 1, out.data());
  } catch (const std::out_of_range&) {
    refused = true;
  }
  ck_assert(refused);
  mel.window(50, 1, 1, out.data());
}
END_TEST

START_TEST(content_longer_than_the_window_is_refused) {
  LogMel mel(80);
  std::vector<float> out(80 * 4);
  bool refused = false;
  try {
    mel.window(0, 5, 4, out.data());
  } catch (const std::out_of_range&) {
    refused = true;
  }
  ck_assert(refused);
}
END_TEST

START_TEST(other_numbers_of_bands_are_refused) {
  bool refused = false;
  try {
    LogMel mel(64);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  ck_assert(refused);
}
END_TEST

START_TEST(reset_starts_a_new_stream) {
  const std::vector<float> first = noise(20000, 13), second = noise(9000, 14);
  LogMel mel(80);
  mel.push(first.data(), first.size());
  window(mel, 0, 100, 100);
  mel.discard_before(60);
  mel.reset();
  ck_assert_int_eq(mel.samples(), 0);
  mel.push(second.data(), second.size());
  assert_same(window(mel, 0, 56, 64), window_of(second, 80, 0, 56, 64));
}
END_TEST

START_TEST(held_gives_the_samples_that_are_left) {
  const std::vector<float> signal = noise(4000, 15);
  LogMel mel(80);
  ck_assert_ptr_null(mel.held(0, 1));
  mel.push(signal.data(), 1500);
  mel.push(signal.data() + 1500, 2500);
  ck_assert_mem_eq(mel.held(0, 4000), signal.data(), 4000 * sizeof(float));
  ck_assert_ptr_null(mel.held(0, 4001));
  ck_assert_ptr_null(mel.held(-1, 2));
  ck_assert_ptr_null(mel.held(3000, std::numeric_limits<int64_t>::max()));
  mel.discard_before(10);
  ck_assert_ptr_null(mel.held(1599, 1));
  ck_assert_mem_eq(mel.held(1600, 2400), &signal[1600], 2400 * sizeof(float));
}
END_TEST

START_TEST(broken_samples_spoil_their_own_frames_only) {
  const std::vector<float> clean = noise(16000, 16);
  std::vector<float> broken = clean;
  broken[8000] = std::numeric_limits<float>::quiet_NaN();
  LogMel mel(80);
  mel.push(broken.data(), broken.size());
  for (float value : window(mel, 0, 100, 100)) ck_assert(std::isfinite(value));
  assert_same(window(mel, 0, 48, 48), window_of(clean, 80, 0, 48, 48));
  assert_same(window(mel, 52, 48, 48), window_of(clean, 80, 52, 48, 48));
  // Nor does it raise the clamp of the others.
  const std::vector<float> around = window(mel, 0, 100, 100),
                           whole = window_of(clean, 80, 0, 100, 100);
  ck_assert_float_le(*std::max_element(around.begin(), around.end()),
                     *std::max_element(whole.begin(), whole.end()));
  broken[8000] = std::numeric_limits<float>::infinity();
  for (float value : window_of(broken, 80, 0, 100, 100)) ck_assert(std::isfinite(value));
}
END_TEST

// Check runs each test in its own process, so these threads also race for the first plan.
START_TEST(streams_in_several_threads_do_not_disturb_each_other) {
  std::vector<std::vector<float>> together(8), alone(8);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back(
        [&, i] { together[i] = window_of(noise(16000, i), i % 2 ? 128 : 80, 0, 100, 100); });
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 8; ++i)
    assert_same(together[i], window_of(noise(16000, i), i % 2 ? 128 : 80, 0, 100, 100));
}
END_TEST

int main() {
  Suite* suite = suite_create("log_mel");
  TCase* vectors = tcase_create("vectors");
  tcase_add_test(vectors, sine_of_100_samples_has_the_features_bumblebee_expects);
  tcase_add_test(vectors, librispeech_clip_has_the_row_transformers_expects);
  tcase_add_test(vectors, all_bands_of_ten_frames_match_onnxruntime_extensions);
  tcase_add_test(vectors, padded_window_matches_double_precision);
  tcase_add_test(vectors, full_window_matches_double_precision);
  tcase_add_test(vectors, silent_tail_matches_double_precision);
  tcase_add_test(vectors, bands_of_large_v3_match_double_precision);
  tcase_add_test(vectors, digital_silence_is_minus_one_and_a_half);
  suite_add_tcase(suite, vectors);
  TCase* stream = tcase_create("stream");
  tcase_add_test(stream, columns_beyond_the_content_are_zero);
  tcase_add_test(stream, clamp_follows_the_loudest_frame_of_the_content);
  tcase_add_test(stream, signal_is_reflected_before_its_first_sample);
  tcase_add_test(stream, signal_is_silence_after_its_last_sample);
  tcase_add_test(stream, signal_shorter_than_its_reflection_is_silence_there);
  tcase_add_test(stream, chunk_sizes_do_not_change_the_features);
  tcase_add_test(stream, frame_is_computed_again_when_its_samples_have_come);
  tcase_add_test(stream, discarding_does_not_change_what_remains);
  tcase_add_test(stream, discarding_ahead_of_the_signal_drops_samples_as_they_come);
  tcase_add_test(stream, discarding_far_ahead_takes_no_memory);
  tcase_add_test(stream, discarded_frames_are_refused);
  tcase_add_test(stream, content_longer_than_the_window_is_refused);
  tcase_add_test(stream, other_numbers_of_bands_are_refused);
  tcase_add_test(stream, reset_starts_a_new_stream);
  tcase_add_test(stream, held_gives_the_samples_that_are_left);
  tcase_add_test(stream, broken_samples_spoil_their_own_frames_only);
  tcase_add_test(stream, streams_in_several_threads_do_not_disturb_each_other);
  suite_add_tcase(suite, stream);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
