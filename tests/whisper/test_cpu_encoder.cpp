// The CPU encoder on Whisper base, against an implementation in NumPy (tests/data/whisper/encoder/README.md).
#include <check.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_features.h"
#include "tests/assert_text.h"
#include "tests/npy.h"
#include "whisper/cpu_encoder.h"
#include "whisper/encoder_schedule.h"
#include "whisper/error.h"
#include "whisper/model.h"

using namespace whisperxdna2;

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kWidth = 512, kLayers = 6, kBands = 80, kPositions = 512;
const char* const kCases[] = {"jfk_full", "jfk_padded", "libri"};

const std::atomic<bool> kNeverAbandoned{false};

// Positions of the reference.
std::vector<int> reference_rows() {
  std::vector<int> rows = {0};
  for (int row = 15; row < kPositions; row += 16) rows.push_back(row);
  return rows;
}

std::vector<float> mel_of(const std::string& name) {
  return load_npy<float>("whisper/encoder/" + name + "_mel.npy").data;
}

// The first frames of a mel.
std::vector<float> first_positions(const std::vector<float>& mel, int positions) {
  std::vector<float> part;
  for (int b = 0; b < kBands; ++b) {
    const float* row = mel.data() + static_cast<size_t>(b) * kPositions * kFramesPerPosition;
    part.insert(part.end(), row, row + positions * kFramesPerPosition);
  }
  return part;
}

std::shared_ptr<const Model> base() { return load_model(default_model_path()); }

std::unique_ptr<Encoder> encoder(int threads = 2) { return make_cpu_encoder(base(), Precision::kF32, threads); }

std::vector<float> encode(Encoder& encoder, const std::vector<float>& mel, int positions) {
  encoder.submit(0, mel.data(), positions);
  const float* features = encoder.wait(0, Clock::now() + seconds(60));
  return std::vector<float>(features, features + static_cast<size_t>(positions) * kWidth);
}

template <class Action>
void expect(ErrorCode code, const Action& action) {
  try {
    action();
  } catch (const Error& e) {
    ck_assert_msg(e.code() == code, "another error: %s", e.what());
    return;
  }
  ck_abort_msg("no error");
}

START_TEST(every_layer_is_that_of_the_reference) {
  const std::string name = kCases[_i];
  const Npy<float> reference = load_npy<float>("whisper/encoder/" + name + "_rows.npy");  // stem, layers, final
  const std::vector<int> rows = reference_rows();
  ck_assert(reference.shape == std::vector<int64_t>({kLayers + 2, static_cast<int64_t>(rows.size()), kWidth}));

  const auto largest_error = [&](int tensor, const float* values) {
    double error = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      for (int c = 0; c < kWidth; ++c) {
        const double want = reference.data[(tensor * rows.size() + r) * kWidth + c];
        error = std::max(error, std::fabs(values[static_cast<size_t>(rows[r]) * kWidth + c] - want));
      }
    }
    return error;
  };
  int seen = 0;
  const Observer observer = [&](Activation activation, int layer, const float* values, int positions, int width) {
    if (activation != Activation::kStem && activation != Activation::kLayer) return;
    ck_assert_int_eq(layer, seen - 1);
    ck_assert_int_eq(positions, kPositions);
    ck_assert_int_eq(width, kWidth);
    double largest = 0;
    for (int i = 0; i < kPositions * kWidth; ++i) largest = std::max<double>(largest, std::fabs(values[i]));
    const double error = largest_error(seen, values);
    ck_assert_msg(error <= 2e-4 * largest, "%s, layer %d: off by %g of %g", name.c_str(), layer, error, largest);
    ++seen;
  };
  EncoderSchedule schedule(packed_encoder(base()), 2);
  std::vector<float> features(static_cast<size_t>(kPositions) * kWidth);
  ck_assert(schedule.run(mel_of(name).data(), kPositions, features.data(), kNeverAbandoned, observer));
  ck_assert_int_eq(seen, kLayers + 1);
  const double error = largest_error(kLayers + 1, features.data());
  ck_assert_msg(error <= 1e-3, "%s, features: off by %g", name.c_str(), error);
}
END_TEST

START_TEST(observer_sees_the_input_of_each_product) {
  float largest[kLayers] = {}, smallest[kLayers] = {};
  int calls = 0;
  EncoderSchedule schedule(packed_encoder(base()), 2);
  std::vector<float> features(static_cast<size_t>(kPositions) * kWidth);
  schedule.run(mel_of("jfk_padded").data(), kPositions, features.data(), kNeverAbandoned,
               [&](Activation activation, int layer, const float* values, int rows, int width) {
                 ++calls;
                 ck_assert_int_eq(rows, kPositions);
                 ck_assert_int_eq(width, activation == Activation::kFc2Input ? 4 * kWidth : kWidth);
                 if (activation != Activation::kFc2Input) return;
                 largest[layer] = *std::max_element(values, values + rows * width);
                 smallest[layer] = *std::min_element(values, values + rows * width);
               });
  ck_assert_int_eq(calls, 1 + 5 * kLayers);
  // GELU's minimum is -0.17. Whisper base is known for what leaves it in the fourth layer.
  for (float s : smallest) ck_assert(s > -0.1701f && s < -0.16f);
  ck_assert(largest[2] < 10 && largest[3] > 80);
}
END_TEST

