#include "whisper/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <mutex>
#include <optional>

#include "dsp/log_mel.h"
#include "whisper/bundled_speech.h"
#include "whisper/derived_file.h"
#include "whisper/encoder.h"
#include "whisper/encoder_schedule.h"
#include "whisper/error.h"
#include "whisper/measurements.h"
#include "whisper/prepared.h"

namespace whisperxdna2 {
namespace {

constexpr char kKind[] = "int8-encoder";
constexpr int kVersion = 6;

// Frames of speech in the windows that a stretch of it is put in besides a full one: its beginning, followed by
// padding.
constexpr int kCalibrationContents[] = {640, 320};

// SmoothQuant's alpha, of the inputs of qkv, out and fc1. 0.5 shares the ranges evenly between inputs and weights; but
// weights have a scale per channel and inputs one for all, so weights can take more of it. Of 136 windows in ten
// languages and in noise the worst is at 23.9 dB so, the mean 28.8; at 23.2 and 28.6 if all are 0.85, 23.3 and 28.4 if
// all are 0.9.
constexpr double kQkvSmoothing = 0.85, kOutSmoothing = 0.9, kFc1Smoothing = 0.9;

// Speech is louder elsewhere than where we calibrate. Room costs resolution, least where there is most of it.
constexpr double kQkvOutputMargin = 1.1;
constexpr double kHiddenMargin = 1.15;
constexpr double kAccumulatorMargin = 1.25;

// Stretches of speech are also heard with noise added, white and rumbling: ranges differ more between rooms and
// recorders than between speakers. Factors are of the speech's own loudness.
enum class Noise { kNone, kWhite, kRumble };
constexpr float kWhiteNoise = 0.2f, kRumbleNoise = 0.5f;

std::vector<float> with_noise(std::vector<float> samples, Noise noise) {
  if (noise == Noise::kNone) return samples;
  double power = 0;
  for (float x : samples) power += double{x} * x;
  const float level = static_cast<float>(std::sqrt(3 * power / static_cast<double>(samples.size()))) *
                      (noise == Noise::kWhite ? kWhiteNoise : kRumbleNoise);
  uint32_t state = 1;  // Numerical Recipes' quick generator: the same noise everywhere
  float low = 0;
  for (float& x : samples) {
    state = state * 1664525u + 1013904223u;
    const float white = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    low += 0.1f * (white - low);
    x += level * (noise == Noise::kWhite ? white : 3 * low);
  }
  return samples;
}

[[noreturn]] void refuse(const std::string& why) {
  throw Error(ErrorCode::kUnsupported, "this model cannot be quantized: " + why + "; use precision=f32");
}

// A linear layer in double, as far as it is known before its results' format is.
struct Source {
  ptrdiff_t out, in;
  std::vector<double> weight;  // [out][in]
  std::vector<double> bias;    // [out]
  std::vector<double> mean;    // [in] of the inputs

