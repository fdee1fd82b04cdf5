// Multi-head self attention with products of bf16, in tiles.
#pragma once

#include <cstdint>

#include "kernels/cpu/aligned_vector.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/bf16_kernels.h"

namespace whisperxdna2 {

// Scratch memory of bf16_attention(), kept between calls. One per caller.
struct BF16AttentionScratch {
  AlignedVector<uint16_t> keys, values;
};

// As attention(): scores, their maximum and their sum are f32, the weights of the values bf16.
void bf16_attention(const uint16_t* qkv, int rows, int heads, uint16_t* out, BF16AttentionScratch* scratch,
                    const Workers& workers, const BF16Kernels& kernels = bf16_kernels());

}  // namespace whisperxdna2
