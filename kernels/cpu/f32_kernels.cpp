#include "kernels/cpu/f32_kernels.h"

namespace whisperxdna2 {

extern const F32Kernels kF32KernelsScalar, kF32KernelsAvx2, kF32KernelsAvx512;

const F32Kernels& f32_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kF32KernelsAvx512;
    case Isa::kAvx2:
      return kF32KernelsAvx2;
    default:
      return kF32KernelsScalar;
  }
}

const F32Kernels& f32_kernels() { return f32_kernels(isa()); }

}  // namespace whisperxdna2
