// The int8 encoder: how it is made, kept and read, and how near its features are to those of f32.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "dsp/log_mel.h"
#include "kernels/cpu/int8_linear.h"
#include "tests/fake_model.h"
#include "tests/npy.h"
#include "whisper/bundled_speech.h"
#include "whisper/derived_file.h"
#include "whisper/encoder.h"
#include "whisper/encoder_schedule.h"
#include "whisper/error.h"
#include "whisper/measurements.h"
#include "whisper/quantize.h"
#include "whisper/silent_tail.h"

#include "tests/assert_text.h"  // last: it includes check.h, which defines fail()

using namespace whisperxdna2;

namespace {

const char kKey[] = "0123456789abcdef";
constexpr int kPositions = 512, kWidth = 512;

std::mt19937 rng(20260103);

// An encoder of random numbers, all of them legal.
QuantizedEncoder random_encoder(int d, int layers) {
  const auto linear = [](int out, int in, OutputMode mode, bool input_14bit) {
    QuantizedLinear l;
    l.out = out;
    l.in = in;
    l.input_14bit = input_14bit;
    l.inverse_input_scale = 3.5f;
    l.stage.mode = mode;
    l.stage.s1 = 7;
    l.stage.s2 = 15;
    l.stage.gelu = {20000, 14, 3000, 14, 2};
    for (int i = 0; i < out * in; ++i) l.weight.push_back(static_cast<int8_t>(static_cast<int>(rng() % 255) - 127));
    for (int n = 0; n < out; ++n) {
      l.bias.push_back(static_cast<int32_t>(rng() % 20000) - 10000);
      l.multiplier.push_back(static_cast<int16_t>(rng() % 32768));
      if (mode == OutputMode::kInt16) l.scale.push_back(static_cast<float>(rng() % 1000) / 7);
      if (mode == OutputMode::kInt16 && in == out) l.row_bias.push_back(static_cast<float>(rng() % 1000) / 9);
    }
    return l;
  };
  const auto norm = [&] { return QuantizedNorm{std::vector<float>(d, 1.25f), std::vector<float>(d, -0.5f)}; };
  QuantizedEncoder e;
  for (int i = 0; i < layers; ++i) {
    const bool wide = attention_is_14bit(i);
    e.layers.push_back({norm(), norm(), linear(3 * d, d, OutputMode::kInt8, wide),
                        {std::vector<float>(d / kHeadWidth, 0.25f), std::vector<float>(d, 3.0f)},
                        linear(d, d, OutputMode::kInt16, wide), linear(4 * d, d, OutputMode::kGelu14, false),
                        linear(d, 4 * d, OutputMode::kInt16, true)});
  }
  return e;
}

ModelDims dims_of(int d, int layers) {
  ModelDims dims;
  dims.d_model = d;
  dims.n_encoder_layers = layers;
  return dims;
}

bool refused(const std::string& bytes, const std::string& key, const ModelDims& dims) {
  try {
    parse_quantized_encoder(bytes, key, dims);
  } catch (const Error& e) {
    return e.code() == ErrorCode::kInvalidFile;
  }
  return false;
}

Calibration calibration_of(const std::shared_ptr<const Model>& model, int threads) {
  std::mt19937 random(5);
  std::vector<float> mel(80 * 128);
  for (float& x : mel) x = static_cast<float>(random() % 2000) / 1000 - 1;
  Calibrator calibrator(model, threads);
  calibrator.add(mel.data(), 64);
  return calibrator.calibration();
}

// A model's encoder layer alone: all weights `weight`.
struct ConstantLayer {
  Model model;
  std::vector<std::vector<float>> memory;

