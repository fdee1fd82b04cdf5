#include <aie_api/aie.hpp>

#include "kernels/aie2p/core.h"

using namespace whisperxdna2;
using namespace whisperxdna2::aie2p;

// A plane's upper part is (y - lower) / 256 or / 128, which is exact: no rounding mode can change it. Saturation makes
// int8 of wider values where the output is one plane.
void gemm_write_first(int32_t* sums, const int32_t* parameters, int8_t* __restrict c) {
  aie::set_saturation(aie::saturation_mode::saturate);
  const int32_t mode = parameters[kMode];
  const bool one_plane = mode == static_cast<int32_t>(OutputMode::kInt8);
  const int32_t bits = one_plane ? 0 : mode == static_cast<int32_t>(OutputMode::kGelu14) ? 7 : 8;
  const auto mask = static_cast<int16_t>((1 << bits) - 1);
  WHISPERXDNA2_LOOPS_AT_LEAST(kBlocks)
  for (int block = 0; block < kBlocks; ++block) {
    int32_t* const from = sums + block * kLanes;
    const aie::vector<int16_t, kLanes> y = aie::load_v<kLanes>(reinterpret_cast<const int16_t*>(from));
    const aie::vector<int16_t, kLanes> lower = aie::bit_and(mask, y);
    const aie::accum<acc32, kLanes> upper(aie::sub(y, lower));
    aie::store_v(c + block * kLanes, upper.to_vector<int8_t>(bits));
    const aie::accum<acc32, kLanes> lower32(lower);
    aie::store_v(reinterpret_cast<uint8_t*>(from), lower32.to_vector<uint8_t>(0));
  }
}
