// The kernels in bf16 of one instruction set, as a table of plain functions: products of bf16 numbers, summed in f32.
// bf16_linear.h and bf16_attention.h are built on it. The instruction for it (AVX512-BF16) is not everywhere: elsewhere
// the same products are computed as f32, so that results differ by the order and rounding of sums only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/f32_kernels.h"

namespace whisperxdna2 {

// y[r][n] = epilogue(sum_k a[r][k] b[n][k] + bias[n]), for rows [0, rows) and the panels [first_panel, last_panel) of
// b.
struct BF16GemmTask {
  const uint16_t* a;       // rows at a_stride
  ptrdiff_t a_stride;
  int rows;
  const uint16_t* b;       // packed: panel p holds columns p * panel .. of all k, [k / 2][panel][2]
  int k, n;                // k is even, n a multiple of the panel
  int first_panel, last_panel;
  const float* bias;       // [n], or null
  void* y;                 // bf16 or float; rows at y_stride, column 0 = column 0 of b
  ptrdiff_t y_stride;      // in elements
  bool y_is_bf16;          // not for kAdd
  Epilogue epilogue;
  const float* row_scale;  // kScaleRow: [rows]
};

struct BF16Kernels {
  int panel;  // columns of a packed panel, a divisor of 64
  void (*gemm)(const BF16GemmTask& task);
  // Turns `count` rows of scores [count][columns] at `stride` into exp(x - max of the row) as bf16, [count][columns] at
  // `to_stride`, and puts 1 / sum into inverse.
  void (*softmax)(const float* scores, ptrdiff_t stride, int count, int columns, uint16_t* to, ptrdiff_t to_stride,
                  float* inverse);
  // To nearest, ties to even. No NaNs come in.
  void (*narrow)(const float* from, size_t count, uint16_t* to);
};

// Whether the instruction is used: the processor has it, and WHISPERXDNA2_ISA does not forbid it.
bool has_bf16_products();

// The table for an instruction set the processor has; by default the one in use. kAvx512 without the instruction is
// kAvx2.
const BF16Kernels& bf16_kernels(Isa isa);
const BF16Kernels& bf16_kernels();

}  // namespace whisperxdna2
