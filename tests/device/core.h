// One core's work on its objects: the numbers of the overlay's core program, from kernels/arithmetic.h.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/arithmetic.h"
#include "kernels/overlay.h"

namespace emulated_npu {

// An A object as a core has it. `wide` is the same as int16, for the fast product; empty in the exact mode.
struct AObject {
  std::vector<int8_t> bytes;
  std::vector<int16_t> wide;
};

// A B object: where its bytes lie, and for the fast product its weights as int16, pairs of k side by side.
struct BObject {
  const uint8_t* bytes = nullptr;
  std::vector<uint8_t> copy;  // where the bytes lie in no one place
  std::vector<int16_t> pairs;

  int32_t tail(int offset) const;
};

void widen(AObject& object);
void pair_up(BObject& object);

// sums += A * B. The exact form returns false if a sum leaves int32.
bool multiply_exact(const AObject& a, const BObject& b, int32_t* sums);
void multiply_fast(const AObject& a, const BObject& b, int32_t* sums);  // AVX2; wraps

// sums *= 128; false if one leaves int32.
bool shift7(int32_t* sums);

struct TileParameters {
  whisperxdna2::OutputStage stage;
  int32_t bias[whisperxdna2::overlay::kTileN];
  int16_t multiplier[whisperxdna2::overlay::kTileN];
};
TileParameters read_parameters(const BObject& b);

// The tile's output as C segments, first and, for two planes, second. False if sum + bias leaves int32.
bool finish(const int32_t* sums, const TileParameters& parameters, uint8_t* first, uint8_t* second);

}  // namespace emulated_npu
