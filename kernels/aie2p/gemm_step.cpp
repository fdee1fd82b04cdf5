#include <aie_api/aie.hpp>

#include "kernels/aie2p/core.h"

namespace {

using namespace whisperxdna2;
using namespace whisperxdna2::aie2p;
// 512 products per cycle. accauto is 32 bits wide.
using Product = aie::mmul<overlay::kBlock, overlay::kBlock, overlay::kBlock, int8_t, int8_t, accauto>;
static_assert(Product::size_A == kLanes && Product::size_B == kLanes && Product::size_C == kLanes);

void start(const int32_t* tail, int32_t* __restrict sums, int32_t* __restrict parameters) {
  const aie::vector<int32_t, kLanes> zeros = aie::zeros<int32_t, kLanes>();
  WHISPERXDNA2_LOOPS_AT_LEAST(kBlocks)
  for (int block = 0; block < kBlocks; ++block) aie::store_v(sums + block * kLanes, zeros);
  WHISPERXDNA2_LOOPS_AT_LEAST(kParameters / 16)
  for (int at = 0; at < kParameters; at += 16) aie::store_v(parameters + at, aie::load_v<16>(tail + at));
}

// By seven additions: from_vector() and to_vector() of 32-bit lanes ignore their shift.
void times_128(int32_t* sums) {
  WHISPERXDNA2_LOOPS_AT_LEAST(kBlocks)
  for (int block = 0; block < kBlocks; ++block) {
    aie::accum<acc32, kLanes> value(aie::load_v<kLanes>(sums + block * kLanes));
    for (int i = 0; i < 7; ++i) value = aie::add(value, value);
    aie::store_v(sums + block * kLanes, value.to_vector<int32_t>());
  }
}

}  // namespace

// Blocks of 2 x 2: four of the five accumulator registers, and four loads for four products, so that two loads a cycle
// suffice whatever banks they hit. Weights lie with k in rows (overlay.h): no transposition here.
void gemm_step(const int8_t* __restrict a, const int8_t* __restrict b, int32_t* __restrict sums,
               int32_t* __restrict parameters) {
  const auto* const tail = reinterpret_cast<const int32_t*>(b + overlay::kWeights);
  const int32_t flags = tail[kFlags];
  if (flags & overlay::tail::kStart) start(tail, sums, parameters);
  if (flags & overlay::tail::kShift7) times_128(sums);

  for (int row = 0; row < kRowBlocks; row += 2) {
    for (int column = 0; column < kColumnBlocks; column += 2) {
      int32_t* const upper = sums + overlay::c_in_core(row, column);
      int32_t* const lower = sums + overlay::c_in_core(row + 1, column);
      Product c00(aie::load_v<kLanes>(upper)), c01(aie::load_v<kLanes>(upper + kLanes));
      Product c10(aie::load_v<kLanes>(lower)), c11(aie::load_v<kLanes>(lower + kLanes));
      const int8_t* from_a = a + overlay::a_in_core(0, row);
      const int8_t* left = b + overlay::b_in_core(column, 0);
      const int8_t* right = b + overlay::b_in_core(column + 1, 0);
      WHISPERXDNA2_LOOPS_AT_LEAST(kInnerBlocks)
      for (int inner = 0; inner < kInnerBlocks; ++inner) {
        const aie::vector<int8_t, kLanes> a0 = aie::load_v<kLanes>(from_a);
        const aie::vector<int8_t, kLanes> a1 = aie::load_v<kLanes>(from_a + kLanes);
        const aie::vector<int8_t, kLanes> b0 = aie::load_v<kLanes>(left);
        const aie::vector<int8_t, kLanes> b1 = aie::load_v<kLanes>(right);
        from_a += kRowBlocks * kLanes;
        left += kLanes;
        right += kLanes;
        c00.mac(a0, b0);
        c01.mac(a0, b1);
        c10.mac(a1, b0);
        c11.mac(a1, b1);
      }
      aie::store_v(upper, c00.template to_vector<int32_t>());
      aie::store_v(upper + kLanes, c01.template to_vector<int32_t>());
      aie::store_v(lower, c10.template to_vector<int32_t>());
      aie::store_v(lower + kLanes, c11.template to_vector<int32_t>());
    }
  }
}
