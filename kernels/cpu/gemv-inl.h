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
void attend_head(const float* query, const float* keys, const float* values, ptrdiff_t stride, int count, int width,
                 float* scores, float* weights, float* out) {
  float most = -std::numeric_limits<float>::infinity();
  for (int t = 0; t < count; ++t) {
    V sum = V::set(0);
    for (int c = 0; c < width; c += V::kLanes) sum = V::fma(V::load(query + c), V::load(keys + t * stride + c), sum);
    scores[t] = sum.sum();
    most = scores[t] > most ? scores[t] : most;
  }
  float total = 0;
  int t = 0;
  V sum = V::set(0);
  for (; t + V::kLanes <= count; t += V::kLanes) {
    const V e = exp(V::load(scores + t) - V::set(most));
    e.store(weights + t);
    sum = sum + e;
  }
  total = sum.sum();
  for (; t < count; ++t) total += weights[t] = exp(F32x1::set(scores[t] - most)).v;
  const V scale = V::set(1.0f / total);
  for (int c = 0; c < width; c += 2 * V::kLanes) {
    if (c + V::kLanes < width) {
      V a = V::set(0), b = V::set(0);
      for (int i = 0; i < count; ++i) {
        const V p = V::set(weights[i]);
        a = V::fma(p, V::load(values + i * stride + c), a);
        b = V::fma(p, V::load(values + i * stride + c + V::kLanes), b);
      }
      (a * scale).store(out + c);
      (b * scale).store(out + c + V::kLanes);
    } else {
      V a = V::set(0);
      for (int i = 0; i < count; ++i) a = V::fma(V::set(weights[i]), V::load(values + i * stride + c), a);
      (a * scale).store(out + c);
    }
  }
}

template <class V>
float log_sum_exp_of(const float* x, int count) {
  float most = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < count; ++i) most = x[i] > most ? x[i] : most;
  if (most == -std::numeric_limits<float>::infinity()) return most;
  V sum = V::set(0);
  int i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) sum = sum + exp(V::load(x + i) - V::set(most));
  float total = sum.sum();
  for (; i < count; ++i) total += exp(F32x1::set(x[i] - most)).v;
  return most + std::log(total);
}

template <class V>
constexpr GemvKernels make_gemv_kernels() {
  return {{multiply_rows<V, AsF32<V>>, multiply_rows<V, AsHalf<V>>, multiply_rows<V, AsBF16<V>>},
          attend_head<V>,
          log_sum_exp_of<V>};
}

}  // namespace
}  // namespace whisperxdna2
