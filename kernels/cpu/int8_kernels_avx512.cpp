#include "kernels/cpu/int8_attention-inl.h"

namespace whisperxdna2 {
extern const Int8Kernels kInt8KernelsAvx512;
const Int8Kernels kInt8KernelsAvx512 = {64,
                                        Int8Format::kQuads,
                                        Int8Format::kQuads,
                                        int8_gemm<I32x16, Int8Format::kQuads, 6, 4>,
                                        int8_gemm_in_planes<I32x16, 6, 4>,
                                        quantize_values<I32x16>,
                                        quantize_row<I32x16>,
                                        int8_attention_tile<I32x16, Int8Format::kQuads, 6, 4>};
}  // namespace whisperxdna2
