// The one description of the NPU's array: geometry, data flow, layouts and limits of the GEMM overlay. The executor in
// npu/, the emulated device in tests/device/ and the IRON design in aie2p/ take their constants from here and nowhere
// else.
//
// The overlay computes C = output(A * W^T) (arithmetic.h) on the array of an XDNA2 NPU ("NPU2": AIE2P, 8 columns of one
// shim, one memory tile and four cores). It is loaded once. A shape is only a matter of what the shims' buffer
// descriptors send: cores and memory tiles move objects of fixed sizes for ever, and the cores learn the number of
// steps, the epilogue and its constants from the tail of each weight object.
//
//       DDR    A, 64 rows of a row block              W, packed, one run per column     C, 64-byte runs
//               |  shim MM2S, broadcast along row r    |  shim MM2S, down column c       ^  shim S2MM
//       memtile A object, re-blocked on the way out    B object, as it is                |  4 cores' joined, re-blocked
//       core    A, depth 2                             B, depth 2                        |  C, depth 1
//
// With 8 columns ("gemm8") core (r, c) computes rows mb*256 + r*64 .. +63 and channels nb*512 + c*64 .. +63 of the
// output tile (mb, nb); with 1 column ("gemm1") channels nb*64 .. +63. Everything a core needs to continue is on the
// way to it; nothing outlives an output tile, and consecutive products need nothing between them but their data
// dependency.
//
// Hardware facts are those of Xilinx/mlir-aie (include/aie/Dialect/AIE/IR/AIETargetModel.h and AIEDmaToNpu.cpp).
// Sizes are in bytes unless a name says words; a word has 4 bytes, which is the unit of the DMAs.
#pragma once

#include <cstdint>
#include <string>

