#include "whisper/encoder_schedule.h"

#include <algorithm>

#include "kernels/cpu/profile.h"
#include "whisper/encoder.h"
#include "whisper/prepared.h"

namespace whisperxdna2 {
namespace {

PackedNorm pack(const LayerNorm& n) { return {n.gain.to_f32(), n.bias.to_f32()}; }

template <class Packed>
Packed pack_linear(const Linear& l) {
  const std::vector<float> bias = l.bias ? l.bias.to_f32() : std::vector<float>();
  return Packed(l.weight.to_f32().data(), l.bias ? bias.data() : nullptr, l.weight.shape[0], l.weight.shape[1]);
}

// Queries, keys and values as one product. The queries take the scale 1/8 of the scores with them: a power of two, so
// nothing is rounded.
template <class Packed>
Packed pack_qkv(const Attention& a, int d) {
  std::vector<float> weight, bias;
  for (const Linear* l : {&a.query, &a.key, &a.value}) {
    const float scale = l == &a.query ? 0.125f : 1.0f;
    const std::vector<float> w = l->weight.to_f32();
    const std::vector<float> b = l->bias ? l->bias.to_f32() : std::vector<float>(d, 0.0f);
    for (float x : w) weight.push_back(x * scale);
    for (float x : b) bias.push_back(x * scale);
  }
  return Packed(weight.data(), bias.data(), 3 * d, d);
}

// [out][in][3] -> [out][3][in], so that an output frame is a product with three consecutive input frames.
template <class Packed>
Packed pack_convolution(const Tensor& weight, const Tensor& bias) {
  const int out = weight.shape[0], in = weight.shape[1];
  const std::vector<float> w = weight.to_f32();
  std::vector<float> taps(w.size());
  for (int o = 0; o < out; ++o) {
    for (int i = 0; i < in; ++i) {
      for (int k = 0; k < 3; ++k) {
        taps[(static_cast<size_t>(o) * 3 + k) * in + i] = w[(static_cast<size_t>(o) * in + i) * 3 + k];
      }
    }
  }
  return Packed(taps.data(), bias.to_f32().data(), out, 3 * in);
}

// Everything but the layers and the convolutions.
std::shared_ptr<PackedEncoder> pack_frame(const Model& m) {
  auto p = std::make_shared<PackedEncoder>();
  p->dims = m.dims;
  p->positions = m.encoder_positions.to_f32();
  p->norm = pack(m.encoder_norm);
  return p;
}

void pack_stem(const Model& m, bool bf16, PackedEncoder* p) {
  if (bf16) {
    p->bf16_conv1 = pack_convolution<BF16Linear>(m.conv1_weight, m.conv1_bias);
    p->bf16_conv2 = pack_convolution<BF16Linear>(m.conv2_weight, m.conv2_bias);
    return;
  }
  p->conv1 = pack_convolution<PackedLinear>(m.conv1_weight, m.conv1_bias);
  p->conv2 = pack_convolution<PackedLinear>(m.conv2_weight, m.conv2_bias);
}

template <class Packed, class PackedLinear>
void pack_layers(const Model& m, std::vector<Packed>* layers) {
  for (const EncoderLayer& l : m.encoder_layers) {
    Packed& packed = layers->emplace_back();
    packed.attention_norm = pack(l.attention_norm);
    packed.mlp_norm = pack(l.mlp_norm);
    packed.qkv = pack_qkv<PackedLinear>(l.attention, m.dims.d_model);
    packed.out = pack_linear<PackedLinear>(l.attention.out);
    packed.fc1 = pack_linear<PackedLinear>(l.fc1);
    packed.fc2 = pack_linear<PackedLinear>(l.fc2);
  }
}

std::shared_ptr<const PackedEncoder> pack_f32(const Model& m) {
  const std::shared_ptr<PackedEncoder> p = pack_frame(m);
  pack_stem(m, false, p.get());
  pack_layers<PackedLayer, PackedLinear>(m, &p->layers);
  return p;
}

std::shared_ptr<const PackedEncoder> pack_bf16(const Model& m) {
  const std::shared_ptr<PackedEncoder> p = pack_frame(m);
  pack_stem(m, true, p.get());
  pack_layers<PackedBF16Layer, BF16Linear>(m, &p->bf16_layers);
  return p;
}

Int8Linear pack(const QuantizedLinear& l) {
  return Int8Linear({l.out, l.in, l.weight.data(), l.bias.data(), l.multiplier.data(), l.scale.data(), l.stage,
                     l.input_14bit, l.row_bias.empty() ? nullptr : l.row_bias.data()});
}

std::shared_ptr<const PackedEncoder> pack_int8(const Model& m, const std::function<void(const TakeLayer&)>& make) {
  const std::shared_ptr<PackedEncoder> p = pack_frame(m);
  pack_stem(m, has_bf16_products(), p.get());
  p->int8_layers.resize(m.dims.n_encoder_layers);
  make([&](int i, QuantizedLayer& l) {
    PackedInt8Layer& packed = p->int8_layers[i];
    packed.attention_norm = {std::move(l.attention_norm.gain), std::move(l.attention_norm.bias)};
    packed.mlp_norm = {std::move(l.mlp_norm.gain), std::move(l.mlp_norm.bias)};
    packed.inverse_qkv_input = l.qkv.inverse_input_scale;
    packed.inverse_fc1_input = l.fc1.inverse_input_scale;
    packed.qkv = pack(l.qkv);
    packed.attention = std::move(l.attention);
    packed.out = pack(l.out);
    packed.fc1 = pack(l.fc1);
    packed.fc2 = pack(l.fc2);
  });
  return p;
}

constexpr char kStopped[] = "preparing the encoder was stopped";

// What is done row by row, in pieces of some rows: work(first, count).
template <class Work>
void for_pieces(int rows, const Workers& workers, const Work& work) {
  constexpr int kPieceRows = 32;
  ThreadPool::instance().parallel_for(workers, (rows + kPieceRows - 1) / kPieceRows, [&](int piece) {
    work(piece * kPieceRows, std::min(kPieceRows, rows - piece * kPieceRows));
  });
}

}  // namespace

std::shared_ptr<const PackedEncoder> packed_encoder(const std::shared_ptr<const Model>& model) {
  static Prepared<PackedEncoder> encoders;
  return encoders.get(model, [&] { return pack_f32(*model); }, kStopped);
}

std::shared_ptr<const PackedEncoder> packed_bf16_encoder(const std::shared_ptr<const Model>& model) {
  static Prepared<PackedEncoder> encoders;
  return encoders.get(model, [&] { return pack_bf16(*model); }, kStopped);
}

std::shared_ptr<const PackedEncoder> packed_int8_encoder(const std::shared_ptr<const Model>& model,
                                                         const std::function<void(const TakeLayer&)>& make,
                                                         const std::atomic<bool>* cancel) {
  static Prepared<PackedEncoder> encoders;
  return encoders.get(model, [&] { return pack_int8(*model, make); }, kStopped, cancel);
}

std::shared_ptr<const PackedEncoder> packed_int8_encoder(const std::shared_ptr<const Model>& model,
                                                         const std::function<QuantizedEncoder()>& make,
                                                         const std::atomic<bool>* cancel) {
  const auto one_by_one = [&](const TakeLayer& take) {
    QuantizedEncoder encoder = make();
    for (size_t i = 0; i < encoder.layers.size(); ++i) take(static_cast<int>(i), encoder.layers[i]);
  };
  return packed_int8_encoder(model, one_by_one, cancel);
}

bool EncoderSchedule::run(const float* mel, int positions, float* features, const std::atomic<bool>& abandoned,
                          const Observer& observer) {
  Workers workers(threads_, &abandoned);
  const size_t size = static_cast<size_t>(positions) * w_->dims.d_model;
  const bool bf16 = !w_->bf16_layers.empty();
  x_.resize(size);
  const auto show = [&](Activation activation, int layer, const std::vector<float>& values) {
    if (!observer || abandoned) return;
    observer(activation, layer, values.data(), positions, static_cast<int>(values.size() / positions));
  };

  w_->bf16_conv1.out() > 0 ? bf16_stem(mel, positions, workers) : stem(mel, positions, workers);
  show(Activation::kStem, -1, x_);
  for (int i = 0; i < w_->dims.n_encoder_layers && !abandoned; ++i) {
    const ProfileLayer profiled(i);
    workers.threads = threads();
    if (bf16) {
      bf16_layer(i, positions, workers);
    } else if (w_->int8_layers.empty()) {
      f32_layer(i, positions, workers, show);
    } else {
      int8_attention(i, positions, workers);
      int8_mlp(i, positions, workers);
    }
    show(Activation::kLayer, i, x_);
  }
  norm(w_->norm, positions, workers, features);
  return !abandoned;
}

void EncoderSchedule::f32_layer(int layer, int positions, const Workers& workers, const Show& show) {
  const PackedLayer& l = w_->layers[layer];
  const auto product = [&](const char* name, const PackedLinear& w, const std::vector<float>& from,
                           std::vector<float>* to, Epilogue epilogue) {
    ProfileScope scope(name, int64_t{2} * positions * w.out() * w.in());
    linear(w, from.data(), w.in(), positions, to->data(), w.out(), epilogue, workers);
  };
  normed_.resize(x_.size());
  qkv_.resize(3 * x_.size());
  hidden_.resize(4 * x_.size());
  norm(l.attention_norm, positions, workers, normed_.data());
  show(Activation::kQkvInput, layer, normed_);
  product("qkv", l.qkv, normed_, &qkv_, Epilogue::kNone);
  {
    ProfileScope scope("attention", int64_t{4} * positions * positions * w_->dims.d_model);
    attention(qkv_.data(), positions, w_->dims.n_heads, normed_.data(), &attention_, workers);
  }
  show(Activation::kOutInput, layer, normed_);
  product("out", l.out, normed_, &x_, Epilogue::kAdd);
  norm(l.mlp_norm, positions, workers, normed_.data());
  show(Activation::kFc1Input, layer, normed_);
  product("fc1, GELU", l.fc1, normed_, &hidden_, Epilogue::kGelu);
  show(Activation::kFc2Input, layer, hidden_);
  product("fc2", l.fc2, hidden_, &x_, Epilogue::kAdd);
}

void EncoderSchedule::bf16_layer(int layer, int positions, const Workers& workers) {
  const PackedBF16Layer& l = w_->bf16_layers[layer];
  const int d = w_->dims.d_model, heads = w_->dims.n_heads;
  const auto norm_to_bf16 = [&](const PackedNorm& n) {
    norm_rows(n, positions, workers, [&](int row, const float* values) {
      bf16_kernels().narrow(values, d, &bf16_inputs_[static_cast<size_t>(row) * d]);
    });
  };
  const auto product = [&](const char* name, const BF16Linear& w, const AlignedVector<uint16_t>& from, auto* to,
                           Epilogue epilogue) {
    ProfileScope scope(name, int64_t{2} * positions * w.out() * w.in());
    const bool bf16 = sizeof(*to->data()) == sizeof(uint16_t);
    bf16_linear(w, from.data(), w.in(), positions, to->data(), w.out(), bf16, epilogue, workers);
  };
  bf16_inputs_.resize(x_.size());
  bf16_qkv_.resize(3 * x_.size());
  bf16_hidden_.resize(4 * x_.size());
  norm_to_bf16(l.attention_norm);
  product("qkv", l.qkv, bf16_inputs_, &bf16_qkv_, Epilogue::kNone);
  {
    ProfileScope scope("attention", int64_t{4} * positions * positions * d);
    bf16_attention(bf16_qkv_.data(), positions, heads, bf16_inputs_.data(), &bf16_attention_, workers);
  }
  product("out", l.out, bf16_inputs_, &x_, Epilogue::kAdd);
  norm_to_bf16(l.mlp_norm);
  product("fc1, GELU", l.fc1, bf16_inputs_, &bf16_hidden_, Epilogue::kGelu);
  product("fc2", l.fc2, bf16_hidden_, &x_, Epilogue::kAdd);
}

void EncoderSchedule::int8_product(const char* name, const Int8Linear& w, const void* from, const float* row_unit,
                                   void* to, int positions, const Workers& workers) {
  ProfileScope scope(name, int64_t{2} * positions * w.out() * w.in());
  int8_linear(w, from, row_unit, positions, to, w.out(), workers);
}

void EncoderSchedule::int8_attention(int layer, int positions, const Workers& workers) {
  const PackedInt8Layer& l = w_->int8_layers[layer];
  qkv8_.resize(3 * x_.size());
  norm_to_int8(l.attention_norm, positions, l.inverse_qkv_input, l.qkv.input(), workers);
  int8_product("qkv", l.qkv, inputs_.data(), nullptr, qkv8_.data(), positions, workers);
  const Int8Input input = l.out.input();
  const size_t row_size = w_->dims.d_model * element_size(input.format);
  inputs_.resize(positions * row_size);
  row_units_.resize(positions);
  attend(layer, qkv8_.data(), l.qkv.out(), positions,
         {inputs_.data(), static_cast<ptrdiff_t>(row_size), input, row_units_.data()}, workers);
  int8_product("out", l.out, inputs_.data(), row_units_.data(), x_.data(), positions, workers);
}

void EncoderSchedule::int8_mlp(int layer, int positions, const Workers& workers) {
  const PackedInt8Layer& l = w_->int8_layers[layer];
  hidden14_.resize(4 * x_.size());
  norm_to_int8(l.mlp_norm, positions, l.inverse_fc1_input, l.fc1.input(), workers);
  int8_product("fc1, GELU", l.fc1, inputs_.data(), nullptr, hidden14_.data(), positions, workers);
  int8_product("fc2", l.fc2, hidden14_.data(), nullptr, x_.data(), positions, workers);
}

void EncoderSchedule::attend(int layer, const int8_t* qkv, ptrdiff_t stride, int positions, const Int8Rows& out,
                             const Workers& workers) {
  ProfileScope scope("attention", int64_t{4} * positions * positions * w_->dims.d_model);
  const QuantizedAttention& a = w_->int8_layers[layer].attention;
  whisperxdna2::int8_attention(qkv, stride, positions, w_->dims.n_heads, {a.score_unit.data(), a.value_unit.data()},
                               out, &int8_attention_, workers);
}

template <class Take>
void EncoderSchedule::norm_rows(const PackedNorm& n, int rows, const Workers& workers, const Take& take) {
  ProfileScope scope("layer norm", 0);
  const int d = w_->dims.d_model;
  for_pieces(rows, workers, [&](int first, int count) {
    thread_local std::vector<float> row;  // stays in the first cache on its way
    row.resize(d);
    for (int r = first; r < first + count; ++r) {
      f32_kernels().layer_norm(&x_[static_cast<size_t>(r) * d], 1, d, n.gain.data(), n.bias.data(), row.data());
      take(r, row.data());
    }
  });
}

void EncoderSchedule::norm_to_int8(const PackedNorm& n, int rows, float inverse_scale, const Int8Input& input,
                                   const Workers& workers) {
  const int d = w_->dims.d_model;
  const size_t size = d * element_size(input.format);  // of a row
  inputs_.resize(rows * size);
  norm_rows(n, rows, workers, [&](int row, const float* values) {
    int8_kernels().quantize(values, d, inverse_scale, input, &inputs_[row * size]);
  });
}

void EncoderSchedule::transpose(const float* mel, int frames, const Workers& workers) {
  const int bands = w_->dims.n_mels;
  frames_.resize(static_cast<size_t>(frames + 2) * bands);
  std::fill_n(frames_.begin(), bands, 0.0f);
  std::fill_n(frames_.end() - bands, bands, 0.0f);
  for_pieces(frames, workers, [&](int first, int count) {
    for (int b = 0; b < bands; ++b) {
      for (int t = first; t < first + count; ++t) {
        frames_[static_cast<size_t>(t + 1) * bands + b] = mel[static_cast<size_t>(b) * frames + t];
      }
    }
  });
}

// Two convolutions of three taps as linear layers over overlapping rows; one zero frame before and after the input.
void EncoderSchedule::stem(const float* mel, int positions, const Workers& workers) {
  const int bands = w_->dims.n_mels, d = w_->dims.d_model, frames = positions * kFramesPerPosition;
  ProfileScope scope("stem", int64_t{6} * d * (int64_t{frames} * bands + int64_t{positions} * d));
  transpose(mel, frames, workers);
  conv_.resize(static_cast<size_t>(frames + 2) * d);
  std::fill_n(conv_.begin(), d, 0.0f);
  std::fill_n(conv_.end() - d, d, 0.0f);
  linear(w_->conv1, frames_.data(), bands, frames, conv_.data() + d, d, Epilogue::kGelu, workers);
  linear(w_->conv2, conv_.data(), kFramesPerPosition * d, positions, x_.data(), d, Epilogue::kGelu, workers);
  add_positions(positions, workers);
}

void EncoderSchedule::bf16_stem(const float* mel, int positions, const Workers& workers) {
  const int bands = w_->dims.n_mels, d = w_->dims.d_model, frames = positions * kFramesPerPosition;
  ProfileScope scope("stem", int64_t{6} * d * (int64_t{frames} * bands + int64_t{positions} * d));
  transpose(mel, frames, workers);
  bf16_inputs_.resize(frames_.size());
  bf16_kernels().narrow(frames_.data(), frames_.size(), bf16_inputs_.data());
  bf16_hidden_.resize(static_cast<size_t>(frames + 2) * d);
  std::fill_n(bf16_hidden_.begin(), d, 0);
  std::fill_n(bf16_hidden_.end() - d, d, 0);
  bf16_linear(w_->bf16_conv1, bf16_inputs_.data(), bands, frames, bf16_hidden_.data() + d, d, true, Epilogue::kGelu,
              workers);
  bf16_linear(w_->bf16_conv2, bf16_hidden_.data(), kFramesPerPosition * d, positions, x_.data(), d, false,
              Epilogue::kGelu, workers);
  add_positions(positions, workers);
}

void EncoderSchedule::add_positions(int positions, const Workers& workers) {
  const int d = w_->dims.d_model;
  for_pieces(positions, workers, [&](int first, int count) {
    const size_t at = static_cast<size_t>(first) * d;
    f32_kernels().add(&x_[at], &w_->positions[at], static_cast<size_t>(count) * d);
  });
}

void EncoderSchedule::norm(const PackedNorm& n, int rows, const Workers& workers, float* out) {
  ProfileScope scope("layer norm", 0);
  const int d = w_->dims.d_model;
  for_pieces(rows, workers, [&](int first, int count) {
    const size_t at = static_cast<size_t>(first) * d;
    f32_kernels().layer_norm(&x_[at], count, d, n.gain.data(), n.bias.data(), out + at);
  });
}

}  // namespace whisperxdna2
