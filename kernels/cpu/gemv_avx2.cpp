#include "kernels/cpu/gemv-inl.h"

namespace whisperxdna2 {
extern const GemvKernels kGemvAvx2;
const GemvKernels kGemvAvx2 = make_gemv_kernels<F32x8>();
}  // namespace whisperxdna2
