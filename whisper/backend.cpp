#include "whisper/backend.h"

#include "whisper/error.h"

namespace whisperxdna2 {

BackendChoice make_encoder(std::shared_ptr<const Model> model, Backend backend, Precision precision, int threads) {
  if (backend == Backend::kNpu) {
    throw Error(ErrorCode::kNotFound, "this build has no NPU module; use backend=cpu or backend=auto");
  }
  BackendChoice choice;
  choice.encoder = make_cpu_encoder(std::move(model), precision, threads);
  if (backend == Backend::kAuto) choice.fallback_reason = "no NPU module is installed: encoding on the CPU";
  return choice;
}

}  // namespace whisperxdna2
