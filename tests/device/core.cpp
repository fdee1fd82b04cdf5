#include "tests/device/core.h"

#include <immintrin.h>

#include <aie_api/aie.hpp>
#include <algorithm>
#include <cstring>

#include "kernels/aie2p/core.h"

namespace emulated_npu {
namespace {

namespace overlay = whisperxdna2::overlay;
constexpr int kBlock = overlay::kBlock;
constexpr int kRowBlocks = overlay::kTileM / kBlock;
constexpr int kKBlocks = overlay::kTileK / kBlock;
constexpr int kNBlocks = overlay::kTileN / kBlock;
constexpr int kSums = overlay::kTileM * overlay::kTileN;

bool fits_int32(int64_t value) { return value == static_cast<int32_t>(value); }

}  // namespace

int32_t BObject::tail(int offset) const {
  int32_t value;
  memcpy(&value, bytes + overlay::kWeights + offset, sizeof value);
  return value;
}

template <typename Program>
bool CorePrograms::run(Program program) {
  aie::host::registers = {};
  program();
  return !aie::host::registers.wrapped;
}

bool CorePrograms::step(const AObject& a, const BObject& b) {
  std::copy(a.bytes.begin(), a.bytes.end(), a_);
  memcpy(b_, b.bytes, sizeof b_);
  return run([&] { gemm_step(a_, b_, sums_, parameters_); });
}

bool CorePrograms::finish(uint8_t* first, uint8_t* second) {
  const bool fits = run([&] { gemm_requantize(sums_, parameters_); });
  run([&] { gemm_gelu(sums_, parameters_); });
  run([&] { gemm_write_first(sums_, parameters_, c_); });
  memcpy(first, c_, sizeof c_);
  for (int32_t more = parameters_[whisperxdna2::aie2p::kMore]; more > 0; --more) {
    run([&] { gemm_write_second(sums_, c_); });
    memcpy(second, c_, sizeof c_);
  }
  return fits;
}

void widen(AObject& object) { object.wide.assign(object.bytes.begin(), object.bytes.end()); }

void pair_up(BObject& object) {
  object.pairs.resize(overlay::kWeights);
  for (int block = 0; block < overlay::kWeights / 64; ++block) {
    for (int k = 0; k < kBlock; ++k) {
      for (int n = 0; n < kBlock; ++n) {
        object.pairs[static_cast<size_t>(block * 64 + k / 2 * 16 + n * 2 + k % 2)] =
            static_cast<int8_t>(object.bytes[block * 64 + k * kBlock + n]);
      }
    }
  }
}

__attribute__((target("avx2"))) void multiply_fast(const AObject& a, const BObject& b, int32_t* sums) {
  for (int rb = 0; rb < kRowBlocks; ++rb) {
    for (int nb = 0; nb < kNBlocks; ++nb) {
      auto* const block = reinterpret_cast<__m256i*>(sums + overlay::c_in_core(rb, nb));
      __m256i row[kBlock];
      for (int r = 0; r < kBlock; ++r) row[r] = _mm256_loadu_si256(block + r);
      for (int kb = 0; kb < kKBlocks; ++kb) {
        const int16_t* const left = a.wide.data() + overlay::a_in_core(kb, rb);
        const int16_t* const right = b.pairs.data() + overlay::b_in_core(nb, kb);
        for (int pair = 0; pair < kBlock / 2; ++pair) {
          const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(right + pair * 16));
          for (int r = 0; r < kBlock; ++r) {
            int32_t two;
            memcpy(&two, left + r * kBlock + pair * 2, sizeof two);
            row[r] = _mm256_add_epi32(row[r], _mm256_madd_epi16(_mm256_set1_epi32(two), weights));
          }
        }
      }
      for (int r = 0; r < kBlock; ++r) _mm256_storeu_si256(block + r, row[r]);
    }
  }
}

bool shift7(int32_t* sums) {
  bool fits = true;
  for (int i = 0; i < kSums; ++i) {
    const int64_t shifted = int64_t{sums[i]} * 128;
    fits &= fits_int32(shifted);
    sums[i] = static_cast<int32_t>(shifted);
  }
  return fits;
}

TileParameters read_parameters(const BObject& b) {
  namespace tail = overlay::tail;
  TileParameters parameters;
  parameters.stage.mode = static_cast<whisperxdna2::OutputMode>(b.tail(tail::kModeAt));
  parameters.stage.s1 = b.tail(tail::kS1At);
  parameters.stage.s2 = b.tail(tail::kS2At);
  parameters.stage.gelu = {b.tail(tail::kGeluAt), b.tail(tail::kGeluAt + 4), b.tail(tail::kGeluAt + 8),
                           b.tail(tail::kGeluAt + 12), b.tail(tail::kGeluAt + 16)};
  memcpy(parameters.bias, b.bytes + overlay::kWeights + tail::kBiasAt, sizeof parameters.bias);
  memcpy(parameters.multiplier, b.bytes + overlay::kWeights + tail::kMultiplierAt, sizeof parameters.multiplier);
  return parameters;
}

bool finish(const int32_t* sums, const TileParameters& parameters, uint8_t* first, uint8_t* second) {
  using whisperxdna2::OutputMode;
  bool fits = true;
  for (int i = 0; i < kSums; ++i) {
    const int channel = i / 64 % kNBlocks * kBlock + i % kBlock;
    const int32_t bias = parameters.bias[channel];
    if (!fits_int32(int64_t{sums[i]} + bias)) {
      fits = false;
      continue;
    }
    const int16_t y = whisperxdna2::output(sums[i], bias, parameters.multiplier[channel], parameters.stage);
    switch (parameters.stage.mode) {
      case OutputMode::kInt8:
        first[i] = static_cast<uint8_t>(y);
        break;
      case OutputMode::kInt16:
        first[i] = static_cast<uint8_t>(whisperxdna2::plane16_hi(y));
        second[i] = whisperxdna2::plane16_lo(y);
        break;
      case OutputMode::kGelu14:
        first[i] = static_cast<uint8_t>(whisperxdna2::plane14_hi(y));
        second[i] = static_cast<uint8_t>(whisperxdna2::plane14_lo(y));
        break;
    }
  }
  return fits;
}

}  // namespace emulated_npu
