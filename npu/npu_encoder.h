// Whisper's encoder with its linear layers on the NPU, in int8: the same numbers as the CPU's int8 encoder, byte for
// byte.
//
//   slot's thread   stem | norm, quantize |     | attention, quantize |     | add, norm, quantize |         | add ...
//   NPU                                   | qkv |                     | out |                     | fc1 fc2 |
//
// Each slot has a thread and buffers of its own, so that the NPU computes for one while the processor works for the
// other. Weights, streams and the device are shared by all encoders of the process. fc1's results stay where fc2 reads
// them.
//
// Where the device fails, the half of a layer at hand is computed again on the CPU, and so is all that follows, until
// the device can be opened anew: a window's bytes do not depend on who computed it.
#pragma once

#include <memory>
#include <optional>

#include "npu/gemm_plan.h"
#include "whisper/backend.h"

namespace whisperxdna2::npu {

// cpu_may_finish: whether the CPU takes over when the device fails later; else wait() throws Error(kDevice). Throws
// Error where there is no NPU to begin with. kind: none for the plan that is predicted to be the fastest.
std::unique_ptr<Encoder> make_npu_encoder(std::shared_ptr<const Model> model, Precision precision, int threads,
                                          bool cpu_may_finish, std::optional<PlanKind> kind = std::nullopt);

}  // namespace whisperxdna2::npu
