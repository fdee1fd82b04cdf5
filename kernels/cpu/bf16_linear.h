// Linear layers over packed bf16 weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/aligned_vector.h"
#include "kernels/cpu/bf16_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

// Weights of y = x W^T + b rounded to bf16, in the order in which the kernels read them. Immutable.
class BF16Linear {
 public:
  BF16Linear() = default;
  // weight: [out][in] row-major. bias: [out] or null. out is a multiple of 64, in is even. `kernels` decides the order
  // and must be the ones linear() is given.
  BF16Linear(const float* weight, const float* bias, int out, int in, const BF16Kernels& kernels = bf16_kernels());

  int out() const { return out_; }
  int in() const { return in_; }

 private:
  friend void bf16_linear(const BF16Linear&, const uint16_t*, ptrdiff_t, int, void*, ptrdiff_t, bool, Epilogue,
                          const Workers&, const BF16Kernels&);
  int out_ = 0, in_ = 0;
  AlignedVector<uint16_t> panels_;
  AlignedVector<float> bias_;
};

// y[r] = epilogue(W x[r] + b) for `rows` rows of x at x_stride, which may overlap; y is bf16 or float. Runs on the
// process-wide pool as `workers` say; the result does not depend on their number.
void bf16_linear(const BF16Linear& weights, const uint16_t* x, ptrdiff_t x_stride, int rows, void* y,
                 ptrdiff_t y_stride, bool y_is_bf16, Epilogue epilogue, const Workers& workers,
                 const BF16Kernels& kernels = bf16_kernels());

}  // namespace whisperxdna2
