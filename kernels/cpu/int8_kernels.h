// The integer kernels of one instruction set, as a table of plain functions; int8_linear.h is built on it. Every table
// gives the numbers of kernels/arithmetic.h, bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/arithmetic.h"
#include "kernels/cpu/cpu_features.h"

namespace whisperxdna2 {

// How the integer inputs of a product lie in memory. The CPU's kernels read them four bytes at a time.
enum class Int8Format {
  kPairs,   // int16, two to a step. For any input; the weights are widened as they are used.
  kQuads,   // uint8, value + 128, four to a step. For int8 inputs on processors that multiply u8 by s8 without
            // saturation. Weights of 14-bit inputs may lie in this order, too.
  kBytes,   // int8, for the NPU
  kPlanes,  // plane14_hi() and plane14_lo() of 14-bit numbers, for the NPU
};
// How inputs are to be made: in a format, within a limit of the numbers.
struct Int8Input {
  Int8Format format;
  int limit = kInt8Limit;  // or kInt14Limit, for kPairs and kPlanes
  ptrdiff_t plane = 0;     // kPlanes: from the upper to the lower plane, in bytes
};
constexpr int steps_k(Int8Format format) { return format == Int8Format::kPairs ? 2 : 4; }
constexpr size_t element_size(Int8Format format) { return format == Int8Format::kPairs ? 2 : 1; }

// y[r][n] = the output stage of start[n] + sum_k a[r][k] b[n][k], for rows [0, rows) and panels [first_panel,
// last_panel).
struct Int8GemmTask {
  const uint8_t* a;  // rows at a_stride bytes
  ptrdiff_t a_stride;
  int rows;          // at most kInt8TaskRows
  const int8_t* b;   // packed: panel p holds columns p * panel .., [k / step][panel][step]
  int k;             // a multiple of 64
  int first_panel, last_panel;
  const int32_t* start;       // [n] bias; for inputs in kQuads less 128 * sum_k b[n][k], modulo 2^32
  const int32_t* weight_sum;  // [n] sum_k b[n][k]; 14-bit inputs with weights14 == kQuads
  uint8_t* scratch;           // k * kInt8ScratchPerInput bytes, at a cache line; where weight_sum is
  const int32_t* multiplier;  // [n]
  const float* scale;         // [n] units of the results; kInt16
  const float* row_unit;      // [rows] of the inputs, or null where they have one unit, which is in `scale`
  const float* row_bias;      // [n] where row_unit is
  OutputStage stage;
  // kInt8: int8 y = result        kInt16: float y += dequantize(result, scale, ..)
  // kGelu14: int16 y = result
  void* y;
  ptrdiff_t y_stride;  // in elements
};
constexpr int kInt8TaskRows = 96;
constexpr int kInt8ScratchPerInput = 3 * kInt8TaskRows + 8;

// Attention of some queries of one head to all its keys, as kernels/arithmetic.h defines it.
struct Int8AttentionTask {
  const int8_t* queries;     // rows at `stride`
  ptrdiff_t stride;
  int rows;                  // at most kInt8AttentionRows
  int keys;
  // Packed: panel p holds keys p * panel .., [kHeadWidth / step][panel][step] in format8, int16 if that is kPairs; the
  // last one is filled up with zeros.
  const uint8_t* packed_keys;
  const int32_t* key_start;  // [keys, rounded up to a panel] kQuads: -128 * the sum of the key; else 0
  const int16_t* values;     // [keys / 2, rounded up][kHeadWidth][2], filled up with zeros
  float steps_per_unit;      // as attention_weight() takes it
  const float* unit;         // [kHeadWidth] of the values
  float* out;                // rows at out_stride
  ptrdiff_t out_stride;
  int32_t* scores;           // scratch: [rows][keys rounded up to a panel]
  int16_t* weights;          // scratch: the same
};
constexpr int kInt8AttentionRows = 24;

struct Int8Kernels {
  int panel;            // columns of a packed panel, a divisor of 64
  Int8Format format8;   // of int8 inputs and their weights; 14-bit inputs are always kPairs
  Int8Format weights14; // the order of the weights of 14-bit inputs
  void (*gemm8)(const Int8GemmTask& task);
  void (*gemm14)(const Int8GemmTask& task);
  // quantize(x[i], inverse_scale, input.limit). count: a multiple of 16.
  void (*quantize)(const float* x, int count, float inverse_scale, const Int8Input& input, uint8_t* to);
  // The same with inverse_row_unit() of the row's largest magnitude. Returns row_unit() of it.
  float (*quantize_row)(const float* x, int count, const Int8Input& input, uint8_t* to);
  void (*attention)(const Int8AttentionTask& task);
};

// The table for an instruction set the processor has; by default the one in use.
const Int8Kernels& int8_kernels(Isa isa);
const Int8Kernels& int8_kernels();

}  // namespace whisperxdna2
