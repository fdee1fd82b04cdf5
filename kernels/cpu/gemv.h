// Products of few rows with large matrices, what a text decoder does all day, and what goes with them. A table of plain
// functions for each instruction set; they run on the calling thread (steps.h divides their work among several).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/f32_kernels.h"

namespace whisperxdna2 {

enum class MatrixType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kInt8,  // one scale per row, packed
};

constexpr int kInt8PanelRows = 16;

// An [out][in] matrix that somebody else owns. in is a multiple of 16.
struct MatrixView {
  MatrixType type = MatrixType::kF32;
  // Row-major. kInt8: panels of kInt8PanelRows rows, [panel][in / 2][row][2], the last one filled up with zeros.
  const void* data = nullptr;
  int out = 0, in = 0;
  const float* scale = nullptr;  // kInt8: [out]; a weight is scale[n] * the stored number, which lies in +-127
};

// Bytes of the panels of an [out][in] kInt8 matrix.
constexpr size_t int8_panel_bytes(int out, int in) {
  return static_cast<size_t>((out + kInt8PanelRows - 1) / kInt8PanelRows) * kInt8PanelRows * in;
}

// Largest integer that a row of inputs is scaled to for a kInt8 matrix: 14 bits, and few enough that no sum of `in`
// products with +-127 leaves int32. So inputs lose nothing that matters (78 dB), the sums are exact, and every
// instruction set gives the same bits.
constexpr int input_limit(int in) {
  const int most = INT32_MAX / (127 * in);
  return most < 8191 ? most : 8191;
}

// y[r][n - first] = epilogue(sum_k w[n][k] x[r][k] + bias[n]) for outputs n in [first, last). Epilogues: kNone, kGelu,
// kAdd. A result does not depend on the other rows and outputs of the task. For kInt8 the sum is exact, then
// float(sum) * (scale[n] * unit[r]) + bias[n] with each operation rounded.
struct GemvTask {
  MatrixView w;
  int first, last;          // kInt8: first is a multiple of kInt8PanelRows
  const float* bias;        // [out], or null
  const float* x;           // rows at x_stride; not for kInt8
  ptrdiff_t x_stride;
  const int16_t* integers;  // kInt8: [rows][in] of quantize_row()
  const float* unit;        // kInt8: [rows]
  int rows;
  float* y;                 // rows at y_stride
  ptrdiff_t y_stride;
  Epilogue epilogue;
};

struct GemvKernels {
  void (*multiply)(const GemvTask& task);
  // Panels [first, last) of a kInt8 matrix and the scales of their rows, from one of another type. Each row's scale is
  // its largest magnitude / 127.
  void (*pack)(const MatrixView& from, int first, int last, int8_t* panels, float* scale);
  // to[k] = x[k] / unit, to nearest even, where the largest magnitude of the row becomes `limit`. Returns unit. count
  // is a multiple of 16.
  float (*quantize_row)(const float* x, int count, int limit, int16_t* to);
  // Row `row` of w as f32.
  void (*widen_row)(const MatrixView& w, int row, float* to);
  // One head's attention of one query over `count` half-precision keys and values, rows of kHeadWidth:
  // scores[t] = query . keys[rows[t]], out = softmax(scores) values; rows == null stands for 0, 1, ... `scores` keeps
  // the raw scores; `weights` is scratch, [count].
  void (*attend)(const float* query, const uint16_t* keys, const uint16_t* values, const int* rows, int count,
                 float* scores, float* weights, float* out);
  // Half precision, to nearest; what is too large becomes the largest half. count is a multiple of 16.
  void (*narrow)(const float* from, int count, uint16_t* to);
  float (*largest)(const float* x, int count);
  // log(sum(exp(x))): minus infinity where every entry is.
  float (*log_sum_exp)(const float* x, int count);
};

// The table for an instruction set the processor has; by default the one in use.
const GemvKernels& gemv_kernels(Isa isa);
const GemvKernels& gemv_kernels();

}  // namespace whisperxdna2
