// The file with the array's configuration: finds it and checks that it is one of ours.
#pragma once

#include <xrt/experimental/xrt_xclbin.h>

#include <string>

#include "kernels/overlay.h"

namespace whisperxdna2::npu {

struct OverlayFile {
  std::string path;
  xrt::xclbin xclbin;
  const overlay::Variant* variant;
};

// $WHISPERXDNA2_OVERLAY, else gemm8.xclbin (32 cores) or gemm1.xclbin (4 cores) in the folder of this module. Its
// identity (overlay::identity: version and tile sizes), kernel, arguments and columns must be those of
// kernels/overlay.h; what its cores do is tested by Device. Throws Error: kNotFound, kInvalidFile, kUnsupported.
OverlayFile load_overlay();

}  // namespace whisperxdna2::npu
