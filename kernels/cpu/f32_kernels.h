// The f32 kernels of one instruction set, as a table of plain functions; linear.h and attention.h are built on it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/cpu_features.h"

namespace whisperxdna2 {

// What happens to a product before it is stored.
enum class Epilogue {
  kNone,
  kGelu,      // y = gelu(product)
  kAdd,       // y += product
  kScaleRow,  // y = product * row_scale[row]
};

// y[r][n] = epilogue(sum_k a[r][k] b[n][k] + bias[n]), for rows [0, rows) and the panels [first_panel, last_panel) of
// b.
struct GemmTask {
  const float* a;          // rows at a_stride
  ptrdiff_t a_stride;
  int rows;
  const float* b;          // packed: panel p holds columns p * panel .. of all k, [k][panel], short panels zero-padded
  int k, n;
  int first_panel, last_panel;
  const float* bias;       // [n rounded up to a panel], or null
  float* y;                // rows at y_stride, column 0 = column 0 of b
  ptrdiff_t y_stride;
  Epilogue epilogue;
  const float* row_scale;  // kScaleRow: [rows]
};

struct F32Kernels {
  int panel;  // columns of a packed panel, a divisor of 64
  void (*gemm)(const GemmTask& task);
  // Turns `count` rows of scores [count][columns] at `stride` into exp(x - max of the row) and puts 1 / sum into
  // inverse.
  void (*softmax)(float* scores, ptrdiff_t stride, int count, int columns, float* inverse);
  // y = (x - mean) / sqrt(variance + 1e-5) * gain + bias for each of `rows` rows of `width` (a multiple of 16).
  void (*layer_norm)(const float* x, int rows, int width, const float* gain, const float* bias, float* y);
  // y += x
  void (*add)(float* y, const float* x, size_t count);
};

// The table for an instruction set the processor has; by default the one in use.
const F32Kernels& f32_kernels(Isa isa);
const F32Kernels& f32_kernels();

}  // namespace whisperxdna2
