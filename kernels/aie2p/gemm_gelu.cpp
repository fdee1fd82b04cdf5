// GELU, three ways with the same numbers. WHISPERXDNA2_GELU chooses:
//
//   1  hinges  the piecewise linear table as a sum of hinges, slope change * max(p, knot): vector instructions only,
//              about 5 cycles a hinge and block. The default.
//   2  lookup  aie::linear_approx: about 8 cycles for 16 values. Its tables must lie in different banks, which the
//              allocator does not know of (Xilinx/mlir-aie issue 3737), and repeat every 256 bits on AIE2P, not every
//              128 as on AIE2 (pull request 2189).
//   3  scalar  for bringing a core up: nothing can go wrong but the time.
#include <aie_api/aie.hpp>

#include "kernels/aie2p/core.h"

#ifndef WHISPERXDNA2_GELU
#define WHISPERXDNA2_GELU 1
#endif

namespace {

using namespace whisperxdna2;
using namespace whisperxdna2::aie2p;
using Values = aie::vector<int16_t, kLanes>;

constexpr int kPartBits = 9;  // of a position, below the segment's number
constexpr int slope(int segment) { return kGeluTable[segment + 1] - kGeluTable[segment]; }

struct Scale {
  int16_t c, d;
  int32_t s, t, out_shift;
};
Scale read_scale(const int32_t* parameters) {
  return {static_cast<int16_t>(parameters[kGelu]), static_cast<int16_t>(parameters[kGelu + 2]), parameters[kGelu + 1],
          parameters[kGelu + 3], parameters[kGelu + 4]};
}

#if WHISPERXDNA2_GELU == 1

// table(p) * 512 = sum_j change_j max(p - knot_j, 0), with change_j the change of slope at knot_j = 512 j; and
// max(p - knot, 0) is max(p, knot) - knot, whose constant parts are added up beforehand.
struct Hinges {
  int16_t change[kGeluSegments] = {};
  int32_t constant = 0;
  constexpr Hinges() {
    for (int j = 0; j < kGeluSegments; ++j) {
      change[j] = static_cast<int16_t>(slope(j) - (j > 0 ? slope(j - 1) : 0));
      constant -= change[j] * (j << kPartBits);
    }
  }
};
constexpr Hinges kHinges;

struct Table {
  aie::vector<int16_t, kLanes> operator()(const Values& p) const {
    aie::accum<acc32, kLanes> q(aie::broadcast<int32_t, kLanes>(kHinges.constant));
    WHISPERXDNA2_LOOPS_AT_LEAST(kGeluSegments)
    for (int j = 0; j < kGeluSegments; ++j) {
      q = aie::mac(q, aie::max(p, static_cast<int16_t>(j << kPartBits)), kHinges.change[j]);
    }
    return q.to_vector<int16_t>(kPartBits);
  }
};

#elif WHISPERXDNA2_GELU == 2

// (slope, entry) of each segment, 8 of them in 256 bits, each 256 bits twice.
struct Pairs {
  static constexpr int kRun = 8;
  alignas(aie::vector_decl_align) int16_t value[4 * kGeluSegments] = {};
  constexpr Pairs() {
    for (int segment = 0; segment < kGeluSegments; ++segment) {
      for (int copy = 0; copy < 2; ++copy) {
        const int at = 2 * (segment / kRun * 2 * kRun + copy * kRun + segment % kRun);
        value[at] = static_cast<int16_t>(slope(segment));
        value[at + 1] = kGeluTable[segment];
      }
    }
  }
};
// The tile's loads take two entries from each. Not const: constants could be merged.
Pairs pairs_ab, pairs_cd;

class Table {
 public:
  aie::vector<int16_t, kLanes> operator()(const Values& p) {
    aie::vector<int16_t, kLanes> q;
    for (unsigned i = 0; i < kLanes / 16; ++i) {
      const aie::accum<acc64, 16> part = approximation_.compute(p.template extract<16>(i));
      q.insert(i, part.to_vector<int16_t>(kPartBits));
    }
    return q;
  }

 private:
  using Lut = aie::lut<4, int16_t, int16_t>;
  Lut lut_{kGeluSegments, pairs_ab.value, pairs_cd.value};
  aie::linear_approx<int16_t, Lut> approximation_{lut_, kPartBits, 0, kPartBits};
};

#endif

}  // namespace

// In place, block by block; p, q16 and u as in gelu_14bit().
void gemm_gelu(int32_t* sums, const int32_t* parameters) {
  if (parameters[kMode] != static_cast<int32_t>(OutputMode::kGelu14)) return;
  const Scale scale = read_scale(parameters);
#if WHISPERXDNA2_GELU == 3
  const GeluScale g{scale.c, scale.s, scale.d, scale.t, scale.out_shift};
  for (int block = 0; block < kBlocks; ++block) {
    auto* const values = reinterpret_cast<int16_t*>(sums + block * kLanes);
    for (int i = 0; i < kLanes; ++i) values[i] = gelu_14bit(values[i], g);
  }
#else
  aie::set_rounding(aie::rounding_mode::conv_even);
  aie::set_saturation(aie::saturation_mode::saturate);
  Table table;
  const auto one = static_cast<int16_t>(1 << scale.t);
  for (int block = 0; block < kBlocks; ++block) {
    auto* const values = reinterpret_cast<int16_t*>(sums + block * kLanes);
    // -32768 has no magnitude in 16 bits.
    const Values u = aie::max(aie::load_v<kLanes>(values), static_cast<int16_t>(-INT16_MAX));
    const Values p = aie::mul<acc32>(aie::abs(u), scale.c).template to_vector<int16_t>(scale.s);
    const Values q16 = table(p);
    aie::accum<acc32, kLanes> g = aie::mul<acc32>(aie::max(u, int16_t{0}), one);
    g = aie::msc(g, q16, scale.d);
    const Values wide = g.template to_vector<int16_t>(scale.t + scale.out_shift);
    const Values limited =
        aie::min(aie::max(wide, static_cast<int16_t>(-kInt14Limit)), static_cast<int16_t>(kInt14Limit));
    aie::store_v(values, limited);
  }
#endif
}
