// Rows of activations between f32 and the byte planes the NPU reads and writes: the numbers of kernels/arithmetic.h.
// Needs AVX2, which every processor with an XDNA2 NPU has. n: a multiple of 32.
#pragma once

#include <cstdint>

namespace whisperxdna2::npu {

// to[i] = quantize(x[i], inverse_scale, kInt8Limit)
void quantize_row(const float* x, int n, float inverse_scale, int8_t* to);
// x[i] += scale[i] * join16(hi[i], lo[i]), product and sum each rounded
void add_row(const int8_t* hi, const uint8_t* lo, const float* scale, int n, float* x);

}  // namespace whisperxdna2::npu
