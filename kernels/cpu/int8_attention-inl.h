// Attention in integers, written once for any vector type V of int8_simd.h. Included by one file for each instruction
// set.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/cpu/int8_kernels-inl.h"
#include "kernels/cpu/row_blocks.h"

namespace whisperxdna2 {
namespace {

// int8 numbers in the format of a product.
template <Int8Format F>
inline void to_format(const int8_t* from, int count, uint8_t* to) {
  for (int i = 0; i < count; ++i) {
    if constexpr (F == Int8Format::kPairs) {
      const int16_t wide = from[i];
      std::memcpy(to + 2 * i, &wide, sizeof wide);
    } else {
      to[i] = static_cast<uint8_t>(from[i] ^ -128);
    }
  }
}

// sum += R rows of a by C vectors of columns of b, over `steps` steps.
template <Int8Format F, class V, int R, int C>
inline void add_products(V (&sum)[R][C], const uint8_t* a, ptrdiff_t a_stride, const uint8_t* b, ptrdiff_t b_step,
                         int steps) {
  for (int step = 0; step < steps; ++step, a += 4, b += b_step) add_step<F>(sum, a, a_stride, b);
}

// Scores of R rows with a panel of keys. a: queries in F.
template <class V, Int8Format F, int R, int C>
inline void score_block(const Int8AttentionTask& t, const uint8_t* a, int row, int panel, ptrdiff_t columns) {
  constexpr int kPanel = C * V::kLanes, kRowBytes = kHeadWidth * static_cast<int>(element_size(F));
  int32_t* scores = t.scores + row * columns + panel * kPanel;
  V sum[R][C];
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
    const V start = V::load(t.key_start + panel * kPanel + c * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sum[r][c] = start;
  }
  add_products<F>(sum, a + row * kRowBytes, kRowBytes,
                  t.packed_keys + static_cast<ptrdiff_t>(panel) * kPanel * kRowBytes, 4 * kPanel, kRowBytes / 4);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) sum[r][c].store(scores + r * columns + c * V::kLanes);
  }
}

// Weighted sums of a panel of the values for R rows, into totals: the keys from `key` on, at most a block of them.
template <class V, int R, int C>
inline void value_block(const Int8AttentionTask& t, int row, int panel, int key, ptrdiff_t columns, float* totals) {
  constexpr int kPanel = C * V::kLanes;
  const int steps = (std::min(kAttentionBlock, t.keys - key) + 1) / 2;
  V sum[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) sum[r][c] = V::set(0);
  }
  add_products<Int8Format::kPairs>(
      sum, reinterpret_cast<const uint8_t*>(t.weights + row * columns + key), 2 * columns,
      reinterpret_cast<const uint8_t*>(t.values + key * kHeadWidth + 2 * panel * kPanel), 4 * kHeadWidth, steps);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float block[kPanel];
    float* to = totals + (row + r) * kHeadWidth + panel * kPanel;
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) sum[r][c].store_f32((key == 0 ? to : block) + c * V::kLanes);
    for (int i = 0; key > 0 && i < kPanel; ++i) to[i] += block[i];
  }
}

template <class V, Int8Format F, int R, int C>
void int8_attention_tile(const Int8AttentionTask& t) {
  constexpr int kPanel = C * V::kLanes, kRowBytes = kHeadWidth * static_cast<int>(element_size(F));
  const int panels = (t.keys + kPanel - 1) / kPanel;
  const ptrdiff_t columns = static_cast<ptrdiff_t>(panels) * kPanel;
  alignas(64) uint8_t queries[kInt8AttentionRows * kRowBytes];
  for (int r = 0; r < t.rows; ++r) to_format<F>(t.queries + r * t.stride, kHeadWidth, queries + r * kRowBytes);
  for (int panel = 0; panel < panels; ++panel) {
    for_row_blocks<R>(t.rows, [&](auto n, int row) { score_block<V, F, n, C>(t, queries, row, panel, columns); });
  }

  float inverse[kInt8AttentionRows];
  for (int r = 0; r < t.rows; ++r) {
    int32_t* scores = t.scores + r * columns;
    int16_t* weights = t.weights + r * columns;
    std::fill(scores + t.keys, scores + columns, scores[0]);  // what fills up the last panel is not the largest,
    const int32_t largest = V::largest(scores, static_cast<int>(columns));
    int32_t sum = V::weights(scores, static_cast<int>(columns), largest, t.steps_per_unit, weights);
    for (int i = t.keys; i < columns; ++i) {  // and weighs nothing
      sum -= weights[i];
      weights[i] = 0;
    }
    inverse[r] = 1.0f / static_cast<float>(sum);
  }

  alignas(64) float totals[kInt8AttentionRows * kHeadWidth];
  for (int key = 0; key < t.keys; key += kAttentionBlock) {
    for (int panel = 0; panel < kHeadWidth / kPanel; ++panel) {
      for_row_blocks<R>(t.rows, [&](auto n, int row) { value_block<V, n, C>(t, row, panel, key, columns, totals); });
    }
  }
  for (int r = 0; r < t.rows; ++r) {
    V::scale(totals + r * kHeadWidth, kHeadWidth, inverse[r], t.unit, t.out + r * t.out_stride);
  }
}

}  // namespace
}  // namespace whisperxdna2
