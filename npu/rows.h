// Rows of results in the byte planes that the NPU writes: the numbers of kernels/arithmetic.h.
// Needs AVX2, which every processor with an XDNA2 NPU has. n: a multiple of 8.
#pragma once

#include <cstdint>

namespace whisperxdna2::npu {

// x[i] += scale[i] * join16(hi[i], lo[i]), product and sum each rounded
void add_row(const int8_t* hi, const uint8_t* lo, const float* scale, int n, float* x);
// x[i] += dequantize(join16(hi[i], lo[i]), scale[i], row_unit, bias[i])
void add_row(const int8_t* hi, const uint8_t* lo, const float* scale, float row_unit, const float* bias, int n,
             float* x);

}  // namespace whisperxdna2::npu
