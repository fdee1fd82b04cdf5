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
  int length;            // in steps
  bool last;
  int32_t* sums;         // [rows][panel] of the unfinished product
  // Inputs in planes: what split() wrote of this part.
  const uint8_t* hi;     // first row, first step
  const int32_t* steps;  // of the first row: those of which hi has bytes
  const int32_t* count;  // of the first row: how many they are; rows at `parts`
  int parts;
};

// R rows by one panel of C vectors.
template <class V, Int8Format F, bool kPlanes, int R, int C>
inline void int8_block(const Int8GemmTask& t, const Part& part, const OutputVectors<V>& output, int row, int panel) {
  constexpr int kPanel = C * V::kLanes;
  const uint8_t* a = part.a + row * t.a_stride;
  const uint8_t* b = part.b;
  int32_t* sums = part.sums + row * kPanel;
  V sum[R][C];
  if constexpr (kPlanes) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) sum[r][c] = V::set(0);
    }
    const uint8_t* hi = part.hi + static_cast<ptrdiff_t>(row) * t.k;
    const int32_t* steps = part.steps + static_cast<ptrdiff_t>(row) * t.k / 4;
    const int count = part.count[row * part.parts];
    for (int i = 0; i < count; ++i, hi += 4) {
      const uint8_t* w = b + static_cast<ptrdiff_t>(4) * kPanel * steps[i];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V x = V::broadcast(hi + static_cast<ptrdiff_t>(r) * t.k);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) sum[r][c].add_quads(x, w + 4 * c * V::kLanes);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      const V before = V::load(sums + r * kPanel + c * V::kLanes);
      if constexpr (kPlanes) {
        sum[r][c] = V::add(V::template shift_left<8>(sum[r][c]), before);
      } else {
        sum[r][c] = before;
      }
    }
  }
  for (int step = 0; step < part.length; ++step, a += 4, b += 4 * kPanel) {
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
          v.store_int8(static_cast<int8_t*>(t.y) + at);
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
template <class V, Int8Format F, bool kPlanes, int R, int C>
inline void int8_rows(const Int8GemmTask& t, const Part& part, const OutputVectors<V>& output, int row, int panel) {
  for (; row + R <= t.rows; row += R) int8_block<V, F, kPlanes, R, C>(t, part, output, row, panel);
  if constexpr (R > 1) {
    if (row < t.rows) int8_rows<V, F, kPlanes, R - 1, C>(t, part, output, row, panel);
  }
}

// R rows and C vectors of columns make a block, as many as the instruction set has registers for.
template <class V, Int8Format F, int R, int C>
void int8_gemm(const Int8GemmTask& t) {
  constexpr int kPanel = C * V::kLanes;
  constexpr int kPartSteps = V::kPartBytes / (4 * kPanel);
  alignas(64) int16_t widened[F == Int8Format::kPairs ? V::kPartBytes / 2 : 1];
  alignas(64) int32_t sums[kInt8TaskRows * kPanel];
  const OutputVectors<V> output(t.stage);
  const int steps = t.k / steps_k(F);
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    const int8_t* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
    for (int r = 0; r < t.rows; ++r) std::memcpy(sums + r * kPanel, t.start + panel * kPanel, kPanel * sizeof *sums);
    for (int done = 0; done < steps; done += kPartSteps) {
      Part part{};
      part.a = t.a + ptrdiff_t{4} * done;
      part.length = steps - done < kPartSteps ? steps - done : kPartSteps;
      part.last = done + part.length == steps;
      part.sums = sums;
      if constexpr (F == Int8Format::kPairs) {
        V::widen(b + static_cast<ptrdiff_t>(2) * kPanel * done, widened, 2 * kPanel * part.length);
        part.b = reinterpret_cast<const uint8_t*>(widened);
      } else {
        part.b = reinterpret_cast<const uint8_t*>(b) + static_cast<ptrdiff_t>(4) * kPanel * done;
      }
      int8_rows<V, F, false, R, C>(t, part, output, 0, panel);
    }
  }
}

