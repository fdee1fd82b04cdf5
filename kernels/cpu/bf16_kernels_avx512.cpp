#include "kernels/cpu/bf16_kernels-inl.h"

namespace whisperxdna2 {
extern const BF16Kernels kBF16KernelsAvx512;
const BF16Kernels kBF16KernelsAvx512 = make_bf16_kernels<F32x16, 14>();
}  // namespace whisperxdna2
