// The integer product, written once for any vector type V of int8_simd.h. Included by one file for each instruction set.
#pragma once

#include <cstring>

#include "kernels/cpu/int8_kernels.h"
#include "kernels/cpu/int8_simd.h"

namespace whisperxdna2 {
namespace {

// Bytes of weights in use at a time, for all rows of a task: half of the first cache. Longer sums are done in parts, the
// unfinished ones kept aside; integers do not mind.
constexpr int kPartBytes = 16384;

struct Part {
  const uint8_t* a;      // first row, first step
  const uint8_t* b;      // [steps][panel][4 bytes], widened for kPairs
  int steps;
  bool last;
  int32_t* sums;         // [rows][panel] of the unfinished product
};

// R rows by one panel of C vectors.
template <class V, Int8Format F, int R, int C>
inline void int8_block(const Int8GemmTask& t, const Part& part, const OutputVectors<V>& output, int row, int panel) {
  constexpr int kPanel = C * V::kLanes;
  const uint8_t* a = part.a + row * t.a_stride;
  const uint8_t* b = part.b;
  int32_t* sums = part.sums + row * kPanel;
  V sum[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) sum[r][c] = V::load(sums + r * kPanel + c * V::kLanes);
  }
  for (int step = 0; step < part.steps; ++step, a += 4, b += 4 * kPanel) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V x = V::broadcast(a + r * t.a_stride);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        if constexpr (F == Int8Format::kPairs) {
          sum[r][c].add_pairs(x, b + 4 * c * V::kLanes);
        } else {
          sum[r][c].add_quads(x, b + 4 * c * V::kLanes);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) sum[r][c].store(sums + r * kPanel + c * V::kLanes);
  }
  if (!part.last) return;
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) {
      const int n = panel * kPanel + c * V::kLanes;
      const V v = output(V::load(sums + r * kPanel + c * V::kLanes), t.multiplier + n);
      const ptrdiff_t at = (row + r) * t.y_stride + n;
      switch (t.stage.mode) {
        case OutputMode::kInt8:
          v.store_scaled(t.scale + n, static_cast<float*>(t.y) + at);
          break;
        case OutputMode::kInt16:
          v.add_scaled(t.scale + n, static_cast<float*>(t.y) + at);
          break;
        case OutputMode::kGelu14:
          v.store_int16(static_cast<int16_t*>(t.y) + at);
          break;
      }
    }
  }
}

// Rows in blocks of R; the rest one size smaller.
template <class V, Int8Format F, int R, int C>
inline void int8_rows(const Int8GemmTask& t, const Part& part, const OutputVectors<V>& output, int row, int panel) {
  for (; row + R <= t.rows; row += R) int8_block<V, F, R, C>(t, part, output, row, panel);
  if constexpr (R > 1) {
    if (row < t.rows) int8_rows<V, F, R - 1, C>(t, part, output, row, panel);
  }
}

// R rows and C vectors of columns make a block, as many as the instruction set has registers for.
template <class V, Int8Format F, int R, int C>
void int8_gemm(const Int8GemmTask& t) {
  constexpr int kPanel = C * V::kLanes;
  constexpr int kPartSteps = kPartBytes / (4 * kPanel);
  alignas(64) int16_t widened[F == Int8Format::kPairs ? kPartBytes / 2 : 1];
  alignas(64) int32_t sums[kInt8TaskRows * kPanel];
  const OutputVectors<V> output(t.stage);
  const int steps = t.k / steps_k(F);
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    const int8_t* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
    for (int r = 0; r < t.rows; ++r) std::memcpy(sums + r * kPanel, t.start + panel * kPanel, kPanel * sizeof *sums);
    for (int done = 0; done < steps; done += kPartSteps) {
      Part part{};
      part.a = t.a + ptrdiff_t{4} * done;
      part.steps = steps - done < kPartSteps ? steps - done : kPartSteps;
      part.last = done + part.steps == steps;
      part.sums = sums;
      if constexpr (F == Int8Format::kPairs) {
        V::widen(b + static_cast<ptrdiff_t>(2) * kPanel * done, widened, 2 * kPanel * part.steps);
        part.b = reinterpret_cast<const uint8_t*>(widened);
      } else {
        part.b = reinterpret_cast<const uint8_t*>(b) + static_cast<ptrdiff_t>(4) * kPanel * done;
      }
      int8_rows<V, F, R, C>(t, part, output, 0, panel);
    }
  }
}

}  // namespace
}  // namespace whisperxdna2