  ConstantLayer(int d, float weight) {
    memory.reserve(32);
    const auto tensor = [&](std::vector<int> shape, float value) {
      Tensor t;
      t.shape = std::move(shape);
      memory.emplace_back(t.elements(), value);
      t.data = memory.back().data();
      return t;
    };
    const auto linear = [&](int out, int in) { return Linear{tensor({out, in}, weight), tensor({out}, 0)}; };
    const auto norm = [&] { return LayerNorm{tensor({d}, 1), tensor({d}, 0)}; };
    model.encoder_layers = {{norm(), {linear(d, d), linear(d, d), linear(d, d), linear(d, d)}, norm(), linear(4 * d, d),
                             linear(d, 4 * d)}};
  }
};

Calibration calibration_within(int d, float range) {
  const auto ranges = [range](int width) {
    Ranges r;
    const std::vector<float> low(width, -range), high(width, range);
    r.add(low.data(), 1, width);
    r.add(high.data(), 1, width);
    return r;
  };
  Calibration c;
  c.layers = {{ranges(d), ranges(d), ranges(d), ranges(4 * d), ranges(3 * d), ranges(4 * d), ranges(d)}};
  return c;
}

std::shared_ptr<const Model> base() { return load_model(default_model_path()); }

std::vector<float> mel_of(const std::string& name) {
  return load_npy<float>("whisper/encoder/" + name + "_mel.npy").data;
}

std::shared_ptr<const PackedEncoder> int8_base(const std::shared_ptr<const Model>& model) {
  return packed_int8_encoder(model, [&] { return quantized_encoder(model, 2); });
}

std::vector<float> features(const std::shared_ptr<const PackedEncoder>& encoder, const std::vector<float>& mel,
                            int threads) {
  const std::atomic<bool> never_abandoned{false};
  std::vector<float> out(static_cast<size_t>(kPositions) * kWidth);
  ck_assert(EncoderSchedule(encoder, threads).run(mel.data(), kPositions, out.data(), never_abandoned));
  return out;
}

// A cache of this test's own. Each test is a process.
void use_cache(const std::string& directory) { setenv("XDG_CACHE_HOME", directory.c_str(), 1); }
std::string temporary_cache() {
  char path[] = "/tmp/whisperxdna2-test-XXXXXX";
  ck_assert(mkdtemp(path) != nullptr);
  return path;
}

}  // namespace

START_TEST(bytes_are_read_back_as_they_were) {
  const std::string bytes = serialize(random_encoder(64, 2), kKey);
  ck_assert(serialize(parse_quantized_encoder(bytes, kKey, dims_of(64, 2)), kKey) == bytes);
}
END_TEST

START_TEST(bytes_for_other_weights_or_shapes_are_refused) {
  const std::string bytes = serialize(random_encoder(64, 2), kKey);
  ck_assert(refused(bytes, "0123456789abcdeX", dims_of(64, 2)));
  ck_assert(refused(bytes, kKey, dims_of(128, 2)));
  ck_assert(refused(bytes, kKey, dims_of(64, 1)));
  ck_assert(refused(bytes, kKey, dims_of(64, 3)));
  ck_assert(refused("", kKey, dims_of(64, 2)));
}
END_TEST

START_TEST(bytes_cut_at_any_place_or_too_long_are_refused) {
  const std::string bytes = serialize(random_encoder(64, 1), kKey);
  for (size_t size = 0; size < bytes.size(); size += 1 + size / 37) {
    ck_assert(refused(bytes.substr(0, size), kKey, dims_of(64, 1)));
  }
  ck_assert(refused(bytes.substr(0, bytes.size() - 1), kKey, dims_of(64, 1)));
  ck_assert(refused(bytes + '\0', kKey, dims_of(64, 1)));
}
END_TEST

START_TEST(numbers_that_the_arithmetic_is_not_defined_for_are_refused) {
  const auto refused_after = [](void (*change)(QuantizedLayer*)) {
    QuantizedEncoder e = random_encoder(64, 1);
    change(&e.layers[0]);
    return refused(serialize(e, kKey), kKey, dims_of(64, 1));
  };
  ck_assert(!refused_after([](QuantizedLayer*) {}));
  ck_assert(refused_after([](QuantizedLayer* l) { l->qkv.weight[77] = -128; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->qkv.stage.s1 = 31; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->out.stage.s2 = -1; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->fc1.stage.gelu.c = 32768; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->fc1.stage.gelu.t = 15; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->fc1.stage.gelu.out_shift = 17; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->out.multiplier[3] = -1; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->out.scale[3] = NAN; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->qkv.inverse_input_scale = 0; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->attention.score_unit[0] = 0; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->attention.value_unit[63] = NAN; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->out.row_bias[5] = INFINITY; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->mlp_norm.gain[5] = INFINITY; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->fc2.bias[9] = INT32_MIN; }));
  ck_assert(refused_after([](QuantizedLayer* l) { l->fc2.bias[9] = INT32_MAX - 1000; }));
}
END_TEST

