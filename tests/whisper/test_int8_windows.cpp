// Whisper base on twenty windows of speech: the products and the attention of the int8 encoder are the same numbers in
// every set of kernels, and its features the same with any number of threads; those of the other encoders, too, on some
// of them; and what int8 gives is near to f32.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/int8_attention.h"
#include "kernels/cpu/int8_linear.h"
#include "tools/speech.h"
#include "whisper/bundled_speech.h"
#include "whisper/quantize.h"

#include "tests/assert_text.h"  // last: it includes check.h, which defines fail()

using namespace whisperxdna2;

namespace {

constexpr int kWindows = 20, kGroups = 4, kRows = kWindowPositions;
constexpr Isa kIsas[] = {Isa::kAvx512, Isa::kAvx2, Isa::kScalar};

std::shared_ptr<const Model> base() { return load_model(default_model_path()); }

// Five speakers one after another, seen through windows that begin anywhere; one window of four with noise, one quiet.
std::vector<float> mel_of_window(int window, int n_mels) {
  std::vector<float> speech = read_wav(std::string(getenv("WHISPERXDNA2_TEST_DATA")) + "/audio/jfk.wav");
  for (int clip = 0; clip < kBundledClips; ++clip) {
    const std::vector<float> more = bundled_speech(clip);
    speech.insert(speech.end(), more.begin(), more.end());
  }
  const size_t last = speech.size() - kWindowSamples;
  speech.erase(speech.begin(), speech.begin() + static_cast<ptrdiff_t>(last * window / (kWindows - 1)));
  speech.resize(kWindowSamples);
  std::mt19937 random(window);
  std::normal_distribution<float> noise(0, 0.02f);
  for (float& s : speech) s = window % 4 == 1 ? s + noise(random) : window % 4 == 2 ? s / 8 : s;
  return window_mel(speech, 0, n_mels);
}

std::vector<uint8_t> in_format(const std::vector<int16_t>& x, Int8Format format) {
  std::vector<uint8_t> bytes(x.size() * element_size(format));
  for (size_t i = 0; i < x.size(); ++i) {
    if (format == Int8Format::kPairs) {
      std::memcpy(&bytes[2 * i], &x[i], 2);
    } else {
      bytes[i] = static_cast<uint8_t>(x[i] + 128);
    }
  }
  return bytes;
}

// A layer as each set of kernels packs it.
struct Product {
  const QuantizedLinear& l;
  std::vector<Int8Linear> packed;  // as kIsas; empty where the processor lacks the instructions

  explicit Product(const QuantizedLinear& linear) : l(linear) {
    for (const Isa isa : kIsas) {
      packed.push_back(has_isa(isa) ? Int8Linear({l.out, l.in, l.weight.data(), l.bias.data(), l.multiplier.data(),
                                                  l.scale.data(), l.stage, l.input_14bit,
                                                  l.row_bias.empty() ? nullptr : l.row_bias.data()},
                                                 int8_kernels(isa))
                                    : Int8Linear());
    }
  }

  size_t result_size() const {
    const OutputMode mode = l.stage.mode;
    return mode == OutputMode::kInt8 ? sizeof(int8_t) : mode == OutputMode::kGelu14 ? sizeof(int16_t) : sizeof(float);
  }

  // A row's unit, where rows have some.
  static float unit_of(int16_t first_input) { return 0.01f * static_cast<float>(200 + first_input); }

  // The results of x [rows][in] as they are in memory: bytes, f32, or 14 bits.
  std::vector<uint8_t> results(int set, const std::vector<int16_t>& x, int threads) const {
    const Int8Linear& linear = packed[set];
    const int rows = static_cast<int>(x.size()) / l.in;
    const std::vector<uint8_t> in = in_format(x, linear.input().format);
    std::vector<uint8_t> out(static_cast<size_t>(rows) * l.out * result_size());
    std::vector<float> units;
    for (int r = 0; r < rows; ++r) units.push_back(unit_of(x[static_cast<size_t>(r) * l.in]));
    int8_linear(linear, in.data(), units.data(), rows, out.data(), l.out, threads, int8_kernels(kIsas[set]));
    return out;
  }