// With or without the processor's instruction for it.
START_TEST(features_in_bf16_are_close_to_those_in_f32) {
  const std::vector<float> mel = mel_of(kCases[_i]);
  const std::vector<float> want = encode(*encoder(), mel, kPositions);
  const auto bf16 = [&](int threads) {
    const auto e = make_cpu_encoder(base(), Precision::kBF16, threads);
    assert_text(e->describe().precision, "bf16");
    return encode(*e, mel, kPositions);
  };
  const std::vector<float> have = bf16(2);
  double signal = 0, noise = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    signal += static_cast<double>(want[i]) * want[i];
    noise += std::pow(static_cast<double>(want[i]) - have[i], 2);
  }
  const double decibels = 10 * std::log10(signal / noise);
  ck_assert_msg(decibels >= 33, "%s: %.1f dB", kCases[_i], decibels);
  ck_assert(bf16(1) == have);
  ck_assert(bf16(3) == have);
}
END_TEST

START_TEST(features_do_not_depend_on_the_number_of_threads) {
  const std::vector<float> mel = first_positions(mel_of("libri"), 300);
  const std::vector<float> one = encode(*encoder(1), mel, 300);
  ck_assert(encode(*encoder(2), mel, 300) == one);
  ck_assert(encode(*encoder(3), mel, 300) == one);
}
END_TEST

START_TEST(features_do_not_depend_on_windows_before) {
  const std::vector<float> mel = mel_of("libri"), other = mel_of("jfk_full");
  const auto e = encoder();
  const std::vector<float> first = encode(*e, first_positions(mel, 130), 130);
  encode(*e, other, kPositions);
  ck_assert(encode(*e, first_positions(mel, 130), 130) == first);
}
END_TEST

START_TEST(windows_of_every_length_are_encoded) {
  const std::vector<float> mel = mel_of("jfk_full");
  const auto e = encoder();
  for (int positions : {1, 2, 3, 25, 97, 500}) {
    for (float f : encode(*e, first_positions(mel, positions), positions)) ck_assert(std::isfinite(f));
  }
  const std::vector<float> longest(static_cast<size_t>(kBands) * kMaxPositions * kFramesPerPosition, -0.5f);
  for (float f : encode(*e, longest, kMaxPositions)) ck_assert(std::isfinite(f));
  const auto bf16 = make_cpu_encoder(base(), Precision::kBF16, 2);
  for (int positions : {1, 2, 3, 25, 97}) {
    for (float f : encode(*bf16, first_positions(mel, positions), positions)) ck_assert(std::isfinite(f));
  }
}
END_TEST

START_TEST(two_slots_keep_their_own_features) {
  const std::vector<float> a = mel_of("jfk_full"), b = mel_of("libri");
  const auto e = encoder();
  const std::vector<float> expected_a = encode(*e, a, kPositions), expected_b = encode(*e, b, kPositions);
  e->submit(0, a.data(), kPositions);
  e->submit(1, b.data(), kPositions);
  const float* features_b = e->wait(1, Clock::now() + seconds(60));
  const float* features_a = e->wait(0, Clock::now() + seconds(60));
  ck_assert(std::equal(expected_a.begin(), expected_a.end(), features_a));
  ck_assert(std::equal(expected_b.begin(), expected_b.end(), features_b));
}
END_TEST

START_TEST(wrong_use_is_refused) {
  const std::vector<float> mel = mel_of("jfk_full");
  const auto e = encoder();
  expect(ErrorCode::kInvalidUse, [&] { e->submit(0, mel.data(), 0); });
  expect(ErrorCode::kInvalidUse, [&] { e->submit(0, mel.data(), kMaxPositions + 1); });
  expect(ErrorCode::kInvalidUse, [&] { e->wait(1, Clock::now()); });
  e->submit(0, mel.data(), kPositions);
  expect(ErrorCode::kInvalidUse, [&] { e->submit(0, mel.data(), kPositions); });
  e->wait(0, Clock::now() + seconds(60));
}
END_TEST

START_TEST(deadline_ends_the_wait_and_frees_the_slot) {
  const std::vector<float> mel = mel_of("jfk_full");
  const auto e = encoder();
  const std::vector<float> expected = encode(*e, mel, kPositions);
  e->submit(0, mel.data(), kPositions);
  expect(ErrorCode::kDevice, [&] { e->wait(0, Clock::now() + milliseconds(5)); });
  ck_assert(encode(*e, mel, kPositions) == expected);
}
END_TEST

const std::vector<float>& long_mel() {
  static const std::vector<float> mel(static_cast<size_t>(kBands) * kMaxPositions * kFramesPerPosition, -0.5f);
  return mel;
}

