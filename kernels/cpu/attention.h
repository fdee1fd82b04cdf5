// Multi-head self attention in f32, in tiles: no score matrix of all rows exists.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/aligned_vector.h"
#include "kernels/cpu/f32_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

constexpr int kHeadWidth = 64;  // of every Whisper model

// Scratch memory of attention(), kept between calls. One per caller.
struct AttentionScratch {
  AlignedVector<float> keys, values;
};

// Queries, keys and values of rows at `stride`, [3 * heads * 64] each. The queries are already scaled by 1/8.
struct AttentionInput {
  const float* values;  // or null, where each number is that of `integers` times the scale of its column
  ptrdiff_t stride;
  const int8_t* integers = nullptr;
  const float* scale = nullptr;
};

// out = softmax(q k^T) v for each head, without a mask. out: [rows][heads * 64]. The result depends neither on the number of
// threads nor on how the same numbers were given.
void attention(const AttentionInput& qkv, int rows, int heads, float* out, AttentionScratch* scratch, const Workers& workers,
               const F32Kernels& kernels = f32_kernels());

}  // namespace whisperxdna2