START_TEST(damaged_bytes_are_refused_or_still_cannot_overflow) {
  const std::string good = serialize(random_encoder(64, 1), kKey);
  int accepted = 0;
  for (int round = 0; round < 300; ++round) {
    std::string bytes = good;
    for (int i = 0; i < 20; ++i) bytes[sizeof kKey + rng() % (bytes.size() - sizeof kKey)] = static_cast<char>(rng());
    try {
      const QuantizedEncoder e = parse_quantized_encoder(bytes, kKey, dims_of(64, 1));
      ck_assert(flaw(e.layers[0].qkv).empty() && flaw(e.layers[0].out).empty());
      ck_assert(flaw(e.layers[0].fc1).empty() && flaw(e.layers[0].fc2).empty());
      ++accepted;
    } catch (const Error& e) {
      ck_assert(e.code() == ErrorCode::kInvalidFile);
    }
  }
  ck_assert_int_gt(accepted, 0);  // most bytes are weights
}
END_TEST

START_TEST(quantization_is_the_same_each_time_and_with_any_number_of_threads) {
  const std::shared_ptr<const Model> model = make_fake_model(128);
  const std::string first = serialize(quantize(*model, calibration_of(model, 1)), kKey);
  for (int threads : {1, 2, 3}) ck_assert(serialize(quantize(*model, calibration_of(model, threads)), kKey) == first);
}
END_TEST

// 2304 weights of one size: 127 each would reach 8192 * 127 * 2304 > 2^31.
START_TEST(channels_that_could_overflow_get_coarser_weights) {
  constexpr int kLarge = 576;
  const ConstantLayer layer(kLarge, 0.01f);
  const QuantizedEncoder e = quantize(layer.model, calibration_within(kLarge, 1));
  const QuantizedLinear& fc2 = e.layers[0].fc2;
  ck_assert(flaw(fc2).empty());
  const int weight = fc2.weight[0];
  ck_assert_int_lt(weight, 127);
  ck_assert_int_gt(int64_t{kInt14Bound} * (weight + 3) * fc2.in, INT32_MAX);  // not coarser than needed
  const QuantizedLinear& out = e.layers[0].out;
  ck_assert_int_eq(out.weight[0], 127);
}
END_TEST

START_TEST(model_without_ranges_is_refused) {
  const ConstantLayer layer(64, 0.01f);
  bool refused = false;
  try {
    quantize(layer.model, calibration_within(64, 0));
  } catch (const Error& e) {
    refused = e.code() == ErrorCode::kUnsupported;
  }
  ck_assert(refused);
}
END_TEST

START_TEST(encoder_is_made_once_and_then_read) {
  use_cache(temporary_cache());
  const std::shared_ptr<const Model> model = make_fake_model();
  const std::string made = serialize(quantized_encoder(model, 2), model->content_key);
  // What is stored is what is used: change it.
  QuantizedEncoder changed = parse_quantized_encoder(made, model->content_key, model->dims);
  changed.layers[0].fc2.bias[0] ^= 1;
  const std::string other = serialize(changed, model->content_key);
  ck_assert(other != made);
  assert_text(write_derived_at(quantized_encoder_path(*model, Place::kCache), other), "");
  ck_assert(serialize(quantized_encoder(model, 2), model->content_key) == other);
  std::filesystem::remove_all(getenv("XDG_CACHE_HOME"));
}
END_TEST

START_TEST(broken_encoder_in_the_cache_is_made_again) {
  use_cache(temporary_cache());
  const std::shared_ptr<const Model> model = make_fake_model();
  const std::string made = serialize(quantized_encoder(model, 2), model->content_key);
  for (const std::string& broken : {std::string("nonsense"), made.substr(0, made.size() - 1), "other" + made}) {
    assert_text(write_derived_at(quantized_encoder_path(*model, Place::kCache), broken), "");
    ck_assert(serialize(quantized_encoder(model, 2), model->content_key) == made);
    ck_assert(read_derived_at(quantized_encoder_path(*model, Place::kCache)) == made);
  }
  std::filesystem::remove_all(getenv("XDG_CACHE_HOME"));
}
END_TEST

START_TEST(cache_that_cannot_be_written_is_done_without) {
  use_cache("/proc/no-such-folder");
  const std::shared_ptr<const Model> model = make_fake_model();
  ck_assert_uint_eq(quantized_encoder(model, 2).layers.size(), 1);
}
END_TEST

