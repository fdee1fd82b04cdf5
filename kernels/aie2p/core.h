// The programs of one core of the overlay (kernels/overlay.h), in C++ against Xilinx/aie_api for AIE2P. The same
// sources are compiled for the host, where a stand-in of aie_api executes them (tests/aie2p/host/), and must give the
// numbers of kernels/arithmetic.h bit for bit.
//
// The worker in gemm.py calls them for ever, once per output tile:
//
//     gemm_step(a, b, sums, parameters)              with START; it leaves the tail in `parameters`
//     gemm_step(a, b, sums, parameters)              parameters[kRest] times
//     gemm_requantize(sums, parameters)
//     gemm_gelu(sums, parameters)
//     gemm_write_first(sums, parameters, c)
//     gemm_write_second(sums, c)                     parameters[kMore] times
//
// All pointers are to the core's own memory and aligned to 64 bytes: AIE2P truncates the address of a misaligned vector
// access without a word. `sums` are the tile's accumulators, 64 x 64 int32 in blocks of 8 x 8; from gemm_requantize on
// each block's first bytes hold its outputs instead, as int16 and finally as the bytes of the second plane, since there
// is no memory for another buffer. `parameters` is a copy of START's tail.
//
// Rounding and saturation are registers of the whole core, floor and off at power-up, and other programs set them as
// they like: every function sets those that its numbers depend on.
//
// One function, one file, one object: a compiler was seen to miscompile a product loop and a table's activation when
// they were in one translation unit (Xilinx/llvm-aie issue 1262). There is no floating point (software calls), no
// division (likewise), no memcpy, and no counter kept in memory between calls (Xilinx/mlir-aie issue 3792).
#pragma once

#include <cstdint>

#include "kernels/arithmetic.h"
#include "kernels/overlay.h"

extern "C" {

// sums (+)= A * B for an A object (8192 bytes) and a B object (8704 bytes with its tail). Does first what the tail's
// flags ask for: START clears `sums` and copies the tail to `parameters`; SHIFT7 multiplies `sums` by 128. Sums wrap
// modulo 2^32; that they do not is proven when the weights are quantized.
void gemm_step(const int8_t* a, const int8_t* b, int32_t* sums, int32_t* parameters);

// Adds the bias and scales in two steps of 16 bits, as arithmetic.h's output() before GELU. Modes with 8 bits of output
// are narrowed when written: saturating to 16 bits and then to 8 is the same as to 8 at once.
void gemm_requantize(int32_t* sums, const int32_t* parameters);

// arithmetic.h's gelu_14bit() on the outputs; nothing in the other modes.
void gemm_gelu(int32_t* sums, const int32_t* parameters);

// Outputs to a C object (4096 bytes): as int8, or the upper plane. Leaves the lower plane in `sums`.
void gemm_write_first(int32_t* sums, const int32_t* parameters, int8_t* c);

// The lower plane to the second C object.
void gemm_write_second(const int32_t* sums, int8_t* c);

}  // extern "C"

namespace whisperxdna2::aie2p {

// The tail as int32 words.
constexpr int kFlags = overlay::tail::kFlagsAt / 4;
constexpr int kRest = overlay::tail::kRestAt / 4;
constexpr int kMore = overlay::tail::kMoreAt / 4;
constexpr int kS1 = overlay::tail::kS1At / 4;
constexpr int kS2 = overlay::tail::kS2At / 4;
constexpr int kMode = overlay::tail::kModeAt / 4;
constexpr int kGelu = overlay::tail::kGeluAt / 4;
constexpr int kBias = overlay::tail::kBiasAt / 4;
constexpr int kMultiplier = overlay::tail::kMultiplierAt / 4;
constexpr int kParameters = overlay::kTail / 4;

constexpr int kLanes = overlay::kBlock * overlay::kBlock;  // values of a block: one accumulator register
constexpr int kRowBlocks = overlay::kTileM / overlay::kBlock;
constexpr int kInnerBlocks = overlay::kTileK / overlay::kBlock;
constexpr int kColumnBlocks = overlay::kTileN / overlay::kBlock;
constexpr int kBlocks = kRowBlocks * kColumnBlocks;

}  // namespace whisperxdna2::aie2p

// How often a loop runs at least. The only hint for software pipelining that Peano (LLVM for AIE) follows; the chess_
// pragmas of older kernels do nothing there. The macro __AIECC__ is how aie_api tells that compiler.
#if defined(__AIECC__)
#define WHISPERXDNA2_PRAGMA(text) _Pragma(#text)
#define WHISPERXDNA2_LOOPS_AT_LEAST(count) WHISPERXDNA2_PRAGMA(clang loop min_iteration_count(count))
#else
#define WHISPERXDNA2_LOOPS_AT_LEAST(count)
#endif
