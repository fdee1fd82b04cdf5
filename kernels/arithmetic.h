// The arithmetic of the int8 encoder, in scalar integers. Nothing else defines it: the SIMD kernels, the NPU's core
// programs and the emulated device are compared with these functions bit for bit.
//
// A linear layer y = W x + b becomes
//
//   accumulator  int32  sum_k w[n][k] x[k] + bias[n]       w int8 in +-127, x int8 in +-127 or 14 bits in +-8191
//   x16          int16  accumulator / 2^s1                  one shift for the layer
//   y            int8 or int16 = x16 * multiplier[n] / 2^s2, multiplier[n] in 0..32767
//   g            14 bits = gelu(y), for the layer that feeds GELU
//
// with every division rounded half to even and every result saturated: what an AIE2P core does in vectors with its
// shift-round-saturate instruction in the modes conv_even and saturate, 16 x 16 bit products and 32-bit accumulators.
//
// No step can overflow:
//   accumulator  the quantizer proves per channel that L * sum_k |w[n][k]| + |bias[n]| < 2^31, L = kInt8Bound or
//                kInt14Bound; the bound holds for each partial sum in any order, hence also for sums in planes
//   x16 * m      at most 32768 * 32767 < 2^30
//   GELU         see gelu_14bit()
#pragma once

#include <cmath>
#include <cstdint>

