#include "kernels/cpu/bf16_kernels.h"

namespace whisperxdna2 {

extern const BF16Kernels kBF16KernelsScalar, kBF16KernelsAvx2, kBF16KernelsAvx512;

bool has_bf16_products() { return isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16"); }

const BF16Kernels& bf16_kernels(Isa isa) {
  if (isa == Isa::kScalar) return kBF16KernelsScalar;
  return isa == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16") ? kBF16KernelsAvx512 : kBF16KernelsAvx2;
}

const BF16Kernels& bf16_kernels() { return bf16_kernels(isa()); }

}  // namespace whisperxdna2
