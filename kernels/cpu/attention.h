// Multi-head self attention in f32, in tiles: no score matrix of all rows exists.
#pragma once

#include "kernels/arithmetic.h"
#include "kernels/cpu/aligned_vector.h"
#include "kernels/cpu/f32_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

// Scratch memory of attention(), kept between calls. One per caller.
struct AttentionScratch {
  AlignedVector<float> keys, values;
};

// out = softmax(q k^T) v for each head, without a mask. qkv: queries (already scaled by 1/8), keys and values,
// [rows][3 * heads * 64]. out: [rows][heads * 64]. The result does not depend on the number of threads.
void attention(const float* qkv, int rows, int heads, float* out, AttentionScratch* scratch, const Workers& workers,
               const F32Kernels& kernels = f32_kernels());

}  // namespace whisperxdna2