namespace whisperxdna2 {

constexpr int kInt8Limit = 127;    // quantized activations and weights are symmetric
constexpr int kInt14Limit = 8191;  // the input of fc2
// Largest magnitude of an input in the overflow proof. -128 * 64 is what the upper plane alone can reach.
constexpr int kInt8Bound = 128;
constexpr int kInt14Bound = 8192;

// v / 2^shift rounded half to even, saturated to [low, high]. shift: 0..30.
constexpr int32_t shift_round_saturate(int32_t v, int shift, int32_t low, int32_t high) {
  if (shift > 0) {
    const int32_t floor = v >> shift;
    const int32_t rest = v & ((int32_t{1} << shift) - 1);
    const int32_t half = int32_t{1} << (shift - 1);
    v = floor + (rest > half || (rest == half && (floor & 1)) ? 1 : 0);
  }
  return v < low ? low : v > high ? high : v;
}
constexpr int8_t srs8(int32_t v, int shift) {
  return static_cast<int8_t>(shift_round_saturate(v, shift, INT8_MIN, INT8_MAX));
}
constexpr int16_t srs16(int32_t v, int shift) {
  return static_cast<int16_t>(shift_round_saturate(v, shift, INT16_MIN, INT16_MAX));
}

// ---- Products

inline int32_t dot(const int8_t* x, const int8_t* w, int k) {
  int32_t sum = 0;
  for (int i = 0; i < k; ++i) sum += int32_t{x[i]} * w[i];
  return sum;
}
// x in +-kInt14Limit
inline int32_t dot(const int16_t* x, const int8_t* w, int k) {
  int32_t sum = 0;
  for (int i = 0; i < k; ++i) sum += int32_t{x[i]} * w[i];
  return sum;
}

// ---- Byte planes: how wider values travel where only bytes move. x = 128 hi + lo, or 256 hi + lo.

// x in +-kInt14Limit: hi in -64..63, lo in 0..127, both signed bytes, so that an int8 product takes either.
constexpr int8_t plane14_lo(int16_t x) { return static_cast<int8_t>(x & 127); }
constexpr int8_t plane14_hi(int16_t x) { return static_cast<int8_t>((x - (x & 127)) >> 7); }
constexpr int16_t join14(int8_t hi, int8_t lo) { return static_cast<int16_t>(hi * 128 + lo); }

// Any x: hi signed, lo unsigned.
constexpr uint8_t plane16_lo(int16_t x) { return static_cast<uint8_t>(x & 255); }
constexpr int8_t plane16_hi(int16_t x) { return static_cast<int8_t>((x - (x & 255)) >> 8); }
constexpr int16_t join16(int8_t hi, uint8_t lo) { return static_cast<int16_t>(hi * 256 + lo); }

// The same number as dot() of the joined values.
inline int32_t dot_planes14(const int8_t* hi, const int8_t* lo, const int8_t* w, int k) {
  return 128 * dot(hi, w, k) + dot(lo, w, k);
}

// ---- Output stage

// The numbers are those in the tail of a weight object of the NPU's overlay.
enum class OutputMode : int32_t {
  kInt8 = 0,    // QKV
  kInt16 = 1,   // out, fc2: added to the f32 residual stream
  kGelu14 = 2,  // fc1: the input of fc2
};

// erf-GELU(x) = relu(x) - q(|x|), where q(a) = a Phi(-a) is even, at most 0.17 and gone beyond 4. Only q is tabulated,
// in 64 segments of 1/16, so that a layer with a wide range does not starve the bend of resolution. Entry i is
// round(2^16 q(i / 16)); a segment's slope is the next entry less this one (-527..1946). The table is the same for
// every layer; the layer's unit enters by the scalars below. Its error is below 4.5e-4.
constexpr int kGeluSegments = 64;
constexpr int16_t kGeluTable[kGeluSegments + 1] = {
    0, 1946, 3689, 5230, 6575, 7728, 8696, 9487, 10110, 10576, 10895, 11079, 11139, 11089, 10940, 10706, 10398,
    10027, 9606, 9146, 8655, 8144, 7620, 7093, 6567, 6050, 5546, 5060, 4594, 4152, 3735, 3345, 2982, 2647, 2339,
    2058, 1803, 1572, 1366, 1181, 1017, 873, 745, 634, 537, 453, 381, 318, 265, 220, 182, 150, 123, 100, 82, 66, 53,
    43, 34, 27, 22, 17, 14, 11, 8};

struct GeluScale {
  // su is the unit of the GELU's input y: |y| c / 2^s is the position in the table in units of 2^-13, so c / 2^s = 8192
  // su; q16 d / 2^t is q in units of su, so d / 2^t = 1 / (65536 su). The output's unit is su 2^out_shift. c and d in
  // 0..32767, s in 0..30, t in 0..14, t + out_shift in 0..30.
  int32_t c = 0, s = 0, d = 0, t = 0, out_shift = 0;
};

// Bounds: |y| c <= 32767^2 < 2^30; (entry << 9) + slope * 511 < 11139 * 512 + 1946 * 511 < 2^23; relu(y) << t < 2^29
// and q16 d <= 11139 * 32767 < 2^29, so their difference is below 2^30.
constexpr int16_t gelu_14bit(int16_t y, const GeluScale& g) {
  const int32_t u = y < -INT16_MAX ? -INT16_MAX : y;
  const int32_t magnitude = u < 0 ? -u : u;
  const int32_t p = srs16(magnitude * g.c, g.s);  // saturates just below 4.0
  const int32_t segment = p >> 9, part = p & 511;
  const int32_t slope = kGeluTable[segment + 1] - kGeluTable[segment];
  const int32_t q16 = srs16(kGeluTable[segment] * 512 + slope * part, 9);
  const int32_t relu = u > 0 ? u : 0;
  return static_cast<int16_t>(
      shift_round_saturate(relu * (int32_t{1} << g.t) - q16 * g.d, g.t + g.out_shift, -kInt14Limit, kInt14Limit));
}

struct OutputStage {
  OutputMode mode = OutputMode::kInt8;
  int32_t s1 = 0, s2 = 0;  // 0..30
  GeluScale gelu;          // kGelu14
};

// The value of one output channel, in the range of the stage's mode.
constexpr int16_t output(int32_t sum, int32_t bias, int16_t multiplier, const OutputStage& stage) {
  const int16_t x16 = srs16(sum + bias, stage.s1);
  const int32_t product = int32_t{x16} * multiplier;
  if (stage.mode == OutputMode::kInt8) return srs8(product, stage.s2);
  const int16_t y = srs16(product, stage.s2);
  return stage.mode == OutputMode::kGelu14 ? gelu_14bit(y, stage.gelu) : y;
}

// ---- Attention
//
// Scores are exact: sums of 64 products of int8 numbers, at most 2^20. A key's weight is
//
//   p = 2^-t in units of 2^-15
//   t = (largest score - score) * unit * log2(e) in units of 2^-11, at most 32 less one unit
//
// and a query's result sum_j p[j] v[j] / sum_j p[j]. So that no sum overflows, keys are added up in blocks of
// kAttentionBlock: 512 * 32767 * 128 < 2^31; what remains is f32, in the order of the blocks.

constexpr int kHeadWidth = 64;  // of every Whisper model
constexpr int kAttentionBlock = 512;
constexpr float kStepsPerNeper = 2954.6395f;  // 2^11 log2(e)
constexpr float kMostSteps = 65535.0f;

// 2^-x is 65534 - x (c1 - x (c2 - x c3)), x in units of 2^-16, each product's upper 16 bits taken. Of all integers
// these have the least relative error, 2.9e-4, if the largest result is to be 65534, of which half is the largest
// int16.
constexpr int kExpC1 = 45198, kExpC2 = 14751, kExpC3 = 2312, kExpOne = 65534;

// difference: 0..2^30; steps_per_unit: kStepsPerNeper times the scores' unit, rounded to f32.
inline int16_t attention_weight(int32_t difference, float steps_per_unit) {
  const float steps = static_cast<float>(difference) * steps_per_unit;
  const uint32_t t = static_cast<uint32_t>(std::nearbyint(steps < kMostSteps ? steps : kMostSteps));
  const uint32_t x = (t << 5) & 65535;
  const uint32_t y = kExpOne - (x * (kExpC1 - (x * (kExpC2 - (x * kExpC3 >> 16)) >> 16)) >> 16);
  return static_cast<int16_t>(((y >> (t >> 11)) + 1) >> 1);
}

// ---- Between f32 and integers

// x / scale rounded half to even (the processor's default mode), clamped to +-limit: what is out of the calibrated
// range saturates, and NaN becomes +limit. inverse_scale is 1 / scale, rounded once to f32.
inline int32_t quantize(float x, float inverse_scale, int limit) {
  const float high = static_cast<float>(limit);
  float v = x * inverse_scale;
  v = v < high ? v : high;
  v = v > -high ? v : -high;
  return static_cast<int32_t>(std::nearbyint(v));
}

inline float dequantize(int32_t q, float scale) { return static_cast<float>(q) * scale; }

// The inputs of a layer may have a unit for each row, in which the row's largest magnitude is the limit. Rows next to
// nothing become zeros. The layer then adds its bias in f32; each product and the sum is rounded.
constexpr float kLeastMagnitude = 1e-30f;
inline float row_unit(float largest, int limit) {
  return largest > kLeastMagnitude ? largest / static_cast<float>(limit) : 0.0f;
}
inline float inverse_row_unit(float largest, int limit) {
  return largest > kLeastMagnitude ? static_cast<float>(limit) / largest : 0.0f;
}
inline float dequantize(int32_t q, float scale, float row_unit, float bias) {
  return dequantize(q, scale) * row_unit + bias;
}

}  // namespace whisperxdna2
