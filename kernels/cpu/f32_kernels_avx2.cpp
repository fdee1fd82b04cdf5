#include "kernels/cpu/f32_kernels-inl.h"

namespace whisperxdna2 {
extern const F32Kernels kF32KernelsAvx2;
const F32Kernels kF32KernelsAvx2 = make_f32_kernels<F32x8, 6>();
}  // namespace whisperxdna2
