// The kernels of gemv.h for any vector type V of simd.h. Included by one file for each instruction set.
#pragma once

#include <limits>

#include "kernels/cpu/gemv.h"
#include "kernels/cpu/row_blocks.h"
#include "kernels/cpu/simd.h"

namespace whisperxdna2 {
namespace {

// Matrices and the keys and values of the audio are read once, in order, from memory. Processors stop looking ahead at
// the end of a page of 4 KiB; asking for what comes this much later is worth a sixth of the time.
constexpr int kAhead = 2048;
inline void prefetch(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + kAhead); }

// --- Matrices of floats

template <class V>
struct AsF32 {
  using Stored = float;
  static V load(const float* p) { return V::load(p); }
};
template <class V>
struct AsHalf {
  using Stored = uint16_t;
  static V load(const uint16_t* p) { return V::load_half(p); }
};
template <class V>
struct AsBF16 {
  using Stored = uint16_t;
  static V load(const uint16_t* p) { return V::load_bf16(p); }
};

// R rows of w by one row of x: R independent sums hide the latency of the additions.
template <class V, class As, int R>
inline void dot_rows(const typename As::Stored* w, int in, const float* x, float* sums) {
  V sum[R];
  for (int r = 0; r < R; ++r) sum[r] = V::set(0);
  for (int k = 0; k < in; k += V::kLanes) {
    const V v = V::load(x + k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r] = V::fma(As::load(w + static_cast<ptrdiff_t>(r) * in + k), v, sum[r]);
  }
  for (int r = 0; r < R; ++r) sums[r] = sum[r].sum();
}

// y = epilogue(y0 + bias) over `count` outputs of a row, where `sums` holds y0.
template <class V>
inline void finish_outputs(const float* sums, const float* bias, int count, Epilogue epilogue, float* y) {
  const auto finish = [&](auto one, int i) {
    using W = decltype(one);
    W v = W::load(sums + i);
    if (bias) v = v + W::load(bias + i);
    if (epilogue == Epilogue::kGelu) v = gelu(v);
    if (epilogue == Epilogue::kAdd) v = W::load(y + i) + v;
    v.store(y + i);
  };
  int i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) finish(V{}, i);
  for (; i < count; ++i) finish(F32x1{}, i);
}

template <class V, class As>
void multiply_floats(const GemvTask& t) {
  constexpr int kBlock = 16;
  const int in = t.w.in;
  const auto* w = static_cast<const typename As::Stored*>(t.w.data);
  for (int n = t.first; n < t.last; n += kBlock) {
    const int count = t.last - n < kBlock ? t.last - n : kBlock;
    for (int r = 0; r < t.rows; ++r) {
      const float* x = t.x + r * t.x_stride;
      float sums[kBlock];
      int i = 0;
      for (; i + 8 <= count; i += 8) dot_rows<V, As, 8>(w + static_cast<ptrdiff_t>(n + i) * in, in, x, sums + i);
      for (; i < count; ++i) dot_rows<V, As, 1>(w + static_cast<ptrdiff_t>(n + i) * in, in, x, sums + i);
      finish_outputs<V>(sums, t.bias ? t.bias + n : nullptr, count, t.epilogue, t.y + r * t.y_stride + (n - t.first));
    }
  }
}

// --- int8 matrices

// V::kLanes sums of products of int16 inputs and int8 weights.
template <class V>
struct PairSums;

template <>
struct PairSums<F32x1> {
  using Weights = const int8_t*;
  int32_t v;
  static PairSums zero() { return {0}; }
  // Two weights of each lane's row.
  static Weights load(const int8_t* p) { return p; }
  // *this += x[0] * first weight + x[1] * second weight
  void add(const int16_t* x, Weights w) { v += x[0] * w[0] + x[1] * w[1]; }
  friend PairSums operator+(PairSums a, PairSums b) { return {a.v + b.v}; }
  F32x1 to_f32() const { return {static_cast<float>(v)}; }
  // Integral values within int16.
  static void store_int16(F32x1 x, int16_t* to) { *to = static_cast<int16_t>(x.v); }
};

