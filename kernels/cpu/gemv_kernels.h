// The kernels behind gemv.h for one instruction set.
#pragma once

#include "kernels/cpu/gemv.h"

namespace whisperxdna2 {

struct MultiplyTask {
  const void* w;
  int in, first, last;  // rows of w
  const float* bias;
  const float* x;
  ptrdiff_t x_stride;
  int rows;
  float* y;
  ptrdiff_t y_stride;
  Epilogue epilogue;
};

struct GemvKernels {
  void (*multiply[3])(const MultiplyTask&);  // by MatrixType
  void (*attend)(const float*, const uint16_t*, const uint16_t*, int, float*, float*, float*);
  void (*narrow)(const float*, int, uint16_t*);
  float (*largest)(const float*, int);
  float (*log_sum_exp)(const float*, int);
};

extern const GemvKernels kGemvScalar, kGemvAvx2, kGemvAvx512;

}  // namespace whisperxdna2
