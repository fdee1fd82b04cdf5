#include "kernels/cpu/f32_kernels-inl.h"

namespace whisperxdna2 {
extern const F32Kernels kF32KernelsScalar;
const F32Kernels kF32KernelsScalar = make_f32_kernels<F32x1, 4>();
}  // namespace whisperxdna2