#if defined(__AVX2__)
template <>
struct PairSums<F32x8> {
  using Weights = __m256i;
  __m256i v;
  static PairSums zero() { return {_mm256_setzero_si256()}; }
  static Weights load(const int8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  void add(const int16_t* x, Weights w) {
    int32_t both;
    std::memcpy(&both, x, sizeof both);
    v = _mm256_add_epi32(v, _mm256_madd_epi16(_mm256_set1_epi32(both), w));
  }
  friend PairSums operator+(PairSums a, PairSums b) { return {_mm256_add_epi32(a.v, b.v)}; }
  F32x8 to_f32() const { return {_mm256_cvtepi32_ps(v)}; }
  static void store_int16(F32x8 x, int16_t* to) {
    const __m256i wide = _mm256_cvtps_epi32(x.v);
    const __m128i narrow = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrow);
  }
};
#endif

#if defined(__AVX512F__)
template <>
struct PairSums<F32x16> {
  using Weights = __m512i;
  __m512i v;
  static PairSums zero() { return {_mm512_setzero_si512()}; }
  static Weights load(const int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  void add(const int16_t* x, Weights w) {
    int32_t both;
    std::memcpy(&both, x, sizeof both);
    v = _mm512_dpwssd_epi32(v, _mm512_set1_epi32(both), w);
  }
  friend PairSums operator+(PairSums a, PairSums b) { return {_mm512_add_epi32(a.v, b.v)}; }
  F32x16 to_f32() const { return {_mm512_cvtepi32_ps(v)}; }
  static void store_int16(F32x16 x, int16_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x.v)));
  }
};
#endif

// R rows of inputs from row `row` on by one panel.
template <class V, int R>
inline void int8_block(const GemvTask& t, int row, int panel) {
  constexpr int kVectors = kInt8PanelRows / V::kLanes;
  constexpr int kSums = R == 1 ? 4 : 1;  // per output: independent ones hide the latency of the additions
  const int in = t.w.in;
  const int8_t* w = static_cast<const int8_t*>(t.w.data) + static_cast<ptrdiff_t>(panel) * kInt8PanelRows * in;
  const int16_t* x = t.integers + static_cast<ptrdiff_t>(row) * in;
  using Sums = PairSums<V>;
  Sums sum[kSums][R][kVectors];
  for (auto& some : sum) {
    for (auto& of_row : some) {
      for (Sums& s : of_row) s = Sums::zero();
    }
  }
  for (int k = 0; k < in; k += 2 * kSums) {
    prefetch(w);
    if constexpr (kSums == 4) prefetch(w + 64);
#pragma GCC unroll 4
    for (int s = 0; s < kSums; ++s) {
      typename Sums::Weights weights[kVectors];
#pragma GCC unroll 16
      for (int c = 0; c < kVectors; ++c) weights[c] = Sums::load(w + 2 * c * V::kLanes);
      w += 2 * kInt8PanelRows;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int c = 0; c < kVectors; ++c) sum[s][r][c].add(x + static_cast<ptrdiff_t>(r) * in + k + 2 * s, weights[c]);
      }
    }
  }
  const int n = panel * kInt8PanelRows;
  const int count = t.last - n < kInt8PanelRows ? t.last - n : kInt8PanelRows;
  float scale[kInt8PanelRows] = {};
  std::memcpy(scale, t.w.scale + n, count * sizeof *scale);
  for (int r = 0; r < R; ++r) {
    float products[kInt8PanelRows];
    const V unit = V::set(t.unit[row + r]);
    for (int c = 0; c < kVectors; ++c) {
      Sums total = sum[0][r][c];
      for (int s = 1; s < kSums; ++s) total = total + sum[s][r][c];
      (total.to_f32() * (V::load(scale + c * V::kLanes) * unit)).store(products + c * V::kLanes);
    }
    finish_outputs<V>(products, t.bias ? t.bias + n : nullptr, count, t.epilogue,
                      t.y + (row + r) * t.y_stride + (n - t.first));
  }
}

