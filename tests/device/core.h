// One core's work on its objects, two ways with the same numbers: by the core programs themselves (kernels/aie2p/) in a
// memory as a core has it, and fast, by AVX2 and kernels/arithmetic.h.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/arithmetic.h"
#include "kernels/overlay.h"

namespace emulated_npu {

// An A object as a core has it. `wide` is the same as int16, for the fast product; empty in the exact mode.
struct AObject {
  std::vector<int8_t> bytes;  // kAObject
  std::vector<int16_t> wide;
};

// A B object: where its bytes lie, and for the fast product its weights as int16, pairs of k side by side.
struct BObject {
  const uint8_t* bytes = nullptr;
  std::vector<uint8_t> copy;  // where the bytes lie in no one place
  std::vector<int16_t> pairs;

  int32_t tail(int offset) const;
};

// A core's data memory, where its programs run. The registers are as at power-up before each program, so that one that
// relies on what another has set gives wrong numbers. Needs AVX2.
class CorePrograms {
 public:
  // One step of a tile. False if a sum leaves int32.
  bool step(const AObject& a, const BObject& b);
  // What follows the last step: the tile's C segments, the second only for two planes. False if sum + bias leaves
  // int32.
  bool finish(uint8_t* first, uint8_t* second);

 private:
  template <typename Program>
  static bool run(Program program);

  alignas(64) int8_t a_[whisperxdna2::overlay::kAObject];
  alignas(64) int8_t b_[whisperxdna2::overlay::kBObject];
  alignas(64) int32_t sums_[whisperxdna2::overlay::kTileM * whisperxdna2::overlay::kTileN];
  alignas(64) int32_t parameters_[whisperxdna2::overlay::kTail / 4];
  alignas(64) int8_t c_[whisperxdna2::overlay::kCSegment];
};

// ---- The fast way

void widen(AObject& object);
void pair_up(BObject& object);

// sums += A * B, by AVX2; wraps.
void multiply_fast(const AObject& a, const BObject& b, int32_t* sums);

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
