#include "kernels/cpu/bf16_kernels-inl.h"

namespace whisperxdna2 {
extern const BF16Kernels kBF16KernelsScalar;
const BF16Kernels kBF16KernelsScalar = make_bf16_kernels<F32x1, 4>();
}  // namespace whisperxdna2