// 14-bit inputs as bytes: x = least + 256 hi + lo, where `least` is the smallest of the row, so that
//   sum x w = least * sum w + 256 sum hi w + sum lo w
// with unsigned bytes hi and lo. After GELU few inputs are far above the smallest: nearly all hi are zero, and the steps
// of a block of rows in which they all are is left out.
struct Planes {
  uint8_t* lo;     // [rows][k]
  uint8_t* hi;     // [rows][k]: from the first step of a part on, a row's bytes of the steps that are not left out
  int32_t* steps;  // [rows][k / 4]: which steps of the part those are; in the first row of a block
  int32_t* count;  // [rows][parts]: how many they are; in the first row of a block
  int32_t least[kInt8TaskRows];
};

template <class V, int R>
inline void split_rows(const Int8GemmTask& t, Planes* planes, int part_inputs, int row) {
  for (; row + R <= t.rows; row += R) {
    const uint8_t* a = t.a + row * t.a_stride;
    for (int r = 0; r < R; ++r) planes->least[row + r] = V::least_of(a + r * t.a_stride, t.k);
    const int parts = (t.k + part_inputs - 1) / part_inputs;
    for (int p = 0; p < parts; ++p) {
      const int first = p * part_inputs, inputs = t.k - first < part_inputs ? t.k - first : part_inputs;
      const ptrdiff_t at = static_cast<ptrdiff_t>(row) * t.k + first;
      planes->count[row * parts + p] = V::template split<R>(a + 2 * first, t.a_stride, inputs, planes->least + row,
                                                            planes->lo + at, planes->hi + at, t.k, planes->steps + at / 4);
    }
  }
  if constexpr (R > 1) {
    if (row < t.rows) split_rows<V, R - 1>(t, planes, part_inputs, row);
  }
}

template <class V, int R, int C>
void int8_gemm_in_planes(const Int8GemmTask& t) {
  constexpr int kPanel = C * V::kLanes;
  constexpr int kPartInputs = V::kPartBytes / kPanel;
  alignas(64) int32_t sums[kInt8TaskRows * kPanel];
  const OutputVectors<V> output(t.stage);
  const ptrdiff_t size = static_cast<ptrdiff_t>(kInt8TaskRows) * t.k;
  Planes planes;
  planes.lo = t.scratch;
  planes.hi = t.scratch + size;
  planes.steps = reinterpret_cast<int32_t*>(t.scratch + 2 * size);
  planes.count = reinterpret_cast<int32_t*>(t.scratch + 3 * size);
  split_rows<V, R>(t, &planes, kPartInputs, 0);
  Int8GemmTask lo = t;
  lo.a = planes.lo;
  lo.a_stride = t.k;
  for (int panel = t.first_panel; panel < t.last_panel; ++panel) {
    const int8_t* b = t.b + static_cast<ptrdiff_t>(panel) * kPanel * t.k;
    for (int r = 0; r < t.rows; ++r) {
      for (int c = 0; c < kPanel; c += V::kLanes) {
        const V least = V::multiply32(V::load(t.weight_sum + panel * kPanel + c), V::set(planes.least[r]));
        V::add(V::load(t.start + panel * kPanel + c), least).store(sums + r * kPanel + c);
      }
    }
    Part part{};
    part.sums = sums;
    part.parts = (t.k + kPartInputs - 1) / kPartInputs;
    for (int p = 0; p < part.parts; ++p) {
      const int first = p * kPartInputs;
      part.a = planes.lo + first;
      part.b = reinterpret_cast<const uint8_t*>(b) + static_cast<ptrdiff_t>(kPanel) * first;
      part.length = (t.k - first < kPartInputs ? t.k - first : kPartInputs) / 4;
      part.last = p + 1 == part.parts;
      part.hi = planes.hi + first;
      part.steps = planes.steps + first / 4;
      part.count = planes.count + p;
      int8_rows<V, Int8Format::kQuads, true, R, C>(lo, part, output, 0, panel);
    }
  }
}

}  // namespace
}  // namespace whisperxdna2
