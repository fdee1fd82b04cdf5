// The f32 kernels, written once for any vector type V of simd.h. Included by one file for each instruction set.
#pragma once

#include <cmath>

#include "kernels/cpu/f32_kernels.h"
#include "kernels/cpu/row_blocks.h"
#include "kernels/cpu/simd.h"

namespace whisperxdna2 {
namespace {

constexpr int kPanelVectors = 2;  // vectors in a panel's row

// The rows of a panel fetch the next one ahead, which lies behind it: of the bytes of a step each row this many.
inline int bytes_ahead(int bytes_of_step, int rows) { return (bytes_of_step + rows - 1) / rows; }
// Where a row begins.
inline const char* fetched_ahead(const void* next_panel, int ahead, int row, int steps) {
  return static_cast<const char*>(next_panel) + static_cast<ptrdiff_t>(row) * ahead * steps;
}

// R rows by one panel. The sum over k stays in registers: 2 R accumulators, two vectors of b, one value of a.
template <class V, int R>
inline void gemm_block(const GemmTask& t, int ahead, int row, int panel) {
  constexpr int kPanel = kPanelVectors * V::kLanes;
  const float* a = t.a + row * t.a_stride;
  const float* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
  V sum[R][kPanelVectors];
  for (int c = 0; c < kPanelVectors; ++c) {
    const V start = t.bias ? V::load(t.bias + panel * kPanel + c * V::kLanes) : V::set(0);
    for (int r = 0; r < R; ++r) sum[r][c] = start;
  }
  const char* next = fetched_ahead(b + static_cast<ptrdiff_t>(kPanel) * t.k, ahead, row, t.k);
  for (int k = 0; k < t.k; ++k, b += kPanel, next += R * ahead) {
    if constexpr (V::kPrefetches) __builtin_prefetch(next, 0, 2);
    V column[kPanelVectors];
    for (int c = 0; c < kPanelVectors; ++c) column[c] = V::load(b + c * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V x = V::set(a[r * t.a_stride + k]);
      for (int c = 0; c < kPanelVectors; ++c) sum[r][c] = V::fma(x, column[c], sum[r][c]);
    }
  }
  const int width = t.n - panel * kPanel;  // valid columns
  for (int r = 0; r < R; ++r) {
    float* y = t.y + (row + r) * t.y_stride + panel * kPanel;
    float edge[kPanel];
    float* out = y;
    if (width < kPanel) {
      out = edge;
      if (t.epilogue == Epilogue::kAdd) {
        for (int c = 0; c < kPanel; ++c) edge[c] = c < width ? y[c] : 0;
      }
    }
    for (int c = 0; c < kPanelVectors; ++c) {
      V v = sum[r][c];
      switch (t.epilogue) {
        case Epilogue::kNone:
          break;
        case Epilogue::kGelu:
          v = gelu(v);
          break;
        case Epilogue::kAdd:
          v = v + V::load(out + c * V::kLanes);
          break;
        case Epilogue::kScaleRow:
          v = v * V::set(t.row_scale[row + r]);
          break;
      }
      v.store(out + c * V::kLanes);
    }
    if (width < kPanel) {
      for (int c = 0; c < width; ++c) y[c] = edge[c];
    }
  }
}

template <class V, int R>
void gemm(const GemmTask& t) {
  const int ahead = bytes_ahead(kPanelVectors * V::kLanes * sizeof(float), t.rows);
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    for_row_blocks<R>(t.rows, [&](auto n, int row) { gemm_block<V, n>(t, ahead, row, panel); });
  }
}

template <class V>
inline float largest_of(const float* x, int count) {
  float most = x[0];
  int c = 0;
  if (count >= 4 * V::kLanes) {
    V m[4];
    for (int i = 0; i < 4; ++i) m[i] = V::load(x + i * V::kLanes);
    for (c = 4 * V::kLanes; c + 4 * V::kLanes <= count; c += 4 * V::kLanes) {
      for (int i = 0; i < 4; ++i) m[i] = V::max(m[i], V::load(x + c + i * V::kLanes));
    }
    most = V::max(V::max(m[0], m[1]), V::max(m[2], m[3])).largest();
  }
  for (; c < count; ++c) most = x[c] > most ? x[c] : most;
  return most;
}

template <class V>
void softmax(float* scores, ptrdiff_t stride, int count, int columns, float* inverse) {
  const int whole = columns / V::kLanes * V::kLanes;
  for (int r = 0; r < count; ++r) {
    float* x = scores + r * stride;
    const float most = largest_of<V>(x, columns);
    V sum = V::set(0);
    for (int c = 0; c < whole; c += V::kLanes) {
      const V e = exp(V::load(x + c) - V::set(most));
      e.store(x + c);
      sum = sum + e;
    }
    float total = sum.sum();
    for (int c = whole; c < columns; ++c) {
      x[c] = exp(F32x1::set(x[c] - most)).v;
      total += x[c];
    }
    inverse[r] = 1.0f / total;
  }
}

// The sum of of(vector) over a row of `width` (a multiple of 16), in four chains, which need not wait for each other.
template <class V, class Of>
inline float sum_over(const float* x, int width, const Of& of) {
  V sum[4] = {V::set(0), V::set(0), V::set(0), V::set(0)};
  int c = 0;
  for (; c + 4 * V::kLanes <= width; c += 4 * V::kLanes) {
    for (int i = 0; i < 4; ++i) sum[i] = of(V::load(x + c + i * V::kLanes), sum[i]);
  }
  for (; c < width; c += V::kLanes) sum[0] = of(V::load(x + c), sum[0]);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])).sum();
}

template <class V>
void layer_norm(const float* x, int rows, int width, const float* gain, const float* bias, float* y) {
  constexpr float kEpsilon = 1e-5f;
  for (int r = 0; r < rows; ++r, x += width, y += width) {
    const float sum = sum_over<V>(x, width, [](V v, V before) { return before + v; });
    const V mean = V::set(sum / static_cast<float>(width));
    const float square = sum_over<V>(x, width, [&](V v, V before) {
      const V d = v - mean;
      return V::fma(d, d, before);
    });
    const V scale = V::set(1.0f / std::sqrt(square / static_cast<float>(width) + kEpsilon));
    for (int c = 0; c < width; c += V::kLanes) {
      V::fma((V::load(x + c) - mean) * scale, V::load(gain + c), V::load(bias + c)).store(y + c);
    }
  }
}

template <class V>
void add(float* y, const float* x, size_t count) {
  size_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) (V::load(y + i) + V::load(x + i)).store(y + i);
  for (; i < count; ++i) y[i] += x[i];
}

// R: rows of a block, as many as the instruction set has registers for.
template <class V, int R>
constexpr F32Kernels make_f32_kernels() {
  return {kPanelVectors * V::kLanes, gemm<V, R>, softmax<V>, layer_norm<V>, add<V>};
}

}  // namespace
}  // namespace whisperxdna2
