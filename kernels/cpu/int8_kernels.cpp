#include "kernels/cpu/int8_kernels.h"

namespace whisperxdna2 {

extern const Int8Kernels kInt8KernelsScalar, kInt8KernelsAvx2, kInt8KernelsAvx512;

const Int8Kernels& int8_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kInt8KernelsAvx512;
    case Isa::kAvx2:
      return kInt8KernelsAvx2;
    default:
      return kInt8KernelsScalar;
  }
}

const Int8Kernels& int8_kernels() { return int8_kernels(isa()); }

}  // namespace whisperxdna2
