// Linear layers over packed int8 weights, exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include "kernels/cpu/aligned_vector.h"
#include "kernels/cpu/int8_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace whisperxdna2 {

// A quantized layer, as kernels/arithmetic.h defines it.
struct Int8Layer {
  int out, in;                // multiples of 64
  const int8_t* weight;       // [out][in] row-major
  const int32_t* bias;        // [out]
  const int16_t* multiplier;  // [out]
  const float* scale;         // [out] units of the results; for kInt16 only
  OutputStage stage;
  bool input_14bit;           // inputs are 14 bits, else int8
};

// The layer in the order in which the kernels read it. Immutable.
class Int8Linear {
 public:
  Int8Linear() = default;
  // Copies what it needs. `kernels` decides the order and must be the ones int8_linear() is given.
  explicit Int8Linear(const Int8Layer& layer, const Int8Kernels& kernels = int8_kernels());

  int out() const { return out_; }
  int in() const { return in_; }
  // Of the inputs.
  Int8Format format() const { return format_; }

 private:
  friend void int8_linear(const Int8Linear&, const void*, int, void*, ptrdiff_t, const Workers&, const Int8Kernels&);
  int out_ = 0, in_ = 0;
  Int8Format format_ = Int8Format::kPairs;
  bool input_14bit_ = false;
  OutputStage stage_;
  AlignedVector<int8_t> panels_;
  AlignedVector<int32_t> start_, multiplier_, weight_sum_;
  AlignedVector<float> scale_;
};

// Applies the layer to `rows` rows of x, [rows][in] in the layer's format. What happens to y is said in Int8GemmTask; its
// rows are y_stride elements apart. Runs on the process-wide pool as `workers` say; the result is the same for any number of
// threads and any kernels.
void int8_linear(const Int8Linear& layer, const void* x, int rows, void* y, ptrdiff_t y_stride, const Workers& workers,
                 const Int8Kernels& kernels = int8_kernels());

}  // namespace whisperxdna2
