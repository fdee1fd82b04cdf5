// The sets of integer kernels that this machine can run, for loop tests.
#pragma once

#include "kernels/cpu/int8_kernels.h"

namespace whisperxdna2 {

extern const Int8Kernels kInt8KernelsEmulatedAvx512;

enum Int8Set { kScalarSet, kAvx2Set, kAvx512Set, kEmulatedAvx512Set, kSets };

// Null where the processor lacks it; the emulated set covers the code.
inline const Int8Kernels* kernels_of(int set) {
  switch (set) {
    case kScalarSet:
      return &int8_kernels(Isa::kScalar);
    case kAvx2Set:
      return has_isa(Isa::kAvx2) ? &int8_kernels(Isa::kAvx2) : nullptr;
    case kAvx512Set:
      return has_isa(Isa::kAvx512) ? &int8_kernels(Isa::kAvx512) : nullptr;
    default:
      return &kInt8KernelsEmulatedAvx512;
  }
}

}  // namespace whisperxdna2
