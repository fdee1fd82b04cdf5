#include "kernels/cpu/gemv-inl.h"

namespace whisperxdna2 {
extern const GemvKernels kGemvAvx512;
const GemvKernels kGemvAvx512 = make_gemv_kernels<F32x16>();
}  // namespace whisperxdna2
