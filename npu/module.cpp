// What whisper/backend.cpp finds in this module.
#include "npu/npu_encoder.h"

extern "C" __attribute__((visibility("default"))) std::unique_ptr<whisperxdna2::Encoder>
whisperxdna2_make_npu_encoder_3(std::shared_ptr<const whisperxdna2::Model> model, whisperxdna2::Precision precision,
                                int threads, bool cpu_may_finish) {
  return whisperxdna2::npu::make_npu_encoder(std::move(model), precision, threads, cpu_may_finish);
}
