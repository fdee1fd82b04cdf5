// What an overlay makes of the array above the shim row: memory tiles, fifos and cores.
#pragma once

#include <memory>
#include <string>

#include "tests/device/array.h"
#include "tests/device/shim.h"

namespace emulated_npu {

class Fabric {
 public:
  virtual ~Fabric() = default;
  virtual int columns() const = 0;
  virtual uint64_t object_size(const Channel& channel) const = 0;
  // Moves and computes until nothing can go on. Throws Violation. Returns the multiply-accumulates done.
  virtual uint64_t run(Shim& shim, Array::Mode mode) = 0;
  // Whether a token from one channel proves that another's ended tasks have ended on any timing.
  virtual bool proves(const Channel& token, const Channel& ended) const = 0;
  // What the cores wait for or still hold; empty if all is as after a reset.
  virtual std::string unfinished() const = 0;
};

// gemm8 or gemm1 of kernels/overlay.h
std::unique_ptr<Fabric> make_gemm(const whisperxdna2::overlay::Variant& variant);
// For tests of the driver: MM2S 0 and 1 of column 0 are the inputs, S2MM 0 the output of int32 sums or products.
std::unique_ptr<Fabric> make_elementwise(bool multiply);

}  // namespace emulated_npu
