// Which instruction sets the kernels use, chosen once per process at run time.
#pragma once

#include <string>

namespace whisperxdna2 {

enum class Isa {
  kScalar,  // portable C++: the reference
  kAvx2,    // AVX2, FMA, F16C
  kAvx512,  // AVX-512 F, BW, DQ, VL and VNNI
};

// The best of what the processor has, lowered to WHISPERXDNA2_ISA (scalar, avx2 or avx512) where that is set in the
// environment. Thread-safe.
Isa isa();

// Whether the processor has it.
bool has_isa(Isa isa);

const char* isa_name(Isa isa);

// Model name of the processor, for people.
std::string cpu_name();

}  // namespace whisperxdna2