  // The same by definition.
  std::vector<uint8_t> defined(const std::vector<int16_t>& x) const {
    std::vector<uint8_t> bytes;
    const auto append = [&](auto value) {
      const auto* from = reinterpret_cast<const uint8_t*>(&value);
      bytes.insert(bytes.end(), from, from + sizeof value);
    };
    for (size_t row = 0; row < x.size(); row += l.in) {
      for (int n = 0; n < l.out; ++n) {
        const int32_t sum = dot(&x[row], &l.weight[static_cast<size_t>(n) * l.in], l.in);
        const int16_t y = output(sum, l.bias[n], l.multiplier[n], l.stage);
        switch (l.stage.mode) {
          case OutputMode::kInt8:
            append(static_cast<int8_t>(y));
            break;
          case OutputMode::kInt16:
            append(l.row_bias.empty() ? dequantize(y, l.scale[n])
                                      : dequantize(y, l.scale[n], unit_of(x[row]), l.row_bias[n]));
            break;
          case OutputMode::kGelu14:
            append(y);
            break;
        }
      }
    }
    return bytes;
  }

  // Each `step`th row.
  template <class T>
  static std::vector<T> some(const std::vector<T>& rows, int step) {
    const size_t width = rows.size() / kRows;
    std::vector<T> chosen;
    for (size_t at = 0; at < rows.size(); at += step * width) {
      chosen.insert(chosen.end(), rows.begin() + static_cast<ptrdiff_t>(at),
                    rows.begin() + static_cast<ptrdiff_t>(at + width));
    }
    return chosen;
  }

  // Compares everything on x [kRows][in] and returns the results as they are in memory. The scalar kernels and the
  // definition are slow: they do some of the rows, if nothing else is asked for.
  std::vector<uint8_t> compare(const std::vector<int16_t>& x) const {
    const int scalar_step = getenv("WHISPERXDNA2_EVERY_ROW") ? 1 : 16;
    std::vector<uint8_t> want;
    for (size_t set = 0; set < packed.size(); ++set) {
      if (!has_isa(kIsas[set])) continue;
      if (kIsas[set] == Isa::kScalar && !want.empty()) {
        ck_assert(results(set, some(x, scalar_step), 2) == some(want, scalar_step));
        continue;
      }
      for (const int threads : {1, 2, 3}) {
        const std::vector<uint8_t> have = results(set, x, threads);
        if (want.empty()) want = have;
        ck_assert_msg(have == want, "%s, %d threads", isa_name(kIsas[set]), threads);
      }
    }
    ck_assert(defined(some(x, 8 * scalar_step)) == some(want, 8 * scalar_step));
    return want;
  }
};

// A layer's attention in every set of kernels. qkv: the results of its first product. Returns the inputs of the next.
std::vector<int16_t> compare_attention(const QuantizedLayer& l, const std::vector<uint8_t>& qkv) {
  const int d = l.out.in;
  const Int8Input input{Int8Format::kPairs, l.out.input_14bit ? kInt14Limit : kInt8Limit};
  std::vector<int16_t> want;
  std::vector<float> want_units;
  for (const Isa isa : kIsas) {
    if (!has_isa(isa)) continue;
    std::vector<int16_t> have(static_cast<size_t>(kRows) * d);
    std::vector<float> units(kRows);
    Int8AttentionScratch scratch;
    int8_attention(reinterpret_cast<const int8_t*>(qkv.data()), 3 * d, kRows, d / kHeadWidth,
                   {l.attention.score_unit.data(), l.attention.value_unit.data()},
                   {reinterpret_cast<uint8_t*>(have.data()), 2 * d, input, units.data()}, &scratch, 2,
                   int8_kernels(isa));
    if (want.empty()) {
      want = have;
      want_units = units;
    }
    ck_assert_msg(have == want && units == want_units, "%s", isa_name(isa));
  }
  return want;
}

// The inputs of qkv or fc1 by definition, which every set of kernels has to agree with.
std::vector<int16_t> quantized(const float* values, size_t count, const QuantizedLinear& l) {
  const int limit = l.input_14bit ? kInt14Limit : kInt8Limit;
  std::vector<int16_t> x(count);
  for (size_t i = 0; i < count; ++i) x[i] = static_cast<int16_t>(quantize(values[i], l.inverse_input_scale, limit));
  for (const Isa isa : kIsas) {
    if (!has_isa(isa)) continue;
    const Int8Kernels& kernels = int8_kernels(isa);
    const Int8Format format = l.input_14bit ? Int8Format::kPairs : kernels.format8;
    std::vector<uint8_t> have(count * element_size(format));
    kernels.quantize(values, static_cast<int>(count), l.inverse_input_scale, {format, limit}, have.data());
    ck_assert_msg(have == in_format(x, format), "%s", isa_name(isa));
  }
  return x;
}

}  // namespace

