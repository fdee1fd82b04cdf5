// The kernels of gemv.h for any vector type V of simd.h. Included by one file for each instruction set.
#pragma once

#include <limits>

#include "kernels/cpu/gemv.h"
#include "kernels/cpu/gemv_kernels.h"
#include "kernels/cpu/simd.h"

namespace whisperxdna2 {
namespace {

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

template <class V, class As>
void multiply_rows(const MultiplyTask& t) {
  constexpr int kBlock = 8;
  const auto* w = static_cast<const typename As::Stored*>(t.w);
  for (int n = t.first; n < t.last; n += kBlock) {
    const int count = t.last - n < kBlock ? t.last - n : kBlock;
    for (int r = 0; r < t.rows; ++r) {
      const float* x = t.x + r * t.x_stride;
      float sums[kBlock];
      if (count == kBlock) {
        dot_rows<V, As, kBlock>(w + static_cast<ptrdiff_t>(n) * t.in, t.in, x, sums);
      } else {
        for (int i = 0; i < count; ++i) dot_rows<V, As, 1>(w + static_cast<ptrdiff_t>(n + i) * t.in, t.in, x, sums + i);
      }
      float* y = t.y + r * t.y_stride + n;
      for (int i = 0; i < count; ++i) {
        float v = sums[i] + (t.bias ? t.bias[n + i] : 0.0f);
        if (t.epilogue == Epilogue::kGelu) v = gelu(F32x1::set(v)).v;
        y[i] = t.epilogue == Epilogue::kAdd ? y[i] + v : v;
      }
    }
  }
}

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
void attend_head(const float* query, const uint16_t* keys, const uint16_t* values, int count, float* scores,
                 float* weights, float* out) {
  constexpr int kVectors = kHeadWidth / V::kLanes;
  for (int t = 0; t < count; ++t) {
    V sum = V::set(0);
    for (int c = 0; c < kHeadWidth; c += V::kLanes) {
      sum = V::fma(V::load(query + c), V::load_half(keys + static_cast<ptrdiff_t>(t) * kHeadWidth + c), sum);
    }
    scores[t] = sum.sum();
  }
  const float total = exp_and_sum<V>(scores, count, largest_of<V>(scores, count), weights);
  V sum[kVectors];
  for (int c = 0; c < kVectors; ++c) sum[c] = V::set(0);
  for (int t = 0; t < count; ++t) {
    const V w = V::set(weights[t]);
    const uint16_t* value = values + static_cast<ptrdiff_t>(t) * kHeadWidth;
    for (int c = 0; c < kVectors; ++c) sum[c] = V::fma(w, V::load_half(value + c * V::kLanes), sum[c]);
  }
  const V scale = V::set(1.0f / total);
  for (int c = 0; c < kVectors; ++c) (sum[c] * scale).store(out + c * V::kLanes);
}

template <class V>
void narrow_row(const float* from, int count, uint16_t* to) {
  for (int i = 0; i < count; i += V::kLanes) V::load(from + i).store_half(to + i);
}

template <class V>
float log_sum_exp_of(const float* x, int count) {
  const float most = largest_of<V>(x, count);
  if (most == -std::numeric_limits<float>::infinity()) return most;
  return most + std::log(exp_and_sum<V>(x, count, most, nullptr));
}

template <class V>
constexpr GemvKernels make_gemv_kernels() {
  return {{multiply_rows<V, AsF32<V>>, multiply_rows<V, AsHalf<V>>, multiply_rows<V, AsBF16<V>>},
          attend_head<V>,
          narrow_row<V>,
          largest_of<V>,
          log_sum_exp_of<V>};
}

}  // namespace
}  // namespace whisperxdna2
