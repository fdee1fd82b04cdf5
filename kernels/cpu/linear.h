// Linear layers over packed f32 weights.
#pragma once

#include <cstddef>
#include "kernels/cpu/aligned_vector.h"
#include "kernels/cpu/f32_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

// Weights of y = x W^T + b, in the order in which the kernels read them. Immutable.
class PackedLinear {
 public:
  PackedLinear() = default;
  // weight: [out][in] row-major. bias: [out] or null. `kernels` decides the order and must be the ones linear() is
  // given.
  PackedLinear(const float* weight, const float* bias, int out, int in, const F32Kernels& kernels = f32_kernels());

  int out() const { return out_; }
  int in() const { return in_; }

 private:
  friend void linear(const PackedLinear&, const float*, ptrdiff_t, int, float*, ptrdiff_t, Epilogue,
                     const Workers&, const F32Kernels&);
  int out_ = 0, in_ = 0;
  AlignedVector<float> panels_, bias_;
};

// y[r] = epilogue(W x[r] + b) for `rows` rows of x at x_stride (rows may overlap: a convolution is a linear layer over
// overlapping rows). Runs on the process-wide pool as `workers` say; the result does not depend on their number.
void linear(const PackedLinear& weights, const float* x, ptrdiff_t x_stride, int rows, float* y, ptrdiff_t y_stride,
            Epilogue epilogue, const Workers& workers, const F32Kernels& kernels = f32_kernels());

}  // namespace whisperxdna2
