// Multi-head self attention in f32, in tiles: no score matrix of all rows exists.
#pragma once

#include <cstddef>
#include "kernels/cpu/aligned_vector.h"
#include "kernels/cpu/f32_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

constexpr int kHeadWidth = 64;  // of every Whisper model

// Scratch memory of attention(), kept between calls. One per caller.
struct AttentionScratch {
  AlignedVector<float> keys, values;
};

// out = softmax(q k^T) v for each head, without a mask. qkv: [rows][3 * heads * 64], queries first, then keys, then values;
// the queries are already scaled by 1/8. out: [rows][heads * 64]. The result does not depend on the number of threads.
void attention(const float* qkv, int rows, int heads, float* out, AttentionScratch* scratch, const Workers& workers,
               const F32Kernels& kernels = f32_kernels());

}  // namespace whisperxdna2
