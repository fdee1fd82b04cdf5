// The functional model of the NPU's array: it takes the transaction stream of a command, keeps the registers and shim
// DMA channels the stream programs, moves the bytes as the buffer descriptors say, and runs the overlay's cores on
// them. It knows nothing of the driver above it.
//
// It is stricter than silicon: what the hardware would drop, garble or wait for without a word is reported in words and
// fails the command. Layouts and limits are those of kernels/overlay.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace emulated_npu {

// Memory as the device addresses it.
class Memory {
 public:
  // Where [address, address + size) lies, or null if that is not inside one buffer the command may touch.
  virtual uint8_t* at(uint64_t address, uint64_t size) const = 0;

 protected:
  ~Memory() = default;
};

// A command as the controller gets it.
struct Command {
  const uint32_t* words = nullptr;  // the transaction stream
  uint64_t word_count = 0;
  // Addresses of the kernel's buffer arguments, for the stream's address patches. Null: the host has already patched
  // the descriptors in the stream, and has added the DDR aperture's offset.
  const std::vector<uint64_t>* arguments = nullptr;
};

struct Outcome {
  enum Kind {
    kDone,
    kFailed,  // a rule was broken
    kHung,    // waits for what never comes: only a watchdog ends it
  };
  Kind kind = kDone;
  std::string message;  // which rule, where in the stream
  double mmac = 0;      // million multiply-accumulates the cores did
};

class Fabric;

class Array {
 public:
  enum class Mode {
    kExact,  // the core programs, compiled for the host; checks that no accumulator overflows
    kFast,   // the same numbers by AVX2
    kDelay,  // no arithmetic: outputs are left as they are. What passed all checks once is not walked through again
  };

  Array();
  ~Array();

  // Loads the configuration in `pdi`: for the emulator a text with a line "overlay=NAME", NAME being gemm8, gemm1, vadd
  // or vmul. Returns what is wrong with it, or an empty string. Resets everything.
  std::string load(const std::string& pdi);
  // As a suspend or a restart of the context does: registers, fifos and cores start anew, the configuration stays.
  void reset();

  Outcome run(const Command& command, const Memory& memory, Mode mode);

 private:
  Outcome walk(const Command& command, const Memory& memory, Mode mode);

  std::string overlay_;
  std::unique_ptr<Fabric> fabric_;
  // kDelay: what each stream that has passed multiplies, by where it is and the addresses it was given.
  struct Passed {
    std::vector<uint32_t> words;
    double mmac;
  };
  std::map<std::pair<const uint32_t*, std::vector<uint64_t>>, Passed> passed_;
  bool broken_ = false;  // a command ended in the middle; what it left in fifos and cores is still there
};

}  // namespace emulated_npu
