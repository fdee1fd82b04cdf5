// Whisper's encoder layers in integers: the only thing the CPU's and the NPU's int8 executors share, and all they need
// besides the model's stem, positions and last norm. What the numbers mean is defined in kernels/arithmetic.h.
//
//   x (f32) --norm--> int8 --qkv--> int8 --attention--> int8 --out--> int16 --+ x
//   x (f32) --norm--> int8 --fc1--> 14 bits, after GELU --fc2--> int16 --+ x
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/arithmetic.h"
#include "whisper/model.h"

namespace whisperxdna2 {

// Noise of the first layer is what the encoder's accuracy hangs on. Layers 1 and 2 make a few positions into registers
// of what is said everywhere (Darcet et al. 2023, Vision Transformers Need Registers), and how much of one they become
// is steep: an error of the first layer along one direction comes out sixty times larger. So its attention's inputs
// have 14 bits.
constexpr bool attention_is_14bit(int layer) { return layer == 0; }

struct QuantizedLinear {
  int out = 0, in = 0;
  OutputStage stage;
  // Inputs of qkv and fc1 are quantize(x, inverse_input_scale, their limit). Those of `out` have a unit for each row,
  // row_unit(), and it adds its bias in f32. fc2 (input_14bit) takes fc1's results as they are.
  bool input_14bit = false;
  float inverse_input_scale = 0;
  std::vector<int8_t> weight;       // [out][in], in +-127
  std::vector<int32_t> bias;        // [out]
  std::vector<int16_t> multiplier;  // [out], 0..32767
  std::vector<float> scale;         // [out] units of the results; empty for qkv and fc1
  std::vector<float> row_bias;      // [out] of `out`, else empty; its `bias` is 0
};

// The integers of one head's queries times those of its keys have one unit, whatever the channel.
struct QuantizedAttention {
  std::vector<float> score_unit;  // [heads]
  std::vector<float> value_unit;  // [d_model]
};

struct QuantizedNorm {
  std::vector<float> gain, bias;  // [d_model], the smoothing of the following layer's inputs folded in
};

struct QuantizedLayer {
  QuantizedNorm attention_norm, mlp_norm;
  QuantizedLinear qkv;  // queries (scaled by 1/8, as the scores want them), keys, values: [3 d_model][d_model]
  QuantizedAttention attention;
  QuantizedLinear out, fc1, fc2;
};

struct QuantizedEncoder {
  std::vector<QuantizedLayer> layers;
};

using TakeLayer = std::function<void(int index, QuantizedLayer& layer)>;

// Empty if no input can overflow an accumulator and every number is one the arithmetic is defined for; else what is
// wrong.
std::string flaw(const QuantizedLinear& linear);

// As bytes, for the cache; little-endian.
std::string serialize(const QuantizedEncoder& encoder, const std::string& content_key);
// The inverse for a model with this key and these dimensions, for untrusted bytes. Throws Error(kInvalidFile). One
// layer at a time, in order, so that they are never all in memory; or all of them.
void parse_quantized_layers(const std::string& bytes, const std::string& content_key, const ModelDims& dims,
                            const TakeLayer& take);
QuantizedEncoder parse_quantized_encoder(const std::string& bytes, const std::string& content_key,
                                         const ModelDims& dims);

}  // namespace whisperxdna2