START_TEST(integers_from_real_activations_are_the_same_in_every_set_of_kernels) {
  const std::shared_ptr<const Model> model = base();
  const QuantizedEncoder encoder = quantized_encoder(model, 2);
  struct Layer {
    Product qkv, out, fc1, fc2;
  };
  std::vector<Layer> layers;
  for (const QuantizedLayer& l : encoder.layers) {
    layers.push_back({Product(l.qkv), Product(l.out), Product(l.fc1), Product(l.fc2)});
  }
  EncoderSchedule schedule(packed_encoder(model), 2);
  std::vector<float> features(static_cast<size_t>(kRows) * model->dims.d_model);
  const std::atomic<bool> never_abandoned{false};
  size_t compared = 0;
  for (int window = _i; window < kWindows; window += kGroups) {
    schedule.run(mel_of_window(window, model->dims.n_mels).data(), kRows, features.data(), never_abandoned,
                 [&](Activation activation, int layer, const float* values, int rows, int width) {
                   const auto first = [&](const Product& product) {
                     return product.compare(quantized(values, static_cast<size_t>(rows) * width, product.l));
                   };
                   if (activation == Activation::kQkvInput) {
                     const Layer& l = layers[layer];
                     l.out.compare(compare_attention(encoder.layers[layer], first(l.qkv)));
                     ++compared;
                   } else if (activation == Activation::kFc1Input) {
                     const std::vector<uint8_t> results = first(layers[layer].fc1);
                     std::vector<int16_t> hidden(results.size() / sizeof(int16_t));
                     std::memcpy(hidden.data(), results.data(), results.size());
                     layers[layer].fc2.compare(hidden);
                     ++compared;
                   }
                 });
  }
  ck_assert_uint_eq(compared, 2 * layers.size() * kWindows / kGroups);
}
END_TEST

START_TEST(features_are_the_same_with_any_number_of_threads) {
  const std::shared_ptr<const Model> model = base();
  const std::shared_ptr<const PackedEncoder> encoder =
      _i == 0   ? packed_encoder(model)
      : _i == 1 ? packed_bf16_encoder(model)
                : packed_int8_encoder(model, [&] { return quantized_encoder(model, 2); });
  EncoderSchedule one(encoder, 1), two(encoder, 2), three(encoder, 3);
  const bool int8 = _i == 2;
  for (int window = 0; window < kWindows; window += int8 ? 1 : kGroups) {
    const std::vector<float> mel = mel_of_window(window, model->dims.n_mels);
    const std::vector<float> want = encode(&one, mel, model->dims.d_model);
    ck_assert(encode(&two, mel, model->dims.d_model) == want);
    ck_assert(encode(&three, mel, model->dims.d_model) == want);
  }
}
END_TEST

START_TEST(features_differ_from_f32_by_no_more_than_23_dB_below) {
  const std::shared_ptr<const Model> model = base();
  EncoderSchedule f32(packed_encoder(model), 2);
  EncoderSchedule int8(packed_int8_encoder(model, [&] { return quantized_encoder(model, 2); }), 2);
  for (int window = 0; window < kWindows; ++window) {
    const std::vector<float> mel = mel_of_window(window, model->dims.n_mels);
    const double decibels = snr(encode(&f32, mel, model->dims.d_model), encode(&int8, mel, model->dims.d_model));
    ck_assert_msg(decibels >= 23, "window %d: %.2f dB", window, decibels);
  }
}
END_TEST

int main() {
  Suite* suite = suite_create("int8_windows");
  TCase* products = tcase_create("products");
  suite_add_tcase(suite, products);
  tcase_add_loop_test(products, integers_from_real_activations_are_the_same_in_every_set_of_kernels, 0, kGroups);
  TCase* features = tcase_create("features");
  suite_add_tcase(suite, features);
  tcase_add_loop_test(features, features_are_the_same_with_any_number_of_threads, 0, 3);
  tcase_add_test(features, features_differ_from_f32_by_no_more_than_23_dB_below);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed ? 1 : 0;
}
