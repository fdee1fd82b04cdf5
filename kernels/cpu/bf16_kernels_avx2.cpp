#include "kernels/cpu/bf16_kernels-inl.h"

namespace whisperxdna2 {
extern const BF16Kernels kBF16KernelsAvx2;
const BF16Kernels kBF16KernelsAvx2 = make_bf16_kernels<F32x8, 4>();
}  // namespace whisperxdna2
