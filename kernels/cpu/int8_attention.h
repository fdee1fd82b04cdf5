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
};

// What turns the integers of a layer into the next layer's.
struct Int8AttentionUnits {
  const float* score;   // [heads] unit of a query times a key
  const float* result;  // [heads * 64] the results become quantize(result, this, kInt8Limit)
};

// Attention without a mask for each head, as kernels/arithmetic.h defines it. qkv: queries, keys and values, [rows][3 * heads *
// 64], rows at `stride`. out: [rows][heads * 64] in `format`, rows at out_stride bytes. The result is the same for any number
// of threads and any kernels.
void int8_attention(const int8_t* qkv, ptrdiff_t stride, int rows, int heads, const Int8AttentionUnits& units, uint8_t* out,
                    ptrdiff_t out_stride, Int8Format format, Int8AttentionScratch* scratch, const Workers& workers,
                    const Int8Kernels& kernels = int8_kernels());

}  // namespace whisperxdna2
