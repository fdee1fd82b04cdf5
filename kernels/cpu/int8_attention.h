// Multi-head self attention in integers, in tiles: no score matrix of all rows exists.
#pragma once

#include "kernels/cpu/aligned_vector.h"
#include "kernels/cpu/int8_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

// Scratch memory of int8_attention(), kept between calls. One per caller.
struct Int8AttentionScratch {
  AlignedVector<uint8_t> keys;
  AlignedVector<int32_t> key_start;
  AlignedVector<int16_t> values;
  AlignedVector<float> results;  // [rows][heads * 64]
};

struct Int8AttentionUnits {
  const float* score;  // [heads] of a query times a key
  const float* value;  // [heads * 64] of the values
};

// The inputs of a layer with a unit for each row.
struct Int8Rows {
  uint8_t* values;  // rows at `stride` bytes
  ptrdiff_t stride;
  Int8Input input;
  float* unit;  // [rows]
};

// Attention without a mask for each head, as kernels/arithmetic.h defines it. qkv: queries, keys and values,
// [rows][3 * heads * 64], rows at `stride`. out: [rows][heads * 64]. The result is the same for any number of threads
// and any kernels.
void int8_attention(const int8_t* qkv, ptrdiff_t stride, int rows, int heads, const Int8AttentionUnits& units,
                    const Int8Rows& out, Int8AttentionScratch* scratch, const Workers& workers,
                    const Int8Kernels& kernels = int8_kernels());

}  // namespace whisperxdna2
