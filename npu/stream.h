// Transaction streams, the programs of the NPU's controller: register writes, address patches and token waits in a
// binary form, executed from an instruction buffer. And the shim's buffer descriptors, which are most of what is
// written.
//
// The format is that of mlir-aie (lib/Targets/AIETargetNPU.cpp; the descriptors lib/Dialect/AIEX/Transforms/
// AIEDmaToNpu.cpp), version 0.1. decode() also reads version 1.0, the compact form of aiebu (aie2/transaction.cpp).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/overlay.h"

namespace whisperxdna2::npu {

struct Operation {
  enum class Kind {
    kWrite,       // register = value
    kMaskWrite,   // register = register & ~mask | value & mask
    kBlockWrite,  // payload into consecutive registers
    kPatch,       // adds buffer argument `argument`'s address + offset to the descriptor words at and after `address`
    kTokenWait,   // until a task on `channel` that asked for a token has ended; takes the token
  };
  Kind kind = Kind::kWrite;
  uint32_t address = 0;
  uint32_t value = 0, mask = 0;
  std::vector<uint32_t> payload;
  uint32_t argument = 0;
  uint64_t offset = 0;
  overlay::Channel channel{};

  static Operation write(uint32_t address, uint32_t value);
  static Operation mask_write(uint32_t address, uint32_t value, uint32_t mask);
  static Operation block_write(uint32_t address, std::vector<uint32_t> payload);
  static Operation patch(uint32_t address, uint32_t argument, uint64_t offset);
  static Operation token_wait(const overlay::Channel& channel);

  bool operator==(const Operation& other) const;
};

std::vector<uint32_t> encode(const std::vector<Operation>& operations);
// Throws Error(kInvalidFile) for anything but a complete stream of these operations for an NPU2.
std::vector<Operation> decode(const uint32_t* words, size_t count);

// What a shim channel reads or writes in one task, in words of four bytes: `runs` times `length` words in the order
//   for i2 = 0, 1, ..  for i1 in [0, size1)  for i0 in [0, size0)   word i0 * step0 + i1 * step1 + i2 * step2
// Sizes of 0: the run is linear. Each run begins run_step words after the one before.
struct ShimWalk {
  uint64_t length = 0;
  uint64_t size0 = 0, step0 = 1;
  uint64_t size1 = 0, step1 = 1;
  uint64_t step2 = 1;
  uint64_t runs = 1, run_step = 0;
};
// Whether the fields of a descriptor and of a queue entry can hold it.
bool fits(const ShimWalk& walk);
// The eight words of the descriptor. Words 1 and 2, the address, are 0 until they are patched. The walk must fit.
std::array<uint32_t, overlay::kBdWords> descriptor(const ShimWalk& walk);
// What is written to a channel's queue to start the task.
uint32_t queue_entry(int bd, uint64_t runs, bool token);

}  // namespace whisperxdna2::npu
