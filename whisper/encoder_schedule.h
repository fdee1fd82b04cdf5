// The encoder in f32, bf16 and int8: weights in the order of the kernels, and the layer schedule over them
// (openai/whisper whisper/model.py, AudioEncoder).
//
//   mel --> conv, GELU, conv, GELU, + positions
//       --> layers: x += attention(norm(x)); x += mlp(norm(x)) --> norm --> features
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/bf16_attention.h"
#include "kernels/cpu/bf16_linear.h"
#include "kernels/cpu/int8_attention.h"
#include "kernels/cpu/int8_linear.h"
#include "kernels/cpu/linear.h"
#include "whisper/model.h"
#include "whisper/quantized_encoder.h"

namespace whisperxdna2 {

struct PackedNorm {
  std::vector<float> gain, bias;
};

struct PackedLayer {
  PackedNorm attention_norm, mlp_norm;
  PackedLinear qkv, out, fc1, fc2;
};

struct PackedBF16Layer {
  PackedNorm attention_norm, mlp_norm;
  BF16Linear qkv, out, fc1, fc2;
};

// A layer of a QuantizedEncoder.
struct PackedInt8Layer {
  PackedNorm attention_norm, mlp_norm;
  float inverse_qkv_input = 0, inverse_fc1_input = 0;  // scales
  Int8Linear qkv, out, fc1, fc2;
  QuantizedAttention attention;
};

// Immutable; owns all it needs of the model. It has layers of one kind. The last norm is f32, and so is the residual
// stream between the layers. The stem is bf16 with bf16 layers, and with int8 ones where the processor multiplies bf16
// (has_bf16_products(): twice as fast there, half as fast elsewhere), else f32.
struct PackedEncoder {
  ModelDims dims;
  PackedLinear conv1, conv2;     // linear layers over [tap][channel]
  BF16Linear bf16_conv1, bf16_conv2;
  std::vector<float> positions;  // [n_audio_ctx][d_model]
  std::vector<PackedLayer> layers;
  std::vector<PackedBF16Layer> bf16_layers;
  std::vector<PackedInt8Layer> int8_layers;
  PackedNorm norm;
};

// The packed weights of a model, made once and shared by all who ask while one of them lives. The model's own copy of
// the encoder is not used afterwards. Thread-safe. Throws Error.
std::shared_ptr<const PackedEncoder> packed_encoder(const std::shared_ptr<const Model>& model);
std::shared_ptr<const PackedEncoder> packed_bf16_encoder(const std::shared_ptr<const Model>& model);
// The same with int8 layers; `make` is called where nobody has them, and gives them one by one, or all. Throws
// Error(kInterrupted) after *cancel became true (may be null) while another thread makes them.
std::shared_ptr<const PackedEncoder> packed_int8_encoder(const std::shared_ptr<const Model>& model,
                                                         const std::function<void(const TakeLayer&)>& make,
                                                         const std::atomic<bool>* cancel = nullptr);
std::shared_ptr<const PackedEncoder> packed_int8_encoder(const std::shared_ptr<const Model>& model,
                                                         const std::function<QuantizedEncoder()>& make,
                                                         const std::atomic<bool>* cancel = nullptr);

// Values on the way, for comparisons with references and for measuring ranges. The inputs of layers are shown in f32
// only.
enum class Activation {
  kStem,       // residual stream before the first layer (layer -1)
  kQkvInput,   // inputs of the four linear layers
  kOutInput,
  kFc1Input,
  kFc2Input,   // after GELU
  kLayer,      // residual stream after the layer
};
// values: [rows][width], valid during the call.
using Observer = std::function<void(Activation, int layer, const float* values, int rows, int width)>;

// One window at a time over one set of buffers, which grow to the longest window seen and are kept. One per thread.
class EncoderSchedule {
 public:
  EncoderSchedule(std::shared_ptr<const PackedEncoder> weights, int threads)
      : w_(std::move(weights)), threads_(threads) {}
  virtual ~EncoderSchedule() = default;

  // mel: [n_mels][2 * positions]. features: [positions][d_model]. Returns false, with `features` unspecified, soon
  // after `abandoned` became true: it is looked at before each piece of at most some milliseconds.
  bool run(const float* mel, int positions, float* features, const std::atomic<bool>& abandoned,
           const Observer& observer = nullptr);

 protected:
  // The halves of an int8 layer, for an executor that computes their products elsewhere. x_ is the residual stream,
  // [positions][d_model]; a half changes it with its last product only, so that one that failed can be done again.
  virtual void int8_attention(int layer, int positions, const Workers& workers);
  virtual void int8_mlp(int layer, int positions, const Workers& workers);
  // For each layer; a result does not depend on it.
  virtual int threads() const { return threads_; }
  // The attention of an int8 layer: as int8_attention().
  void attend(int layer, const int8_t* qkv, ptrdiff_t stride, int positions, const Int8Rows& out,
              const Workers& workers);
  const PackedEncoder& weights() const { return *w_; }

  std::vector<float> x_, row_units_;

 private:
  using Show = std::function<void(Activation, int layer, const std::vector<float>& values)>;
  // mel as rows of bands with a row of zeros before and after them, into frames_.
  void transpose(const float* mel, int frames, const Workers& workers);
  void stem(const float* mel, int positions, const Workers& workers);
  void norm(const PackedNorm& norm, int rows, const Workers& workers, float* out);
  // To x_.
  void add_positions(int positions, const Workers& workers);
  void bf16_stem(const float* mel, int positions, const Workers& workers);
  void bf16_layer(int layer, int positions, const Workers& workers);
  void f32_layer(int layer, int positions, const Workers& workers, const Show& show);
  void int8_product(const char* name, const Int8Linear& w, const void* from, const float* row_unit, void* to,
                    int positions, const Workers& workers);
  // Each row of x_, normalized, goes to take(row, values).
  template <class Take>
  void norm_rows(const PackedNorm& norm, int rows, const Workers& workers, const Take& take);
  // Rows of x_, normalized, as the int8 inputs of a layer, into inputs_.
  void norm_to_int8(const PackedNorm& norm, int rows, float inverse_scale, const Int8Input& input,
                    const Workers& workers);

  const std::shared_ptr<const PackedEncoder> w_;
  const int threads_;
  std::vector<float> frames_, conv_, normed_, qkv_, hidden_;
  AttentionScratch attention_;
  BF16AttentionScratch bf16_attention_;
  Int8AttentionScratch int8_attention_;
  // bf16: what inputs_, qkv_, hidden_ (or conv_) are otherwise.
  AlignedVector<uint16_t> bf16_inputs_, bf16_qkv_, bf16_hidden_;
  std::vector<uint8_t> inputs_;    // int8: of the next linear layer
  std::vector<int8_t> qkv8_;       // int8: queries, keys and values
  std::vector<int16_t> hidden14_;  // int8: between fc1 and fc2
};

}  // namespace whisperxdna2
