// Chooses who executes the encoder.
#pragma once

#include <memory>
#include <string>

#include "whisper/cpu_encoder.h"
#include "whisper/encoder.h"
#include "whisper/model.h"

namespace whisperxdna2 {

enum class Backend { kAuto, kNpu, kCpu };

struct BackendChoice {
  std::unique_ptr<Encoder> encoder;
  // Why `auto` did not take the NPU ("no NPU module installed", ...); empty where it did or was not asked to.
  std::string fallback_reason;
};

// Throws Error; with kNpu and no usable NPU it says what is missing and what to do. Only kAuto may choose the CPU.
BackendChoice make_encoder(std::shared_ptr<const Model> model, Backend backend, Precision precision, int threads);

}  // namespace whisperxdna2
