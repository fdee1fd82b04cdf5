// A Whisper checkpoint in memory: immutable, shared between all users in the process.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace whisperxdna2 {

class Tokenizer;
class WeightPages;  // weight_pages.h

enum class DType : uint8_t { kF32, kF16, kBF16 };

// A row-major view of weights that the Model owns, aligned to 64 bytes, every value finite. Matrices have the file's
// type (quantized ones become f16); vectors and the position tables are always f32. An absent tensor (the key
// projection has no bias) has data == nullptr.
struct Tensor {
  DType dtype = DType::kF32;
  std::vector<int> shape;
  // Only to be read while Model::hold_encoder_weights() or hold_decoder_weights() holds it, or it is the caller's own.
  const void* data = nullptr;

  explicit operator bool() const { return data != nullptr; }
  int64_t elements() const;
  // The values as f32, exactly. A tensor of a file is read from there, and need not be in memory: Error(kInvalidFile)
  // where the file has changed. Thread-safe.
  std::vector<float> to_f32() const;
  // The same in chunks of whole rows, in order: take(index of the first element, number of elements, values).
  void each_chunk(const std::function<void(int64_t first, int64_t count, const float* values)>& take) const;

  WeightPages* pages = nullptr;  // where it comes from; null: `data` is somebody's memory
  size_t index = 0;              // in there
};

struct Linear {
  Tensor weight;  // [out][in]
  Tensor bias;    // [out], may be absent
};

struct LayerNorm {
  Tensor gain, bias;  // [d_model]
};

struct Attention {
  Linear query, key, value, out;  // [d_model][d_model]
};

struct EncoderLayer {
  LayerNorm attention_norm;
  Attention attention;
  LayerNorm mlp_norm;
  Linear fc1, fc2;  // [4 d_model][d_model], [d_model][4 d_model]
};

struct DecoderLayer {
  LayerNorm self_norm;
  Attention self_attention;
  LayerNorm cross_norm;
  Attention cross_attention;
  LayerNorm mlp_norm;
  Linear fc1, fc2;
};

struct ModelDims {
  int n_mels = 0;       // 80 or 128
  int n_audio_ctx = 0;  // 1500
  int d_model = 0;      // heads * 64
  int n_heads = 0;
  int n_encoder_layers = 0;
  int n_decoder_layers = 0;
  int n_text_ctx = 0;  // 448
  int n_vocab = 0;     // 51864 (.en), 51865 or 51866 (large-v3)
};

struct Model {
  ModelDims dims;
  std::string source;       // the path it was loaded from
  std::string description;  // one line for people: format, size, language
  // XXH3-128 in hex over names, types, shapes and values of the encoder's tensors, followed by that of the decoder's:
  // the same for the same weights in any file format. Names derived files in the cache. Guards against mistakes, not
  // against a forger: it is no cryptographic hash.
  std::string content_key;

  // Encoder. Convolutions are [out channels][in channels][3].
  Tensor conv1_weight, conv1_bias, conv2_weight, conv2_bias;
  Tensor encoder_positions;  // [n_audio_ctx][d_model]
  std::vector<EncoderLayer> encoder_layers;
  LayerNorm encoder_norm;

  // Decoder.
  Tensor token_embedding;    // [n_vocab][d_model], also the output projection
  Tensor decoder_positions;  // [n_text_ctx][d_model]
  std::vector<DecoderLayer> decoder_layers;
  LayerNorm decoder_norm;

  // (layer, head) pairs whose cross attention follows the audio (openai/whisper whisper/__init__.py, _ALIGNMENT_HEADS).
  std::vector<std::pair<int, int>> alignment_heads;

  std::shared_ptr<const Tokenizer> tokenizer;

  // What the tensors point into: anonymous memory, never a mapping of the file (byte_source.h says why).
  std::shared_ptr<WeightPages> encoder_pages, decoder_pages;

  // Keeps the encoder's tensors (all that is listed under "Encoder") in memory, for those who read Tensor::data. Reads
  // them from the file, which stays open: Error(kInvalidFile) where it has changed. When the last holder lets go, their
  // memory is given back to the system; any access is a fault then, as before the first call. Thread-safe.
  std::shared_ptr<const void> hold_encoder_weights() const;
  std::shared_ptr<const void> hold_decoder_weights() const;  // all that is listed under "Decoder"
};

// Loads the model at `path`: a CTranslate2 directory (model.bin; f32, f16, bf16, int8), a Hugging Face directory
// (model.safetensors, also in parts; f32, f16, bf16) or a ggml file (f32, f16, q8_0, q5_0, q5_1, q4_0, q4_1). Returns
// the one already loaded from the same path, file, size and modification time while anyone still holds it. Thread-safe.
// Throws Error: kNotFound, kInvalidFile, kUnsupported, kNoResource. The message for a missing model says how to get
// one.
//
// `progress(fraction)` is called on this thread while weights are read, for each tensor; it may be empty. When *cancel
// (may be null) becomes true, also while another thread loads the same model, Error(kInterrupted) is thrown.
std::shared_ptr<const Model> load_model(const std::string& path,
                                        const std::function<void(double)>& progress = {},
                                        const std::atomic<bool>* cancel = nullptr);

// Directory of derived and fetched files: $XDG_CACHE_HOME/whisperxdna2, else ~/.cache/whisperxdna2.
std::string cache_directory();

// Where the element looks when no model path is given: cache_directory()/models/base.
std::string default_model_path();

}  // namespace whisperxdna2
