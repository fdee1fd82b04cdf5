// Makes a QuantizedEncoder from a model and the ranges of its activations on speech.
//
// int8 per output channel for weights; for the inputs of qkv and fc1 one static scale, for those of `out` one for each
// row. What makes that accurate enough costs next to nothing at run time:
//   - inputs of qkv, out and fc1 are shifted to the middle of each channel's range (Wei et al. 2023, Outlier
//     Suppression+) and their ranges evened out (Xiao et al. 2022, SmoothQuant), through the norms, and through V for
//     out: the weights of a softmax sum to 1, so that what is taken from V is missing from the result; keys may be
//     shifted for nothing
//   - the mean of the error that rounding the weights makes is taken out of the bias (Nagel et al. 2019)
//   - attention of the first layer takes 14 bits, see attention_is_14bit()
// The input of fc2 cannot be evened out, GELU lies between, and has outliers of 30 times the rest: it takes 14 bits.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "whisper/model.h"
#include "whisper/quantized_encoder.h"

namespace whisperxdna2 {

// What was seen of some rows of activations, per channel.
struct Ranges {
  std::vector<float> low, high;
  std::vector<double> sum;
  int64_t rows = 0;

  void add(const float* values, int count, int width);  // values: [count][width]
  float center(int c) const { return (low[c] + high[c]) / 2; }
  float reach(int c) const { return (high[c] - low[c]) / 2; }  // from the center
  double mean(int c) const { return sum[c] / static_cast<double>(rows); }
};

struct LayerRanges {
  Ranges qkv_input, out_input, fc1_input, fc2_input;
  Ranges qkv_output, fc1_output, fc2_output;  // fc1: ahead of GELU
};
struct Calibration {
  std::vector<LayerRanges> layers;
};

// Frames of a window that is calibrated on.
constexpr int kCalibrationFrames = 1024;

// Runs the model in f32 and takes down the ranges. Deterministic on one kind of processor, for any number of threads.
class Calibrator {
 public:
  Calibrator(const std::shared_ptr<const Model>& model, int threads);
  ~Calibrator();
  // One window: mel is [n_mels][2 * positions]. Throws Error(kInterrupted) soon after *cancel became true (may be
  // null).
  void add(const float* mel, int positions, const std::atomic<bool>* cancel = nullptr);
  // Speech, mono at 16 kHz, in stretches of 10.24 s: each as it is, in noise of two kinds, and its beginning with
  // padding. progress(fraction) is called on this thread between windows; it may be empty.
  void add_speech(const std::vector<float>& samples, const std::function<void(double)>& progress = {},
                  const std::atomic<bool>* cancel = nullptr);
  const Calibration& calibration() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Deterministic. Throws Error(kUnsupported) where the weights or ranges admit no quantization.
QuantizedEncoder quantize(const Model& model, const Calibration& calibration);

// What is done when nothing is stored for a model: calibrates on the bundled speech. Takes a processor seconds.
Calibration calibrate_on_bundled_speech(const std::shared_ptr<const Model>& model, int threads,
                                        const std::function<void(double)>& progress = {},
                                        const std::atomic<bool>* cancel = nullptr);

// The quantized encoder of `model`: the one beside the model, else the one in the cache, else made here and kept in the
// cache. It is made from the ranges that the library brings for the model (measurements.h; less than a second) or, for
// a model that it does not know, measured on the bundled speech; `progress` and `cancel` are for that, as in
// Calibrator. A stored one that is stale, foreign or broken is made again; where the cache cannot be written, so is the
// next. Thread-safe, also between processes. Throws Error as quantize() does, and Error(kInterrupted).
QuantizedEncoder quantized_encoder(const std::shared_ptr<const Model>& model, int threads,
                                   const std::function<void(double)>& progress = {},
                                   const std::atomic<bool>* cancel = nullptr);

// The same layer by layer; begins again with the first one where a stored encoder turns out to be broken further on.
void quantized_layers(const std::shared_ptr<const Model>& model, int threads, const TakeLayer& take,
                      const std::function<void(double)>& progress = {}, const std::atomic<bool>* cancel = nullptr);

// Writes an encoder where quantized_encoder() finds it: in the cache, or beside the model, which goes first. Returns an
// empty string or what failed.
enum class Place { kCache, kBesideModel };
std::string store_quantized_encoder(const QuantizedEncoder& encoder, const Model& model, Place place);
// Its path.
std::string quantized_encoder_path(const Model& model, Place place);

}  // namespace whisperxdna2
