#include <aie_api/aie.hpp>

#include "kernels/aie2p/core.h"

using namespace whisperxdna2;
using namespace whisperxdna2::aie2p;

// In place: a block's 64 outputs of 16 bits go where its 64 sums of 32 bits were. Hence no __restrict on `sums`.
void gemm_requantize(int32_t* sums, const int32_t* parameters) {
  aie::set_rounding(aie::rounding_mode::conv_even);
  aie::set_saturation(aie::saturation_mode::saturate);
  const int32_t s1 = parameters[kS1], s2 = parameters[kS2];
  const auto* const bias = parameters + kBias;
  const auto* const multiplier = reinterpret_cast<const int16_t*>(parameters + kMultiplier);

  for (int column = 0; column < kColumnBlocks; ++column) {
    // A block's rows share its eight channels.
    const aie::vector<int32_t, kLanes> bias64 =
        aie::load_v<overlay::kBlock>(bias + column * overlay::kBlock).template grow_replicate<kLanes>();
    const aie::vector<int16_t, kLanes> multiplier64 =
        aie::load_v<overlay::kBlock>(multiplier + column * overlay::kBlock).template grow_replicate<kLanes>();
    WHISPERXDNA2_LOOPS_AT_LEAST(kRowBlocks)
    for (int row = 0; row < kRowBlocks; ++row) {
      int32_t* const block = sums + overlay::c_in_core(row, column);
      aie::accum<acc32, kLanes> sum(aie::load_v<kLanes>(block));
      sum = aie::add(sum, bias64);
      const aie::vector<int16_t, kLanes> x16 = sum.to_vector<int16_t>(s1);
      const aie::accum<acc32, kLanes> product = aie::mul<acc32>(x16, multiplier64);
      aie::store_v(reinterpret_cast<int16_t*>(block), product.to_vector<int16_t>(s2));
    }
  }
}
