#include "whisper/quantized_encoder.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "whisper/error.h"

namespace whisperxdna2 {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the serialized form is the one in memory");

// Visits every number of an encoder in the order of the serialized form. V has value(T&) and array(std::vector<T>&,
// count).
template <class V>
void visit(V& v, QuantizedLinear& l, int out, int in, OutputMode mode, bool input_14bit) {
  l.out = out;
  l.in = in;
  l.stage.mode = mode;
  l.input_14bit = input_14bit;
  v.value(l.stage.s1);
  v.value(l.stage.s2);
  for (int32_t* field : {&l.stage.gelu.c, &l.stage.gelu.s, &l.stage.gelu.d, &l.stage.gelu.t, &l.stage.gelu.out_shift}) {
    v.value(*field);
  }
  v.value(l.inverse_input_scale);
  v.array(l.weight, static_cast<size_t>(out) * in);
  v.array(l.bias, out);
  v.array(l.multiplier, out);
  v.array(l.scale, mode == OutputMode::kInt16 ? out : 0);
}

template <class V>
void visit(V& v, QuantizedLayer& l, int index, int d) {
  const bool wide = attention_is_14bit(index);
  for (QuantizedNorm* n : {&l.attention_norm, &l.mlp_norm}) {
    v.array(n->gain, d);
    v.array(n->bias, d);
  }
  visit(v, l.qkv, 3 * d, d, OutputMode::kInt8, wide);
  v.array(l.attention.score_unit, d / kHeadWidth);
  v.array(l.attention.value_unit, d);
  visit(v, l.out, d, d, OutputMode::kInt16, wide);
  v.array(l.out.row_bias, d);
  visit(v, l.fc1, 4 * d, d, OutputMode::kGelu14, false);
  visit(v, l.fc2, d, 4 * d, OutputMode::kInt16, true);
}

struct Writer {
  std::string bytes;
  template <class T>
  void value(T& x) {
    bytes.append(reinterpret_cast<const char*>(&x), sizeof x);
  }
  template <class T>
  void array(std::vector<T>& x, size_t count) {
    bytes.append(reinterpret_cast<const char*>(x.data()), count * sizeof(T));
  }
};

class Reader {
 public:
  Reader(const std::string& b, size_t start) : bytes(b), at(start) {}

  const std::string& bytes;
  size_t at;

  template <class T>
  void value(T& x) {
    need(1, sizeof x);
    std::memcpy(&x, bytes.data() + at, sizeof x);
    at += sizeof x;
  }
  template <class T>
  void array(std::vector<T>& x, size_t count) {
    need(count, sizeof(T));
    x.resize(count);
    if (count > 0) std::memcpy(x.data(), bytes.data() + at, count * sizeof(T));
    at += count * sizeof(T);
  }

 private:
  void need(size_t count, size_t size) const {
    if (count <= (bytes.size() - at) / size) return;
    throw Error(ErrorCode::kInvalidFile,
                "a quantized encoder ends at byte " + std::to_string(bytes.size()) + ", inside its numbers");
  }
};

bool all_finite(const std::vector<float>& values) {
  for (float v : values) {
    if (!std::isfinite(v)) return false;
  }
  return true;
}

bool all_positive(const std::vector<float>& values) {
  for (float v : values) {
    if (!(std::isfinite(v) && v > 0)) return false;
  }
  return true;
}

bool within(int32_t v, int32_t low, int32_t high) { return v >= low && v <= high; }

}  // namespace

std::string flaw(const QuantizedLinear& l) {
  const OutputStage& s = l.stage;
  const GeluScale& g = s.gelu;
  if (!within(s.s1, 0, 30) || !within(s.s2, 0, 30)) return "a shift is not in 0..30";
  if (!within(g.c, 0, INT16_MAX) || !within(g.s, 0, 30) || !within(g.d, 0, INT16_MAX) || !within(g.t, 0, 14) ||
      !within(g.out_shift, 0, 30 - g.t)) {
    return "a scalar of GELU is out of range";
  }
  if (s.mode != OutputMode::kInt16 && !(std::isfinite(l.inverse_input_scale) && l.inverse_input_scale > 0)) {
    return "the scale of the inputs is not a positive number";
  }
  if (!all_finite(l.row_bias)) return "a bias is not a number";
  if (!all_finite(l.scale)) return "a unit of the results is not a number";
  for (int n = 0; n < l.out; ++n) {
    const std::string channel = " in channel " + std::to_string(n);
    if (l.multiplier[n] < 0) return "negative multiplier" + channel;
    int64_t magnitude = 0;
    for (int k = 0; k < l.in; ++k) {
      const int w = l.weight[static_cast<size_t>(n) * l.in + k];
      if (w < -kInt8Limit) return "weight -128" + channel;
      magnitude += std::abs(w);
    }
    const int64_t bound = magnitude * (l.input_14bit ? kInt14Bound : kInt8Bound) + std::llabs(int64_t{l.bias[n]});
    if (bound > INT32_MAX) return "the accumulator could overflow" + channel;
  }
  return "";
}

std::string serialize(const QuantizedEncoder& encoder, const std::string& content_key) {
  QuantizedEncoder copy = encoder;  // visit() is written for both directions
  Writer w;
  w.bytes = content_key;
  const int d = copy.layers.empty() ? 0 : copy.layers[0].qkv.in;
  for (size_t i = 0; i < copy.layers.size(); ++i) visit(w, copy.layers[i], static_cast<int>(i), d);
  return std::move(w.bytes);
}

void parse_quantized_layers(const std::string& bytes, const std::string& content_key, const ModelDims& dims,
                            const TakeLayer& take) {
  if (bytes.compare(0, content_key.size(), content_key) != 0) {
    throw Error(ErrorCode::kInvalidFile, "a quantized encoder was made from other weights");
  }
  Reader r(bytes, content_key.size());
  for (int i = 0; i < dims.n_encoder_layers; ++i) {
    QuantizedLayer l;
    visit(r, l, i, dims.d_model);
    for (const QuantizedNorm* n : {&l.attention_norm, &l.mlp_norm}) {
      if (!all_finite(n->gain) || !all_finite(n->bias)) {
        throw Error(ErrorCode::kInvalidFile,
                    "layer " + std::to_string(i) + " of a quantized encoder: a norm is not a number");
      }
    }
    if (!all_positive(l.attention.score_unit) || !all_positive(l.attention.value_unit)) {
      throw Error(ErrorCode::kInvalidFile, "layer " + std::to_string(i) +
                                               " of a quantized encoder: a unit of attention is not a positive number");
    }
    for (const QuantizedLinear* linear : {&l.qkv, &l.out, &l.fc1, &l.fc2}) {
      const std::string what = flaw(*linear);
      if (!what.empty()) {
        throw Error(ErrorCode::kInvalidFile, "layer " + std::to_string(i) + " of a quantized encoder: " + what);
      }
    }
    take(i, l);
  }
  if (r.at != bytes.size()) {
    throw Error(ErrorCode::kInvalidFile,
                "a quantized encoder has " + std::to_string(bytes.size() - r.at) + " bytes too many");
  }
}

QuantizedEncoder parse_quantized_encoder(const std::string& bytes, const std::string& content_key,
                                         const ModelDims& dims) {
  QuantizedEncoder e;
  parse_quantized_layers(bytes, content_key, dims, [&](int, QuantizedLayer& l) { e.layers.push_back(std::move(l)); });
  return e;
}

}  // namespace whisperxdna2