  void append(const Linear& l, double scale = 1) {
    out += l.weight.shape[0];
    in = l.weight.shape[1];
    for (float w : l.weight.to_f32()) weight.push_back(w * scale);
    const std::vector<float> b = l.bias ? l.bias.to_f32() : std::vector<float>(l.weight.shape[0], 0.0f);
    for (float x : b) bias.push_back(x * scale);
  }
};

Source source_of(const Linear& l) {
  Source s{};
  s.append(l);
  return s;
}

// x' = (x - center) / factor for the inputs of a layer.
struct InputMap {
  std::vector<double> center, factor;
  double unit;  // of the integers x', if all rows share one
};

// Chooses the map and changes the layer to one of x'.
InputMap map_inputs(const Ranges& inputs, double smoothing, int limit, Source* s) {
  InputMap map;
  double range = 0;
  for (int k = 0; k < s->in; ++k) {
    double largest_weight = 0;
    for (int n = 0; n < s->out; ++n) largest_weight = std::max(largest_weight, std::fabs(s->weight[n * s->in + k]));
    const double reach = inputs.reach(k);
    const double factor = reach > 0 && largest_weight > 0
                              ? std::pow(reach, smoothing) / std::pow(largest_weight, 1 - smoothing)
                              : 1;
    map.center.push_back(inputs.center(k));
    map.factor.push_back(factor);
    range = std::max(range, reach / factor);
    for (int n = 0; n < s->out; ++n) {
      double& w = s->weight[n * s->in + k];
      s->bias[n] += w * map.center[k];
      w *= factor;
    }
    s->mean.push_back((inputs.mean(k) - map.center[k]) / factor);
  }
  if (!(range > 0) || !std::isfinite(range)) refuse("its activations have no range");
  map.unit = range / limit;
  return map;
}

// The largest c in 0..32767 and s in 0..most_shift with c / 2^s close to value.
void fixed_point(double value, int most_shift, int32_t* c, int32_t* s) {
  *s = most_shift;
  while (*s > 0 && std::nearbyint(std::ldexp(value, *s)) > INT16_MAX) --*s;
  const double scaled = std::nearbyint(std::ldexp(value, *s));
  if (!(scaled <= INT16_MAX)) refuse("its activations are too large");
  *c = static_cast<int32_t>(scaled);
}

// Weights, bias and s1; the caller adds multipliers, s2 and units. reach: largest magnitudes of the results, to keep
// the accumulator's upper 16 bits from saturating. Where each row of the inputs has its own unit, input_unit is 1 and
// reach null: whatever the inputs can reach fits, and the bias is the one in f32. Returns the unit of x16 per channel.
std::vector<double> quantize_weights(const Source& s, double input_unit, const std::vector<double>* reach,
                                     QuantizedLinear* q) {
  q->out = static_cast<int>(s.out);
  q->in = static_cast<int>(s.in);
  q->weight.resize(s.weight.size());
  q->bias.resize(s.out);
  const int64_t input_bound = q->input_14bit ? kInt14Bound : kInt8Bound;
  std::vector<double> units(s.out);
  double largest_sum = 1;
  for (int n = 0; n < s.out; ++n) {
    const double* from = &s.weight[n * s.in];
    int8_t* to = &q->weight[n * s.in];
    double range = 0;
    for (int k = 0; k < s.in; ++k) range = std::max(range, std::fabs(from[k]));
    double unit = range > 0 ? range / kInt8Limit : 1;
    while (true) {
      int64_t magnitude = 0;
      double bias = s.bias[n];
      for (int k = 0; k < s.in; ++k) {
        to[k] = static_cast<int8_t>(std::nearbyint(from[k] / unit));
        magnitude += std::abs(to[k]);
        bias += (from[k] - to[k] * unit) * s.mean[k];
      }
      if (!std::isfinite(bias)) refuse("a bias is not a number");
      const double in_sum = reach ? std::nearbyint(bias / (unit * input_unit)) : 0;
      const double largest = static_cast<double>(magnitude * input_bound);
      if (largest + std::fabs(in_sum) <= INT32_MAX) {
        q->bias[n] = static_cast<int32_t>(in_sum);
        if (!reach) q->row_bias.push_back(static_cast<float>(bias));
        units[n] = unit * input_unit;
        largest_sum = std::max(largest_sum, reach ? (*reach)[n] / units[n] * kAccumulatorMargin : largest);
        break;
      }
      unit *= 1.02;  // the proof of kernels/arithmetic.h fails: coarser weights
    }
  }
  while (std::ldexp(largest_sum, -q->stage.s1) > INT16_MAX) ++q->stage.s1;
  for (double& u : units) u = std::ldexp(u, q->stage.s1);
  return units;
}

std::vector<double> magnitudes(const Ranges& r) {
  std::vector<double> m(r.low.size());
  for (size_t i = 0; i < m.size(); ++i) m[i] = std::max(std::fabs(r.low[i]), std::fabs(r.high[i]));
  return m;
}

// Multipliers for results in `wanted` units. Returns the units they really have.
std::vector<double> set_multipliers(const std::vector<double>& units, const std::vector<double>& wanted,
                                    QuantizedLinear* q) {
  double largest_ratio = 0;
  for (int n = 0; n < q->out; ++n) largest_ratio = std::max(largest_ratio, units[n] / wanted[n]);
  int32_t unused;
  fixed_point(largest_ratio, 30, &unused, &q->stage.s2);
  std::vector<double> real(q->out);
  for (int n = 0; n < q->out; ++n) {
    const double m = std::nearbyint(std::ldexp(units[n] / wanted[n], q->stage.s2));
    q->multiplier.push_back(static_cast<int16_t>(std::max(1.0, m)));
    real[n] = std::ldexp(units[n] / q->multiplier[n], q->stage.s2);
  }
  return real;
}

// Results in all 16 bits, no further division.
void keep_16_bits(const std::vector<double>& units, QuantizedLinear* q) {
  q->stage.mode = OutputMode::kInt16;
  q->stage.s2 = 14;
  q->multiplier.assign(q->out, 1 << 14);
  q->scale.assign(units.begin(), units.end());
}

QuantizedNorm mapped(const LayerNorm& n, const InputMap& map) {
  QuantizedNorm q{n.gain.to_f32(), n.bias.to_f32()};
  for (size_t i = 0; i < map.factor.size(); ++i) {
    q.gain[i] = static_cast<float>(q.gain[i] / map.factor[i]);
    q.bias[i] = static_cast<float>((q.bias[i] - map.center[i]) / map.factor[i]);
  }
  return q;
}

QuantizedLayer quantize_layer(const EncoderLayer& l, const LayerRanges& ranges, bool wide) {
  QuantizedLayer q;
  q.qkv.input_14bit = q.out.input_14bit = wide;
  const int limit = wide ? kInt14Limit : kInt8Limit;  // of attention's inputs
  const ptrdiff_t d = l.attention.out.weight.shape[0];

  Source out = source_of(l.attention.out);
  const InputMap values = map_inputs(ranges.out_input, kOutSmoothing, limit, &out);
  keep_16_bits(quantize_weights(out, 1, nullptr, &q.out), &q.out);

  Source qkv{};
  qkv.append(l.attention.query, 0.125);
  qkv.append(l.attention.key);
  qkv.append(l.attention.value);
  const InputMap qkv_inputs = map_inputs(ranges.qkv_input, kQkvSmoothing, limit, &qkv);
  q.attention_norm = mapped(l.attention_norm, qkv_inputs);
  // Results are int8 about 0 for queries, about the middle for keys, about the middle of the attention's results for V.
  std::vector<double> reach, wanted;
  for (ptrdiff_t n = 0; n < qkv.out; ++n) {
    const Ranges& r = ranges.qkv_output;
    const double center = n < d ? 0 : n < 2 * d ? r.center(n) : values.center[n - 2 * d];
    qkv.bias[n] -= center;
    reach.push_back(std::max(std::fabs(r.low[n] - center), std::fabs(r.high[n] - center)));
    wanted.push_back(std::max(reach.back() * kQkvOutputMargin, 1e-6) / kInt8Limit);
  }
  // A head's scores have one unit. Where a channel would do with a smaller one, its query takes a quarter of the room
  // and its key the rest: of 99 windows 6 are below 23 dB so, 11 if they share it evenly, 7 if the key takes it all.
  for (ptrdiff_t head = 0; head < d; head += kHeadWidth) {
    double unit = 0;
    for (ptrdiff_t c = head; c < head + kHeadWidth; ++c) unit = std::max(unit, wanted[c] * wanted[d + c]);
    for (ptrdiff_t c = head; c < head + kHeadWidth; ++c) {
      const double room = std::sqrt(unit / (wanted[c] * wanted[d + c]));
      wanted[c] *= std::sqrt(room);
      wanted[d + c] *= room * std::sqrt(room);
    }
    q.attention.score_unit.push_back(static_cast<float>(unit));
  }
  q.qkv.stage.mode = OutputMode::kInt8;
  q.qkv.inverse_input_scale = static_cast<float>(1 / qkv_inputs.unit);
  const std::vector<double> units =
      set_multipliers(quantize_weights(qkv, qkv_inputs.unit, &reach, &q.qkv), wanted, &q.qkv);
  for (ptrdiff_t k = 0; k < d; ++k) {
    q.attention.value_unit.push_back(static_cast<float>(units[2 * d + k] / values.factor[k]));
  }

  Source fc1 = source_of(l.fc1);
  const InputMap fc1_inputs = map_inputs(ranges.fc1_input, kFc1Smoothing, kInt8Limit, &fc1);
  q.mlp_norm = mapped(l.mlp_norm, fc1_inputs);
  q.fc1.stage.mode = OutputMode::kGelu14;
  q.fc1.inverse_input_scale = static_cast<float>(1 / fc1_inputs.unit);
  // GELU's results have 14 bits of a unit that its input shares but for two bits.
  const int out_shift = 2;
  const double hidden_range = *std::max_element(ranges.fc2_input.high.begin(), ranges.fc2_input.high.end());
  if (!(hidden_range > 0) || !std::isfinite(hidden_range)) refuse("its activations have no range");
  const double hidden_unit = hidden_range * kHiddenMargin / kInt14Limit;
  const double gelu_unit = std::ldexp(hidden_unit, -out_shift);
  GeluScale& g = q.fc1.stage.gelu;
  fixed_point(8192 * gelu_unit, 30, &g.c, &g.s);
  fixed_point(1 / (65536 * gelu_unit), 14, &g.d, &g.t);
  g.out_shift = out_shift;
  const std::vector<double> fc1_reach = magnitudes(ranges.fc1_output), fc2_reach = magnitudes(ranges.fc2_output);
  set_multipliers(quantize_weights(fc1, fc1_inputs.unit, &fc1_reach, &q.fc1),
                  std::vector<double>(fc1.out, gelu_unit), &q.fc1);

  Source fc2 = source_of(l.fc2);
  for (int k = 0; k < fc2.in; ++k) fc2.mean.push_back(ranges.fc2_input.mean(k));
  q.fc2.input_14bit = true;
  keep_16_bits(quantize_weights(fc2, hidden_unit, &fc2_reach, &q.fc2), &q.fc2);
  return q;
}

}  // namespace

void Ranges::add(const float* values, int count, int width) {
  low.resize(width, std::numeric_limits<float>::max());
  high.resize(width, std::numeric_limits<float>::lowest());
  sum.resize(width, 0.0);
  rows += count;
  for (int r = 0; r < count; ++r, values += width) {
    for (int c = 0; c < width; ++c) {
      low[c] = std::min(low[c], values[c]);
      high[c] = std::max(high[c], values[c]);
      sum[c] += values[c];
    }
  }
}

struct Calibrator::State {
  std::shared_ptr<const PackedEncoder> weights;
  EncoderSchedule schedule;
  int threads;
  Calibration calibration;
  std::vector<float> features, results;

