// Decoder of transaction streams, the NPU controller's programs. Both versions: 0.1, which mlir-aie emits
// (lib/Targets/AIETargetNPU.cpp), and 1.0, the compact form of aie-rt (xaiegbl.h, the "_opt" structures). Written
// independently of npu/'s encoder.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulated_npu {

// A rule the stream breaks; the message says which and where.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Operation {
  enum Kind { kWrite, kBlockWrite, kMaskWrite, kPatch, kTokenWait, kLoadPdi, kNothing };
  Kind kind;
  uint64_t at;           // word in the stream
  uint32_t address = 0;  // register
  uint32_t value = 0, mask = 0;
  const uint32_t* payload = nullptr;  // kBlockWrite
  uint32_t payload_words = 0;
  uint32_t argument = 0;  // kPatch
  uint64_t offset = 0;    // kPatch: added to the argument's address. kLoadPdi: the address
  int column = 0, row = 0, columns = 1, rows = 1, direction = 0, channel = 0;  // kTokenWait
};

// Throws Violation for whatever is not a complete and consistent stream for an NPU2.
std::vector<Operation> decode(const uint32_t* words, uint64_t count);

}  // namespace emulated_npu