START_TEST(interrupt_ends_a_wait_at_once) {
  const auto e = encoder(1);
  std::vector<int64_t> delays;
  for (int i = 0; i < 9; ++i) {
    e->submit(0, long_mel().data(), kMaxPositions);  // takes a second
    e->submit(1, long_mel().data(), kMaxPositions);
    Clock::time_point called;
    std::thread other([&] {
      std::this_thread::sleep_for(milliseconds(i * 40));  // at different places of the schedule
      called = Clock::now();
      e->interrupt();
    });
    expect(ErrorCode::kInterrupted, [&] { e->wait(0, Clock::now() + seconds(60)); });
    const Clock::time_point ended = Clock::now();
    other.join();
    delays.push_back(std::chrono::duration_cast<milliseconds>(ended - called).count());
    expect(ErrorCode::kInterrupted, [&] { e->wait(1, Clock::now() + seconds(60)); });
    e->resume();
  }
  std::sort(delays.begin(), delays.end());
  ck_assert_int_lt(delays[4], 100);
  ck_assert_int_lt(delays[8], 400);  // other programs may have the processor for a while
}
END_TEST

START_TEST(resumed_encoder_works_again) {
  const std::vector<float> mel = mel_of("libri");
  const auto e = encoder();
  const std::vector<float> expected = encode(*e, mel, kPositions);
  e->interrupt();
  e->submit(0, mel.data(), kPositions);
  expect(ErrorCode::kInterrupted, [&] { e->wait(0, Clock::now() + seconds(60)); });
  e->resume();
  ck_assert(encode(*e, mel, kPositions) == expected);
}
END_TEST

START_TEST(interruption_over_before_the_wait_leaves_no_partial_features) {
  const auto e = encoder(1);
  e->submit(0, long_mel().data(), kMaxPositions);
  std::this_thread::sleep_for(milliseconds(30));  // it is running
  e->interrupt();
  std::this_thread::sleep_for(milliseconds(100));  // it has stopped
  e->resume();
  expect(ErrorCode::kInterrupted, [&] { e->wait(0, Clock::now() + seconds(60)); });
}
END_TEST

START_TEST(encoder_may_be_destroyed_while_it_works) {
  const auto weights = packed_encoder(base());  // freeing them takes time, too
  auto e = encoder(1);
  e->submit(0, long_mel().data(), kMaxPositions);
  e->submit(1, long_mel().data(), kMaxPositions);
  std::this_thread::sleep_for(milliseconds(20));
  const Clock::time_point begin = Clock::now();
  e.reset();
  ck_assert_int_lt(std::chrono::duration_cast<milliseconds>(Clock::now() - begin).count(), 400);
}
END_TEST

START_TEST(encoders_of_a_model_share_its_weights) {
  const auto model = base();
  const auto first = packed_encoder(model);
  ck_assert(packed_encoder(model) == first);
}
END_TEST

START_TEST(encoders_in_several_threads_do_not_disturb_each_other) {
  const std::vector<float> mel = first_positions(mel_of("libri"), 100);
  const std::vector<float> expected = encode(*encoder(), mel, 100);
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      const auto e = encoder();
      for (int i = 0; i < 3; ++i) right += encode(*e, mel, 100) == expected;
    });
  }
  for (std::thread& t : threads) t.join();
  ck_assert_int_eq(right, 9);
}
END_TEST

START_TEST(description_names_processor_and_instruction_set) {
  const EncoderInfo info = encoder()->describe();
  ck_assert_str_eq(info.backend.c_str(), "cpu");
  ck_assert_str_eq(info.precision.c_str(), "f32");
  ck_assert_str_eq(info.firmware.c_str(), "");
  const std::string device = cpu_name() + " (" + isa_name(isa()) + ")";
  ck_assert_str_eq(info.device.c_str(), device.c_str());
}
END_TEST

}  // namespace

int main() {
  Suite* suite = suite_create("cpu_encoder");
  TCase* reference = tcase_create("reference");
  tcase_add_loop_test(reference, every_layer_is_that_of_the_reference, 0, 3);
  tcase_add_test(reference, observer_sees_the_input_of_each_product);
  tcase_add_loop_test(reference, features_in_bf16_are_close_to_those_in_f32, 0, 3);
  tcase_add_test(reference, features_do_not_depend_on_the_number_of_threads);
  tcase_add_test(reference, features_do_not_depend_on_windows_before);
  tcase_add_test(reference, windows_of_every_length_are_encoded);
  suite_add_tcase(suite, reference);
  TCase* slots = tcase_create("slots");
  tcase_add_test(slots, two_slots_keep_their_own_features);
  tcase_add_test(slots, wrong_use_is_refused);
  tcase_add_test(slots, deadline_ends_the_wait_and_frees_the_slot);
  tcase_add_test(slots, interrupt_ends_a_wait_at_once);
  tcase_add_test(slots, resumed_encoder_works_again);
  tcase_add_test(slots, interruption_over_before_the_wait_leaves_no_partial_features);
  tcase_add_test(slots, encoder_may_be_destroyed_while_it_works);
  tcase_add_test(slots, encoders_of_a_model_share_its_weights);
  tcase_add_test(slots, encoders_in_several_threads_do_not_disturb_each_other);
  tcase_add_test(slots, description_names_processor_and_instruction_set);
  suite_add_tcase(suite, slots);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