  State(const std::shared_ptr<const Model>& model, int n)
      : weights(packed_encoder(model)), schedule(weights, n), threads(n) {
    calibration.layers.resize(weights->layers.size());
  }

  // A linear layer's inputs, and its results, which are not shown.
  void add(const PackedLinear& layer, const float* values, int rows, Ranges* inputs, Ranges* outputs) {
    inputs->add(values, rows, layer.in());
    results.resize(static_cast<size_t>(rows) * layer.out());
    linear(layer, values, layer.in(), rows, results.data(), layer.out(), Epilogue::kNone, threads);
    outputs->add(results.data(), rows, layer.out());
  }

  void observe(Activation activation, int layer, const float* values, int rows) {
    if (layer < 0) return;
    LayerRanges& r = calibration.layers[layer];
    const PackedLayer& l = weights->layers[layer];
    switch (activation) {
      case Activation::kQkvInput:
        return add(l.qkv, values, rows, &r.qkv_input, &r.qkv_output);
      case Activation::kOutInput:
        return r.out_input.add(values, rows, l.out.in());
      case Activation::kFc1Input:
        return add(l.fc1, values, rows, &r.fc1_input, &r.fc1_output);
      case Activation::kFc2Input:
        return add(l.fc2, values, rows, &r.fc2_input, &r.fc2_output);
      default:
        return;
    }
  }
};

Calibrator::Calibrator(const std::shared_ptr<const Model>& model, int threads) : state_(new State(model, threads)) {}
Calibrator::~Calibrator() = default;
const Calibration& Calibrator::calibration() const { return state_->calibration; }

void Calibrator::add(const float* mel, int positions, const std::atomic<bool>* cancel) {
  State& s = *state_;
  s.features.resize(static_cast<size_t>(positions) * s.weights->dims.d_model);
  const std::atomic<bool> never{false};
  const bool ended = s.schedule.run(
      mel, positions, s.features.data(), cancel ? *cancel : never,
      [&](Activation a, int layer, const float* values, int rows, int) { s.observe(a, layer, values, rows); });
  if (!ended) throw Error(ErrorCode::kInterrupted, "measuring the model was stopped");
}

void Calibrator::add_speech(const std::vector<float>& samples, const std::function<void(double)>& progress,
                            const std::atomic<bool>* cancel) {
  const int n_mels = state_->weights->dims.n_mels;
  const int64_t frames = static_cast<int64_t>(samples.size()) / kFrameHop;
  std::vector<float> mel(static_cast<size_t>(n_mels) * kCalibrationFrames);
  for (int64_t first = 0; first == 0 || first + kCalibrationFrames <= frames; first += kCalibrationFrames) {
    if (progress) progress(static_cast<double>(first) / static_cast<double>(frames));
    const auto hear = [&](int most, Noise noise) {
      const int content = static_cast<int>(std::min<int64_t>(most, frames - first));
      const auto begin = samples.begin() + first * kFrameHop;
      const std::vector<float> heard = with_noise({begin, begin + int64_t{content} * kFrameHop}, noise);
      LogMel front_end(n_mels);
      front_end.push(heard.data(), static_cast<int64_t>(heard.size()));
      front_end.window(0, content, kCalibrationFrames, mel.data());
      add(mel.data(), kCalibrationFrames / kFramesPerPosition, cancel);
    };
    for (const Noise noise : {Noise::kNone, Noise::kWhite, Noise::kRumble}) hear(kCalibrationFrames, noise);
    for (const int content : kCalibrationContents) {
      if (content < frames - first) hear(content, Noise::kNone);
    }
  }
}

Calibration calibrate_on_bundled_speech(const std::shared_ptr<const Model>& model, int threads,
                                        const std::function<void(double)>& progress, const std::atomic<bool>* cancel) {
  Calibrator calibrator(model, threads);
  for (int clip = 0; clip < kBundledClips; ++clip) {
    if (progress) progress(static_cast<double>(clip) / kBundledClips);
    calibrator.add_speech(bundled_speech(clip), {}, cancel);
  }
  return calibrator.calibration();
}

QuantizedEncoder quantize(const Model& model, const Calibration& calibration) {
  QuantizedEncoder q;
  for (size_t i = 0; i < model.encoder_layers.size(); ++i) {
    q.layers.push_back(
        quantize_layer(model.encoder_layers[i], calibration.layers[i], attention_is_14bit(static_cast<int>(i))));
    const QuantizedLayer& l = q.layers.back();
    for (const QuantizedLinear* linear : {&l.qkv, &l.out, &l.fc1, &l.fc2}) {
      const std::string what = flaw(*linear);
      if (!what.empty()) refuse(what);
    }
  }
  return q;
}

std::string quantized_encoder_path(const Model& model, Place place) {
  if (place == Place::kCache) return derived_path(model.content_key, kKind, kVersion);
  const bool directory = std::filesystem::is_directory(model.source);
  return model.source + (directory ? "/" : ".") + "whisperxdna2-" + kKind + "-v" + std::to_string(kVersion);
}

std::string store_quantized_encoder(const QuantizedEncoder& encoder, const Model& model, Place place) {
  return write_derived_at(quantized_encoder_path(model, place), serialize(encoder, model.content_key));
}

void quantized_layers(const std::shared_ptr<const Model>& model, int threads, const TakeLayer& take,
                      const std::function<void(double)>& progress, const std::atomic<bool>* cancel) {
  static std::timed_mutex mutex;  // instances that start at once make it once
  const std::unique_lock<std::timed_mutex> lock =
      lock_unless_canceled(mutex, cancel, "preparing the encoder was stopped");
  for (const Place place : {Place::kBesideModel, Place::kCache}) {
    const auto stored = read_derived_at(quantized_encoder_path(*model, place));
    if (!stored) continue;
    try {
      return parse_quantized_layers(*stored, model->content_key, model->dims, take);
    } catch (const Error&) {  // made from other weights or by another version
    }
  }
  const std::optional<Measurements> known = stored_measurements(*model);
  QuantizedEncoder encoder =
      quantize(*model, known ? known->calibration : calibrate_on_bundled_speech(model, threads, progress, cancel));
  store_quantized_encoder(encoder, *model, Place::kCache);
  for (size_t i = 0; i < encoder.layers.size(); ++i) take(static_cast<int>(i), encoder.layers[i]);
}

QuantizedEncoder quantized_encoder(const std::shared_ptr<const Model>& model, int threads,
                                   const std::function<void(double)>& progress, const std::atomic<bool>* cancel) {
  QuantizedEncoder encoder;
  encoder.layers.resize(model->dims.n_encoder_layers);
  quantized_layers(
      model, threads, [&](int i, QuantizedLayer& layer) { encoder.layers[i] = std::move(layer); }, progress, cancel);
  return encoder;
}

}  // namespace whisperxdna2
