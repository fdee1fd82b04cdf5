// Products of few rows with large matrices in the precision in which they are stored: what a text decoder does all day.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/f32_kernels.h"

namespace whisperxdna2 {

enum class MatrixType : uint8_t { kF32, kF16, kBF16 };

// A row-major [out][in] matrix that somebody else owns. in is a multiple of 16.
struct MatrixView {
  MatrixType type = MatrixType::kF32;
  const void* data = nullptr;
  int out = 0, in = 0;
};

// y[r][n] = epilogue(sum_k w[n][k] x[r][k] + bias[n]); bias may be null. Epilogues: kNone, kGelu, kAdd. Runs on the
// process-wide pool with up to `threads` threads; the result does not depend on them, nor a row's on the other rows.
void multiply(const MatrixView& w, const float* bias, const float* x, ptrdiff_t x_stride, int rows, float* y,
              ptrdiff_t y_stride, Epilogue epilogue, int threads, Isa isa = whisperxdna2::isa());

// One head's attention of one query over `count` keys and values at `stride`: scores[t] = query . keys[t], then
// out = softmax(scores) values. width is a multiple of 16. `scores` keeps the raw scores; `weights` is scratch, [count].
void attend(const float* query, const float* keys, const float* values, ptrdiff_t stride, int count, int width,
            float* scores, float* weights, float* out, Isa isa = whisperxdna2::isa());

// log(sum(exp(x))), minus infinity for entries that are minus infinity throughout.
float log_sum_exp(const float* x, int count, Isa isa = whisperxdna2::isa());

}  // namespace whisperxdna2
