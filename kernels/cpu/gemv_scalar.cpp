#include "kernels/cpu/gemv-inl.h"

namespace whisperxdna2 {
extern const GemvKernels kGemvScalar;
const GemvKernels kGemvScalar = make_gemv_kernels<F32x1>();
}  // namespace whisperxdna2
