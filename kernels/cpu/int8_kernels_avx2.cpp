#include "kernels/cpu/int8_attention-inl.h"

namespace whisperxdna2 {
extern const Int8Kernels kInt8KernelsAvx2;
// vpmaddwd: a pair of products fits int32 whatever the operands are. vpmaddubsw would saturate.
const Int8Kernels kInt8KernelsAvx2 = {16,
                                      Int8Format::kPairs,
                                      Int8Format::kPairs,
                                      int8_gemm<I32x8, Int8Format::kPairs, 6, 2>,
                                      int8_gemm<I32x8, Int8Format::kPairs, 6, 2>,
                                      quantize_values<I32x8>,
                                      quantize_row<I32x8>,
                                      int8_attention_tile<I32x8, Int8Format::kPairs, 6, 2>};
}  // namespace whisperxdna2
