#include "kernels/cpu/gemv.h"

namespace whisperxdna2 {

extern const GemvKernels kGemvScalar, kGemvAvx2, kGemvAvx512;

const GemvKernels& gemv_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kGemvAvx512;
    case Isa::kAvx2:
      return kGemvAvx2;
    default:
      return kGemvScalar;
  }
}

const GemvKernels& gemv_kernels() { return gemv_kernels(isa()); }

}  // namespace whisperxdna2
