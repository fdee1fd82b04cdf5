// Products of few rows with large matrices in the precision in which they are stored: what a text decoder does all day.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention.h"
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

// Row `row` of w as f32, exactly.
void widen_row(const MatrixView& w, int row, float* out);

// One head's attention of one query over `count` keys and values, half precision, [count][kHeadWidth] each:
// scores[t] = query . keys[t], out = softmax(scores) values. `scores` keeps the raw scores; `weights` is scratch, [count].
void attend(const float* query, const uint16_t* keys, const uint16_t* values, int count, float* scores, float* weights,
            float* out, Isa isa = whisperxdna2::isa());

// Half precision, to nearest; what is too large becomes the largest half. count is a multiple of 16.
void narrow(const float* from, int count, uint16_t* to, Isa isa = whisperxdna2::isa());

float largest(const float* x, int count, Isa isa = whisperxdna2::isa());

// log(sum(exp(x))): minus infinity where every entry is.
float log_sum_exp(const float* x, int count, Isa isa = whisperxdna2::isa());

}  // namespace whisperxdna2
