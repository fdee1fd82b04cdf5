#include "kernels/cpu/cpu_features.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

namespace whisperxdna2 {

bool has_isa(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni");
  }
  return false;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    default:
      return "scalar";
  }
}

Isa isa() {
  static const Isa chosen = [] {
    Isa best = Isa::kScalar;
    for (Isa i : {Isa::kAvx2, Isa::kAvx512}) {
      if (has_isa(i)) best = i;
    }
    if (const char* wish = std::getenv("WHISPERXDNA2_ISA")) {
      for (Isa i : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
        if (wish == std::string(isa_name(i))) best = std::min(best, i);
      }
    }
    return best;
  }();
  return chosen;
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

}  // namespace whisperxdna2
