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
  const float* row_bias = nullptr;  // [out] where each row of the inputs has its own unit
};

// The layer in the order in which the kernels read it. Immutable.
class Int8Linear {
 public:
  Int8Linear() = default;
  // Copies what it needs. `kernels` decides the order and must be the ones int8_linear() is given.
  explicit Int8Linear(const Int8Layer& layer, const Int8Kernels& kernels = int8_kernels());

  int out() const { return out_; }
  int in() const { return in_; }
  Int8Input input() const { return {format_, input_14bit_ ? kInt14Limit : kInt8Limit}; }

 private:
  friend void int8_linear(const Int8Linear&, const void*, const float*, int, void*, ptrdiff_t, const Workers&,
                          const Int8Kernels&);
  int out_ = 0, in_ = 0;
  Int8Format format_ = Int8Format::kPairs;
  bool input_14bit_ = false;
  OutputStage stage_;
  AlignedVector<int8_t> panels_;
  AlignedVector<int32_t> start_, multiplier_, weight_sum_;
  AlignedVector<float> scale_, row_bias_;
};

// Applies the layer to `rows` rows of x, [rows][in] as layer.input() says. row_unit: theirs, where the layer has a
// row_bias. What happens to y is said in Int8GemmTask; its rows are y_stride elements apart. Runs on the process-wide
// pool as `workers` say; the result is the same for any number of threads and any kernels.
void int8_linear(const Int8Linear& layer, const void* x, const float* row_unit, int rows, void* y, ptrdiff_t y_stride,
                 const Workers& workers, const Int8Kernels& kernels = int8_kernels());

}  // namespace whisperxdna2
