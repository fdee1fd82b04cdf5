// The integer product, written once for any vector type V of int8_simd.h. Included by one file for each instruction set.
#pragma once

#include <cstring>

#include "kernels/cpu/int8_kernels.h"
#include "kernels/cpu/int8_simd.h"

namespace whisperxdna2 {
namespace {

// Longer sums are done in parts, the unfinished ones kept aside; integers do not mind.
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

// A panel for all rows of a task; `sums` hold what the products are added to. V::kPartBytes of weights are in use at a time.
template <class V, Int8Format F, int R, int C>
inline void int8_panel(const Int8GemmTask& t, const OutputVectors<V>& output, int panel, int32_t* sums) {
  constexpr int kPanel = C * V::kLanes;
  constexpr int kPartSteps = V::kPartBytes / (4 * kPanel);
  alignas(64) int16_t widened[F == Int8Format::kPairs ? V::kPartBytes / 2 : 1];
  const int steps = t.k / steps_k(F);
  const int8_t* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
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

// R rows and C vectors of columns make a block, as many as the instruction set has registers for.
template <class V, Int8Format F, int R, int C>
void int8_gemm(const Int8GemmTask& t) {
  constexpr int kPanel = C * V::kLanes;
  alignas(64) int32_t sums[kInt8TaskRows * kPanel];
  const OutputVectors<V> output(t.stage);
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    for (int r = 0; r < t.rows; ++r) std::memcpy(sums + r * kPanel, t.start + panel * kPanel, kPanel * sizeof *sums);
    int8_panel<V, F, R, C>(t, output, panel, sums);
  }
}

// 14-bit inputs as bytes: x = least + 256 hi + lo, where `least` is the smallest of the row, so that
//   sum x w = least * sum w + 256 sum hi w + sum lo w
// with unsigned bytes hi and lo. After GELU few inputs are far above the smallest: nearly all hi are zero, and the steps of a
// block of rows in which they all are is left out.
struct Planes {
  uint8_t* lo;     // [rows][k]
  uint8_t* hi;     // [rows][k]: a row's bytes of the steps of its block that are not left out
  int32_t* steps;  // [rows][k / 4]: which steps those are; in the first row of a block
  int32_t least[kInt8TaskRows];
  int count[kInt8TaskRows];  // of steps; of the first row of a block
};

template <class V, int R>
inline void split_rows(const Int8GemmTask& t, Planes* planes, int row) {
  for (; row + R <= t.rows; row += R) {
    const uint8_t* a = t.a + row * t.a_stride;
    for (int r = 0; r < R; ++r) planes->least[row + r] = V::least_of(a + r * t.a_stride, t.k);
    const ptrdiff_t at = static_cast<ptrdiff_t>(row) * t.k;
    planes->count[row] =
        V::template split<R>(a, t.a_stride, t.k, planes->least + row, planes->lo + at, planes->hi + at, planes->steps + at / 4);
  }
  if constexpr (R > 1) {
    if (row < t.rows) split_rows<V, R - 1>(t, planes, row);
  }
}

// sums = start + least * sum w + 256 sum hi w
template <class V, int R, int C>
inline void start_rows(const Int8GemmTask& t, const Planes& planes, int row, int panel, int32_t* sums) {
  constexpr int kPanel = C * V::kLanes;
  const int8_t* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
  for (; row + R <= t.rows; row += R) {
    const uint8_t* hi = planes.hi + static_cast<ptrdiff_t>(row) * t.k;
    const int32_t* steps = planes.steps + static_cast<ptrdiff_t>(row) * t.k / 4;
    V sum[R][C];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) sum[r][c] = V::set(0);
    }
    for (int i = 0; i < planes.count[row]; ++i, hi += 4) {
      const int8_t* w = b + static_cast<ptrdiff_t>(4) * kPanel * steps[i];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V x = V::broadcast(hi + static_cast<ptrdiff_t>(r) * t.k);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) sum[r][c].add_quads(x, w + 4 * c * V::kLanes);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V least = V::set(planes.least[row + r]);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        const int n = panel * kPanel + c * V::kLanes;
        const V start = V::add(V::load(t.start + n), V::multiply32(V::load(t.weight_sum + n), least));
        V::add(V::template shift_left<8>(sum[r][c]), start).store(sums + (row + r) * kPanel + c * V::kLanes);
      }
    }
  }
  if constexpr (R > 1) {
    if (row < t.rows) start_rows<V, R - 1, C>(t, planes, row, panel, sums);
  }
}

template <class V, int R, int C>
void int8_gemm_in_planes(const Int8GemmTask& t) {
  alignas(64) int32_t sums[kInt8TaskRows * C * V::kLanes];
  const OutputVectors<V> output(t.stage);
  const ptrdiff_t size = static_cast<ptrdiff_t>(kInt8TaskRows) * t.k;
  Planes planes;
  planes.lo = t.scratch;
  planes.hi = t.scratch + size;
  planes.steps = reinterpret_cast<int32_t*>(t.scratch + 2 * size);
  split_rows<V, R>(t, &planes, 0);
  Int8GemmTask lo = t;
  lo.a = planes.lo;
  lo.a_stride = t.k;
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    start_rows<V, R, C>(t, planes, 0, panel, sums);
    int8_panel<V, Int8Format::kQuads, R, C>(lo, output, panel, sums);
  }
}

}  // namespace
}  // namespace whisperxdna2