namespace whisperxdna2::overlay {

// Of what this file says. Another number means that an array and a host of different numbers do not understand each
// other.
constexpr int kVersion = 1;

// ---- Variants

struct Variant {
  const char* name;      // "overlay=NAME" in the emulator's configuration; file name of the xclbin
  int columns;
  int a_object;          // bytes of an A object: of one core row, or of all four
  int n_block;           // channels per output tile
};
constexpr int kMaxColumns = 8;
constexpr int kCoreRows = 4;

// ---- One core's share of an output tile, and the objects that make it

constexpr int kTileM = 64;   // rows
constexpr int kTileK = 128;  // bytes of the inner dimension in one step
constexpr int kTileN = 64;   // channels
constexpr int kBlock = 8;    // the product is 8 x 8 x 8 (aie::mmul<8, 8, 8, int8, int8>)

constexpr int kRowBlock = kCoreRows * kTileM;  // rows of an output tile: M is a multiple of this
constexpr int kAObject = kTileM * kTileK;      // one core row's share
constexpr int kWeights = kTileK * kTileN;      // weights of a B object
constexpr int kTail = 512;                     // ... and its tail
constexpr int kBObject = kWeights + kTail;
constexpr int kCSegment = kTileM * kTileN;         // one core's bytes of one plane
constexpr int kCObject = kCoreRows * kCSegment;    // as it leaves the memory tile: 256 rows of 64 bytes

constexpr Variant kGemm8{"gemm8", 8, kAObject, 8 * kTileN};
constexpr Variant kGemm1{"gemm1", 1, kCoreRows* kAObject, kTileN};

// Depth of the object fifos. C has one buffer in the core: it is written once per tile.
constexpr int kDepth = 2;
constexpr int kCoreCDepth = 1;

// ---- Layouts
//
// A in DDR    [M][K * planes], row-major; the planes of a wide input lie beside each other in a row, hi first.
// A in core   block (kb, rb), kb = 0..15, rb = 0..7, at (kb * 8 + rb) * 64; inside, 8 rows of 8 bytes.
// W packed    [column][nb][kt] B objects; with two planes the second half of the kt repeats the first half's weights.
//             byte (nbk * 16 + kbk) * 64 + k * 8 + n is W[n0 + nbk * 8 + n][k0 + kbk * 8 + k], where W is [N][K],
//             n0 = nb * n_block + column * 64, k0 = (kt mod K / 128) * 128.
// sums        block (rb, nbk) at (rb * 8 + nbk) * 64 int32
// C in core   block (rb, nbk) at (rb * 8 + nbk) * 64 bytes
// C in DDR    [M][N * planes], hi at column n, lo at column N + n: what fc1 writes is what fc2 reads.

constexpr int a_in_core(int k_block, int row_block) { return (k_block * (kTileM / kBlock) + row_block) * 64; }
constexpr int b_in_core(int n_block, int k_block) { return (n_block * (kTileK / kBlock) + k_block) * 64; }
constexpr int c_in_core(int row_block, int n_block) { return (row_block * (kTileN / kBlock) + n_block) * 64; }

// How a memory tile reads an object on its way out: runs of `run` bytes, three nested loops, outermost first.
struct Walk {
  struct Loop {
    int size, stride;
  };
  Loop outer[3];
  int run;
};
constexpr Walk kAWalk{{{16, 8}, {8, 1024}, {8, 128}}, 8};  // each core row's share
constexpr Walk kCWalk{{{8, 512}, {8, 8}, {8, 64}}, 8};     // each core's segment

// Tail of a B object, little-endian: int32 at these byte offsets from the object's byte kWeights. START's tail is the
// one whose numbers count; the others' only flags are read.
namespace tail {
constexpr int kMagicAt = 0;
constexpr int kFlagsAt = 4;
constexpr int kRestAt = 8;    // steps of this output tile after START's: K * planes / 128 - 1
constexpr int kMoreAt = 12;   // C objects after the first: 0 for one plane, 1 for two
constexpr int kS1At = 16;     // OutputStage
constexpr int kS2At = 20;
constexpr int kModeAt = 24;   // OutputMode
constexpr int kGeluAt = 28;   // GeluScale: c, s, d, t, out_shift
constexpr int kUnusedAt = 48;  // zeros
constexpr int kBiasAt = 64;           // int32[64]
constexpr int kMultiplierAt = 320;    // int16[64]
constexpr int kUnusedEndAt = 448;     // zeros to the end

constexpr int32_t kMagic = 0x57585032;  // "2PXW"; read by the emulated device only
constexpr int32_t kStart = 1;           // zero the sums and take this tail's numbers
constexpr int32_t kShift7 = 2;          // multiply the sums by 128 before this step: from here on the plane is lo
}  // namespace tail

// ---- Rules for shapes

constexpr bool fits(const Variant& variant, int m, int k_bytes, int n) {
  return m > 0 && k_bytes > 0 && n > 0 && m % kRowBlock == 0 && k_bytes % kTileK == 0 && n % variant.n_block == 0;
}
// Bytes of the packed weights of one product.
constexpr uint64_t packed_size(int k_bytes, int n) {
  return uint64_t{static_cast<uint64_t>(k_bytes / kTileK)} * static_cast<uint64_t>(n / kTileN) * kBObject;
}

// ---- Shim channels

enum class Direction : uint8_t { kS2mm = 0, kMm2s = 1 };  // into DDR, out of DDR; values as in a token wait
struct Channel {
  int column;
  Direction direction;
  int index;
};
// Fifos are declared A, B, C, and the compiler gives out channels in that order. A real build's module is compared with
// these before its xclbin is used (aie.shim_dma_allocation).
constexpr int a_column(const Variant& variant, int row) { return variant.columns == 1 ? 0 : 2 * row; }
constexpr int a_streams(const Variant& variant) { return variant.columns == 1 ? 1 : kCoreRows; }
constexpr Channel a_channel(const Variant& variant, int stream) {
  return {a_column(variant, stream), Direction::kMm2s, 0};
}
constexpr Channel b_channel(const Variant& variant, int column) {
  const bool shared = variant.columns == 1 || column % 2 == 0;  // with A
  return {column, Direction::kMm2s, shared ? 1 : 0};
}
constexpr Channel c_channel(const Variant&, int column) { return {column, Direction::kS2mm, 0}; }

// Descriptors by the number of the task that uses them (0..3 of each operand). A token on C frees all of its column's.
constexpr int kTasksPerOperand = 4;
constexpr int kABd = 0, kBBd = 4, kCBd = 8;

// ---- Shim registers

constexpr int kShimBds = 16;
constexpr int kBdWords = 8;
constexpr int kQueueDepth = 4;  // tasks per channel; a fifth is dropped by the hardware without a word
constexpr uint32_t kShimBdBase = 0x1D000, kShimBdSize = 0x20;
constexpr uint32_t kShimControlBase = 0x1D200;  // S2MM 0, S2MM 1, MM2S 0, MM2S 1, 8 bytes each: control, queue

constexpr uint32_t tile_address(int column, int row, uint32_t offset) {
  return static_cast<uint32_t>(column) << 25 | static_cast<uint32_t>(row) << 20 | offset;
}
constexpr uint32_t bd_address(int column, int bd) {
  return tile_address(column, 0, kShimBdBase + static_cast<uint32_t>(bd) * kShimBdSize);
}
constexpr uint32_t control_address(const Channel& channel) {
  return tile_address(channel.column, 0, kShimControlBase + (channel.direction == Direction::kMm2s ? 0x10 : 0) +
                                             static_cast<uint32_t>(channel.index) * 8);
}
constexpr uint32_t queue_address(const Channel& channel) { return control_address(channel) + 4; }
static_assert(bd_address(2, 3) == 0x0401D060 && control_address({5, Direction::kS2mm, 0}) == 0x0A01D200 &&
              queue_address({2, Direction::kMm2s, 1}) == 0x0401D21C);

// Control register: which controller gets a channel's tokens. 15 is the shim row's id in the compiler's table; a real
// build's module is compared with it.
constexpr uint32_t kControllerMask = 0x1F00;
constexpr uint32_t kController = 15;

// ---- Limits of buffer descriptors and tasks

constexpr int kMaxBdSize = 1023;           // of the two inner dimensions
constexpr int kMaxBdStep = 1 << 20;        // words
constexpr int kMaxIterations = 64;
constexpr int kMaxRepeat = 256;            // runs of a task

// ---- Transaction streams

constexpr uint32_t kArrayRows = 6, kMemtileRows = 1, kDeviceGeneration = 4;
// Host memory lies at this offset in the shim DMA's address space. Only streams whose addresses the host patches (ELF
// control code) contain it.
constexpr uint64_t kDdrAperture = 0x80000000;

// ---- The kernel in the xclbin, and its arguments

constexpr char kKernelName[] = "MLIR_AIE";
constexpr uint64_t kRunTransaction = 3;  // argument 0
constexpr int kInstructionArgument = 1, kInstructionWordsArgument = 2, kFirstBufferArgument = 3;
// Buffer arguments as address patches count them.
constexpr int kAArgument = 0, kWArgument = 1, kCArgument = 2, kChainedCArgument = 3;
constexpr int kBufferArguments = 5;

// The build writes this key with this value into an xclbin's key-value metadata, and the host refuses another value.
constexpr char kIdentityKey[] = "whisperxdna2_overlay";
inline std::string identity(const Variant& variant) {
  return std::string(variant.name) + " version " + std::to_string(kVersion) + ", tiles " + std::to_string(kTileM) +
         "x" + std::to_string(kTileK) + "x" + std::to_string(kTileN) + ", tail " + std::to_string(kTail);
}

// ---- Memory of a core

constexpr int kCoreMemory = 65536;
constexpr int kCoreStack = 4096;
constexpr int kCoreTables = 4096;  // of the activation
constexpr int kCoreUse = kDepth * kAObject + kDepth * kBObject + kTileM * kTileN * 4 + kCoreCDepth * kCSegment + kTail +
                         kCoreTables + kCoreStack;
static_assert(kCoreUse == 62976 && kCoreUse <= kCoreMemory);

}  // namespace whisperxdna2::overlay
