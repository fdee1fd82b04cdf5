// Whisper's encoder on the CPU: the layer schedule over kernels/cpu.
#pragma once

#include <memory>

#include "whisper/encoder.h"
#include "whisper/model.h"

namespace whisperxdna2 {

enum class Precision { kAuto, kInt8, kBF16, kF32 };

// kAuto is int8, and f32 for a model that cannot be quantized; kBF16 is refused. The first int8 encoder of a model measures
// it on bundled speech, which takes seconds, and keeps the result in the cache (quantize.h).
// threads: 0 = all available processors. The encoder has one thread of its own that runs the submitted slots in order;
// its matrix products use the process-wide pool. Packed weights are made once per model and precision and shared by all
// encoders in the process while one of them lives. Throws Error.
std::unique_ptr<Encoder> make_cpu_encoder(std::shared_ptr<const Model> model, Precision precision, int threads);

}  // namespace whisperxdna2
