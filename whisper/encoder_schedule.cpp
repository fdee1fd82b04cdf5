#include "whisper/encoder_schedule.h"

#include <algorithm>
#include <mutex>

#include "kernels/cpu/profile.h"
#include "whisper/encoder.h"

namespace whisperxdna2 {
namespace {

PackedNorm pack(const LayerNorm& n) { return {n.gain.to_f32(), n.bias.to_f32()}; }

PackedLinear pack(const Linear& l) {
  const std::vector<float> bias = l.bias ? l.bias.to_f32() : std::vector<float>();
  return PackedLinear(l.weight.to_f32().data(), l.bias ? bias.data() : nullptr, l.weight.shape[0], l.weight.shape[1]);
}

// Queries, keys and values as one product. The queries take the scale 1/8 of the scores with them: a power of two, so
// nothing is rounded.
PackedLinear pack_qkv(const Attention& a, int d) {
  std::vector<float> weight, bias;
  for (const Linear* l : {&a.query, &a.key, &a.value}) {
    const float scale = l == &a.query ? 0.125f : 1.0f;
    const std::vector<float> w = l->weight.to_f32();
    const std::vector<float> b = l->bias ? l->bias.to_f32() : std::vector<float>(d, 0.0f);
    for (float x : w) weight.push_back(x * scale);
    for (float x : b) bias.push_back(x * scale);
  }
  return PackedLinear(weight.data(), bias.data(), 3 * d, d);
}

// [out][in][3] -> [out][3][in], so that an output frame is a product with three consecutive input frames.
PackedLinear pack_convolution(const Tensor& weight, const Tensor& bias) {
  const int out = weight.shape[0], in = weight.shape[1];
  const std::vector<float> w = weight.to_f32();
  std::vector<float> taps(w.size());
  for (int o = 0; o < out; ++o) {
    for (int i = 0; i < in; ++i) {
      for (int k = 0; k < 3; ++k) taps[(static_cast<size_t>(o) * 3 + k) * in + i] = w[(static_cast<size_t>(o) * in + i) * 3 + k];
    }
  }
  return PackedLinear(taps.data(), bias.to_f32().data(), out, 3 * in);
}

std::shared_ptr<const PackedEncoder> pack_encoder(const Model& m) {
  const std::shared_ptr<const void> hold = m.hold_encoder_weights();
  auto p = std::make_shared<PackedEncoder>();
  p->dims = m.dims;
  p->conv1 = pack_convolution(m.conv1_weight, m.conv1_bias);
  p->conv2 = pack_convolution(m.conv2_weight, m.conv2_bias);
  p->positions = m.encoder_positions.to_f32();
  for (const EncoderLayer& l : m.encoder_layers) {
    PackedLayer& packed = p->layers.emplace_back();
    packed.attention_norm = pack(l.attention_norm);
    packed.mlp_norm = pack(l.mlp_norm);
    packed.qkv = pack_qkv(l.attention, m.dims.d_model);
    packed.out = pack(l.attention.out);
    packed.fc1 = pack(l.fc1);
    packed.fc2 = pack(l.fc2);
  }
  p->norm = pack(m.encoder_norm);
  return p;
}

}  // namespace

std::shared_ptr<const PackedEncoder> packed_encoder(const std::shared_ptr<const Model>& model) {
  struct Entry {
    std::weak_ptr<const Model> model;
    std::weak_ptr<const PackedEncoder> packed;
  };
  static std::mutex mutex;
  static std::vector<Entry> entries;
  std::lock_guard<std::mutex> lock(mutex);
  entries.erase(std::remove_if(entries.begin(), entries.end(), [](const Entry& e) { return e.packed.expired(); }),
                entries.end());
  for (const Entry& e : entries) {
    if (e.model.lock() != model) continue;
    if (auto packed = e.packed.lock()) return packed;
  }
  auto packed = pack_encoder(*model);
  entries.push_back({model, packed});
  return packed;
}

bool EncoderSchedule::run(const float* mel, int positions, float* features, const std::atomic<bool>& abandoned,
                          const Observer& observer) {
  const int d = w_->dims.d_model, heads = w_->dims.n_heads;
  const Workers workers(threads_, &abandoned);
  const size_t size = static_cast<size_t>(positions) * d;
  x_.resize(size);
  normed_.resize(size);
  qkv_.resize(3 * size);
  hidden_.resize(4 * size);

  const auto product = [&](const char* name, const PackedLinear& w, const std::vector<float>& from, std::vector<float>* to,
                           Epilogue epilogue) {
    ProfileScope scope(name, int64_t{2} * positions * w.out() * w.in());
    linear(w, from.data(), w.in(), positions, to->data(), w.out(), epilogue, workers);
  };
  const auto show = [&](Activation activation, int layer, const std::vector<float>& values) {
    if (observer && !abandoned) observer(activation, layer, values.data(), positions, static_cast<int>(values.size() / positions));
  };

  stem(mel, positions, workers);
  show(Activation::kStem, -1, x_);
  for (int i = 0; i < static_cast<int>(w_->layers.size()) && !abandoned; ++i) {
    const PackedLayer& l = w_->layers[i];
    norm(l.attention_norm, positions, normed_.data());
    show(Activation::kQkvInput, i, normed_);
    product("qkv", l.qkv, normed_, &qkv_, Epilogue::kNone);
    {
      ProfileScope scope("attention", int64_t{4} * positions * positions * d);
      attention(qkv_.data(), positions, heads, normed_.data(), &attention_, workers);
    }
    show(Activation::kOutInput, i, normed_);
    product("out", l.out, normed_, &x_, Epilogue::kAdd);
    norm(l.mlp_norm, positions, normed_.data());
    show(Activation::kFc1Input, i, normed_);
    product("fc1, GELU", l.fc1, normed_, &hidden_, Epilogue::kGelu);
    show(Activation::kFc2Input, i, hidden_);
    product("fc2", l.fc2, hidden_, &x_, Epilogue::kAdd);
    show(Activation::kLayer, i, x_);
  }
  norm(w_->norm, positions, features);
  return !abandoned;
}

// Two convolutions of three taps as linear layers over overlapping rows; one zero frame before and after the input.
void EncoderSchedule::stem(const float* mel, int positions, const Workers& workers) {
  const int bands = w_->dims.n_mels, d = w_->dims.d_model, frames = positions * kFramesPerPosition;
  ProfileScope scope("stem", int64_t{6} * d * (int64_t{frames} * bands + int64_t{positions} * d));
  frames_.assign(static_cast<size_t>(frames + 2) * bands, 0.0f);
  for (int b = 0; b < bands; ++b) {
    for (int t = 0; t < frames; ++t) {
      frames_[static_cast<size_t>(t + 1) * bands + b] = mel[static_cast<size_t>(b) * frames + t];
    }
  }
  conv_.resize(static_cast<size_t>(frames + 2) * d);
  std::fill_n(conv_.begin(), d, 0.0f);
  std::fill_n(conv_.end() - d, d, 0.0f);
  linear(w_->conv1, frames_.data(), bands, frames, conv_.data() + d, d, Epilogue::kGelu, workers);
  linear(w_->conv2, conv_.data(), kFramesPerPosition * d, positions, x_.data(), d, Epilogue::kGelu, workers);
  f32_kernels().add(x_.data(), w_->positions.data(), x_.size());
}

void EncoderSchedule::norm(const PackedNorm& n, int rows, float* out) {
  ProfileScope scope("layer norm", 0);
  f32_kernels().layer_norm(x_.data(), rows, w_->dims.d_model, n.gain.data(), n.bias.data(), out);
}

}  // namespace whisperxdna2