template <class V>
void multiply(const GemvTask& t) {
  switch (t.w.type) {
    case MatrixType::kF32:
      return multiply_floats<V, AsF32<V>>(t);
    case MatrixType::kF16:
      return multiply_floats<V, AsHalf<V>>(t);
    case MatrixType::kBF16:
      return multiply_floats<V, AsBF16<V>>(t);
    case MatrixType::kInt8:
      for (int panel = t.first / kInt8PanelRows; panel * kInt8PanelRows < t.last; ++panel) {
        for_row_blocks<4>(t.rows, [&](auto n, int row) { int8_block<V, n>(t, row, panel); });
      }
  }
}

template <class V>
float quantize_row(const float* x, int count, int limit, int16_t* to) {
  V most = V::set(0);
  for (int k = 0; k < count; k += V::kLanes) most = V::max(most, V::load(x + k).abs());
  const float largest = most.largest(), high = static_cast<float>(limit);
  const V inverse = V::set(largest > 1e-30f ? high / largest : 0.0f);
  for (int k = 0; k < count; k += V::kLanes) {
    const V scaled = V::load(x + k) * inverse;
    PairSums<V>::store_int16(V::max(V::min(scaled, V::set(high)), V::set(-high)).round(), to + k);
  }
  return largest > 1e-30f ? largest / high : 0.0f;
}

template <class V>
void widen_row(const MatrixView& w, int row, float* to) {
  const ptrdiff_t at = static_cast<ptrdiff_t>(row) * w.in;
  switch (w.type) {
    case MatrixType::kF32:
      std::memcpy(to, static_cast<const float*>(w.data) + at, w.in * sizeof *to);
      break;
    case MatrixType::kF16:
      for (int k = 0; k < w.in; k += V::kLanes) {
        V::load_half(static_cast<const uint16_t*>(w.data) + at + k).store(to + k);
      }
      break;
    case MatrixType::kBF16:
      for (int k = 0; k < w.in; k += V::kLanes) {
        V::load_bf16(static_cast<const uint16_t*>(w.data) + at + k).store(to + k);
      }
      break;
    case MatrixType::kInt8: {
      const int8_t* from = static_cast<const int8_t*>(w.data) + at / w.in / kInt8PanelRows * kInt8PanelRows * w.in +
                           2 * (row % kInt8PanelRows);
      for (int k = 0; k < w.in; k += 2, from += 2 * kInt8PanelRows) {
        to[k] = static_cast<float>(from[0]) * w.scale[row];
        to[k + 1] = static_cast<float>(from[1]) * w.scale[row];
      }
    }
  }
}

template <class V>
void pack(const MatrixView& from, int first, int last, int8_t* panels, float* scale) {
  constexpr int kPart = 512;  // weights of a row at once
  float part[kPart];
  int16_t integers[kPart];
  MatrixView row = from;
  const int size = from.type == MatrixType::kF32 ? 4 : 2;
  for (int n = first * kInt8PanelRows; n < last * kInt8PanelRows; ++n) {
    int8_t* to =
        panels + static_cast<ptrdiff_t>(n / kInt8PanelRows) * kInt8PanelRows * from.in + 2 * (n % kInt8PanelRows);
    const auto load = [&](int k) {
      row.data = static_cast<const char*>(from.data) + (static_cast<ptrdiff_t>(n) * from.in + k) * size;
      row.in = from.in - k < kPart ? from.in - k : kPart;
      widen_row<V>(row, 0, part);
      return row.in;
    };
    float largest = 0;
    if (n < from.out) {
      V most = V::set(0);
      for (int k = 0; k < from.in; k += kPart) {
        const int count = load(k);
        for (int i = 0; i < count; i += V::kLanes) most = V::max(most, V::load(part + i).abs());
      }
      largest = most.largest();
      scale[n] = largest > 1e-30f ? largest / 127.0f : 0.0f;
    }
    const V inverse = V::set(largest > 1e-30f ? 127.0f / largest : 0.0f);
    for (int k = 0; k < from.in; k += kPart) {
      const int count = n < from.out ? load(k) : (from.in - k < kPart ? from.in - k : kPart);
      if (n >= from.out) std::memset(part, 0, sizeof part);
      for (int i = 0; i < count; i += V::kLanes) {
        PairSums<V>::store_int16((V::load(part + i) * inverse).round(), integers + i);
      }
      for (int i = 0; i < count; i += 2, to += 2 * kInt8PanelRows) {
        to[0] = static_cast<int8_t>(integers[i]);
        to[1] = static_cast<int8_t>(integers[i + 1]);
      }
    }
  }
}

