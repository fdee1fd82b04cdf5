// Chooses who executes the encoder.
//
// The NPU's executor needs XRT and is a module of its own, libwhisperxdna2-npu.so in the folder of this library (or
// $WHISPERXDNA2_NPU_MODULE), which is loaded when the NPU is asked for and then kept.
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

// What the module exports, as extern "C" under kNpuFactoryName. Throws Error: kNotFound where there is no NPU that it
// can use. cpu_may_finish: whether the CPU takes over when the NPU fails later; else wait() throws. The name's number
// changes with this signature and with Encoder, Model or Precision, so that a module of another version is not called.
using NpuFactory = std::unique_ptr<Encoder>(std::shared_ptr<const Model> model, Precision precision, int threads,
                                            bool cpu_may_finish);
constexpr char kNpuFactoryName[] = "whisperxdna2_make_npu_encoder_3";

// Throws Error; with kNpu and no usable NPU it says what is missing and what to do. Only kAuto may choose the CPU.
// progress, cancel: as make_cpu_encoder().
BackendChoice make_encoder(std::shared_ptr<const Model> model, Backend backend, Precision precision, int threads,
                           const std::function<void(double)>& progress = {}, const std::atomic<bool>* cancel = nullptr);

}  // namespace whisperxdna2