START_TEST(encoder_beside_the_model_goes_before_the_one_in_the_cache) {
  use_cache(temporary_cache());
  const std::shared_ptr<Model> model = std::const_pointer_cast<Model>(make_fake_model());
  model->source = std::string(getenv("XDG_CACHE_HOME")) + "/model.bin";
  QuantizedEncoder encoder = quantized_encoder(model, 2);  // and in the cache
  encoder.layers[0].fc2.bias[0] ^= 1;
  assert_text(store_quantized_encoder(encoder, *model, Place::kBesideModel), "");
  ck_assert(serialize(quantized_encoder(model, 2), model->content_key) == serialize(encoder, model->content_key));
  model->content_key = "other";  // the file beside it is foreign now
  ck_assert(serialize(quantized_encoder(model, 2), model->content_key) != serialize(encoder, model->content_key));
  std::filesystem::remove_all(getenv("XDG_CACHE_HOME"));
}
END_TEST

START_TEST(calibration_reports_and_can_be_stopped) {
  use_cache(temporary_cache());
  const std::shared_ptr<const Model> model = make_fake_model();
  std::vector<double> reported;
  std::atomic<bool> cancel{false};
  bool interrupted = false;
  try {
    quantized_encoder(model, 2,
                      [&](double fraction) {
                        reported.push_back(fraction);
                        cancel = fraction >= 0.5;
                      },
                      &cancel);
  } catch (const Error& e) {
    interrupted = e.code() == ErrorCode::kInterrupted;
  }
  ck_assert(interrupted);
  ck_assert(reported == (std::vector<double>{0, 0.25, 0.5}));
  ck_assert(!std::filesystem::exists(quantized_encoder_path(*model, Place::kCache)));
  std::filesystem::remove_all(getenv("XDG_CACHE_HOME"));
}
END_TEST

START_TEST(measurements_are_read_back) {
  const std::shared_ptr<const Model> model = make_fake_model();
  Measurements m{calibration_of(model, 1), std::vector<float>(64 * 64, 1.0f / 3)};
  const Measurements back = parse_measurements(serialize(m, *model), *model);
  // They differ by a rounding, once.
  ck_assert(serialize(back, *model) == serialize(m, *model));
  for (size_t c = 0; c < 64; ++c) {
    const float want = m.calibration.layers[0].qkv_input.low[c];
    ck_assert(std::fabs(back.calibration.layers[0].qkv_input.low[c] - want) <= std::ldexp(std::fabs(want), -8));
  }
  ck_assert(std::fabs(back.tail[77] - 1.0f / 3) < 1.0f / 768);
}
END_TEST

START_TEST(measurements_of_other_models_or_damaged_ones_are_refused) {
  const std::shared_ptr<const Model> model = make_fake_model();
  const std::string good = serialize({calibration_of(model, 1), std::vector<float>(64 * 64)}, *model);
  const auto refused = [](const std::string& bytes, const Model& m) {
    try {
      parse_measurements(bytes, m);
    } catch (const Error& e) {
      return e.code() == ErrorCode::kInvalidFile;
    }
    return false;
  };
  ck_assert(!refused(good, *model));
  Model other = *model;
  other.content_key = "fakf";
  ck_assert(refused(good, other));
  ck_assert(refused(good, *make_fake_model(128)));
  for (size_t size = 0; size < good.size(); size += 1 + size / 7) ck_assert(refused(good.substr(0, size), *model));
  for (size_t i = 0; i < good.size(); i += 1 + i / 50) {
    std::string damaged = good;
    damaged[i] ^= 0x55;
    // Some bits between deflate's blocks mean nothing.
    ck_assert_msg(refused(damaged, *model) || serialize(parse_measurements(damaged, *model), *model) == good,
                  "byte %zu", i);
  }
}
END_TEST

START_TEST(known_models_are_not_measured_again) {
  const std::string name = (const char*[]){"base", "tiny.en"}[_i];
  const std::string path = default_model_path();
  use_cache(temporary_cache());
  const std::shared_ptr<const Model> model = load_model(path.substr(0, path.rfind('/') + 1) + name);
  const auto measured = [](double) { ck_abort_msg("it was measured"); };
  const QuantizedEncoder encoder = quantized_encoder(model, 2, measured);
  ck_assert_int_eq(static_cast<int>(encoder.layers.size()), model->dims.n_encoder_layers);
  const std::vector<float> tail = silent_tail(model, 2, measured, nullptr, nullptr);
  ck_assert_uint_eq(tail.size(), static_cast<size_t>(kTailRows) * model->dims.d_model);
  std::filesystem::remove_all(getenv("XDG_CACHE_HOME"));
}
END_TEST

