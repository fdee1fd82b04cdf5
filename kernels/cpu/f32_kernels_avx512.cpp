#include "kernels/cpu/f32_kernels-inl.h"

namespace whisperxdna2 {
extern const F32Kernels kF32KernelsAvx512;
const F32Kernels kF32KernelsAvx512 = make_f32_kernels<F32x16, 14>();
}  // namespace whisperxdna2
