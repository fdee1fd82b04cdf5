#include <aie_api/aie.hpp>

#include "kernels/aie2p/core.h"

using namespace whisperxdna2;
using namespace whisperxdna2::aie2p;

void gemm_write_second(const int32_t* sums, int8_t* __restrict c) {
  WHISPERXDNA2_LOOPS_AT_LEAST(kBlocks)
  for (int block = 0; block < kBlocks; ++block) {
    aie::store_v(c + block * kLanes, aie::load_v<kLanes>(reinterpret_cast<const int8_t*>(sums + block * kLanes)));
  }
}
