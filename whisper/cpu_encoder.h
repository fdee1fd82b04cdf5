// Whisper's encoder on the CPU: the layer schedule over kernels/cpu.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "whisper/encoder.h"
#include "whisper/model.h"

namespace whisperxdna2 {

enum class Precision { kAuto, kInt8, kBF16, kF32 };

// kAuto is int8, and f32 for a model that cannot be quantized; kBF16 is for processors with AVX512-BF16: others
// compute it more slowly than f32. The first int8 encoder of a model is quantized here; where the library does not know
// the model that takes seconds, which `progress` reports and *cancel ends with Error(kInterrupted) (quantize.h; they
// may be empty and null).
// threads: 0 = all available processors. The encoder has one thread of its own that runs the submitted slots in order;
// its matrix products use the process-wide pool. Packed weights are made once per model and precision and shared by all
// encoders in the process while one of them lives. Throws Error.
std::unique_ptr<Encoder> make_cpu_encoder(std::shared_ptr<const Model> model, Precision precision, int threads,
                                          const std::function<void(double)>& progress = {},
                                          const std::atomic<bool>* cancel = nullptr);

}  // namespace whisperxdna2