// --- Attention and distributions

template <class V>
float largest_of(const float* x, int count) {
  float most = -std::numeric_limits<float>::infinity();
  int i = 0;
  if (count >= V::kLanes) {
    V m = V::load(x);
    for (i = V::kLanes; i + V::kLanes <= count; i += V::kLanes) m = V::max(m, V::load(x + i));
    most = m.largest();
  }
  for (; i < count; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// to[i] = exp(from[i] - most); returns their sum. Only sums where `to` is null.
template <class V>
inline float exp_and_sum(const float* from, int count, float most, float* to) {
  V sum = V::set(0);
  int i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) {
    const V e = exp(V::load(from + i) - V::set(most));
    if (to) e.store(to + i);
    sum = sum + e;
  }
  float total = sum.sum();
  for (; i < count; ++i) {
    const float e = exp(F32x1::set(from[i] - most)).v;
    if (to) to[i] = e;
    total += e;
  }
  return total;
}

template <class V>
void attend(const float* query, const uint16_t* keys, const uint16_t* values, const int* rows, int count, float* scores,
            float* weights, float* out) {
  constexpr int kVectors = kHeadWidth / V::kLanes;
  const auto at = [rows](int t) { return static_cast<ptrdiff_t>(rows ? rows[t] : t) * kHeadWidth; };
  for (int t = 0; t < count; ++t) {
    const uint16_t* key = keys + at(t);
    prefetch(key);
    prefetch(key + kHeadWidth / 2);
    V sum = V::set(0);
    for (int c = 0; c < kHeadWidth; c += V::kLanes) sum = V::fma(V::load(query + c), V::load_half(key + c), sum);
    scores[t] = sum.sum();
  }
  const float total = exp_and_sum<V>(scores, count, largest_of<V>(scores, count), weights);
  V sum[kVectors];
  for (int c = 0; c < kVectors; ++c) sum[c] = V::set(0);
  for (int t = 0; t < count; ++t) {
    const V w = V::set(weights[t]);
    const uint16_t* value = values + at(t);
    prefetch(value);
    prefetch(value + kHeadWidth / 2);
    for (int c = 0; c < kVectors; ++c) sum[c] = V::fma(w, V::load_half(value + c * V::kLanes), sum[c]);
  }
  const V scale = V::set(1.0f / total);
  for (int c = 0; c < kVectors; ++c) (sum[c] * scale).store(out + c * V::kLanes);
}

template <class V>
void narrow(const float* from, int count, uint16_t* to) {
  for (int i = 0; i < count; i += V::kLanes) V::load(from + i).store_half(to + i);
}

template <class V>
float log_sum_exp(const float* x, int count) {
  const float most = largest_of<V>(x, count);
  if (most == -std::numeric_limits<float>::infinity()) return most;
  return most + std::log(exp_and_sum<V>(x, count, most, nullptr));
}

template <class V>
constexpr GemvKernels make_gemv_kernels() {
  return {multiply<V>, pack<V>,   quantize_row<V>, widen_row<V>,
          attend<V>,   narrow<V>, largest_of<V>,   log_sum_exp<V>};
}

}  // namespace
}  // namespace whisperxdna2
