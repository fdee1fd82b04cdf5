#include "kernels/cpu/int8_attention-inl.h"

namespace whisperxdna2 {
extern const Int8Kernels kInt8KernelsScalar;
const Int8Kernels kInt8KernelsScalar = {16,
                                        Int8Format::kPairs,
                                        Int8Format::kPairs,
                                        int8_gemm<I32x1, Int8Format::kPairs, 1, 16>,
                                        int8_gemm<I32x1, Int8Format::kPairs, 1, 16>,
                                        quantize_values<I32x1>,
                                        quantize_row<I32x1>,
                                        int8_attention_tile<I32x1, Int8Format::kPairs, 1, 16>};
}  // namespace whisperxdna2