// Measuring one window of the speech again must give nothing outside them.
START_TEST(brought_ranges_are_those_of_the_model) {
  const std::shared_ptr<const Model> model = base();
  const std::optional<Measurements> brought = stored_measurements(*model);
  ck_assert(brought.has_value());
  constexpr int kContent = 320;
  LogMel front_end(model->dims.n_mels);
  front_end.push(bundled_speech(1).data(), int64_t{kContent} * kFrameHop);
  std::vector<float> mel(static_cast<size_t>(model->dims.n_mels) * kCalibrationFrames);
  front_end.window(0, kContent, kCalibrationFrames, mel.data());
  Calibrator calibrator(model, 2);
  calibrator.add(mel.data(), kPositions);
  const auto within = [](const std::vector<float>& inner, const std::vector<float>& outer, float sign) {
    int outside = 0;
    for (size_t c = 0; c < inner.size(); ++c) {
      outside += sign * (inner[c] - outer[c]) > std::fabs(outer[c]) / 128 + 1e-4f;
    }
    return outside == 0;
  };
  for (size_t i = 0; i < brought->calibration.layers.size(); ++i) {
    const LayerRanges& wide = brought->calibration.layers[i];
    const LayerRanges& one = calibrator.calibration().layers[i];
    for (auto range :
         {&LayerRanges::qkv_input, &LayerRanges::out_input, &LayerRanges::fc1_input, &LayerRanges::qkv_output}) {
      ck_assert(within((one.*range).high, (wide.*range).high, 1));
      ck_assert(within((one.*range).low, (wide.*range).low, -1));
    }
    ck_assert(within(one.fc2_input.high, wide.fc2_input.high, 1));
  }
}
END_TEST

START_TEST(features_differ_from_f32_by_no_more_than_23_dB_below) {
  const char* const name = (const char*[]){"jfk_full", "jfk_padded", "libri"}[_i];
  const std::shared_ptr<const Model> model = base();
  const std::vector<float> mel = mel_of(name);
  const std::vector<float> want = features(packed_encoder(model), mel, 2);
  const std::vector<float> have = features(int8_base(model), mel, 2);
  double signal = 0, noise = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = want[i] - have[i];
    signal += double{want[i]} * want[i];
    noise += d * d;
  }
  const double snr = 10 * std::log10(signal / noise);
  ck_assert_msg(snr >= 23, "%s: %.2f dB", name, snr);
}
END_TEST

int main() {
  Suite* suite = suite_create("quantized_encoder");
  TCase* tests = tcase_create("quantized_encoder");
  suite_add_tcase(suite, tests);
  tcase_add_test(tests, bytes_are_read_back_as_they_were);
  tcase_add_test(tests, bytes_for_other_weights_or_shapes_are_refused);
  tcase_add_test(tests, bytes_cut_at_any_place_or_too_long_are_refused);
  tcase_add_test(tests, numbers_that_the_arithmetic_is_not_defined_for_are_refused);
  tcase_add_test(tests, damaged_bytes_are_refused_or_still_cannot_overflow);
  tcase_add_test(tests, quantization_is_the_same_each_time_and_with_any_number_of_threads);
  tcase_add_test(tests, channels_that_could_overflow_get_coarser_weights);
  tcase_add_test(tests, model_without_ranges_is_refused);
  tcase_add_test(tests, encoder_is_made_once_and_then_read);
  tcase_add_test(tests, broken_encoder_in_the_cache_is_made_again);
  tcase_add_test(tests, cache_that_cannot_be_written_is_done_without);
  tcase_add_test(tests, encoder_beside_the_model_goes_before_the_one_in_the_cache);
  tcase_add_test(tests, calibration_reports_and_can_be_stopped);
  tcase_add_test(tests, measurements_are_read_back);
  tcase_add_test(tests, measurements_of_other_models_or_damaged_ones_are_refused);
  tcase_add_loop_test(tests, known_models_are_not_measured_again, 0, 2);
  tcase_add_test(tests, brought_ranges_are_those_of_the_model);
  tcase_add_loop_test(tests, features_differ_from_f32_by_no_more_than_23_dB_below, 0, 3);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
