#include "whisper/cpu_encoder.h"

#include <pthread.h>

#include <thread>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/thread_pool.h"
#include "whisper/encoder_schedule.h"
#include "whisper/error.h"
#include "whisper/quantize.h"
#include "whisper/slotted_encoder.h"

namespace whisperxdna2 {
namespace {

class CpuEncoder : public SlottedEncoder {
 public:
  CpuEncoder(const std::shared_ptr<const PackedEncoder>& weights, int threads)
      : SlottedEncoder(weights->dims.d_model, weights->dims.n_audio_ctx, "the processor"),
        precision_(!weights->bf16_layers.empty() ? "bf16" : weights->int8_layers.empty() ? "f32" : "int8"),
        schedule_(weights, threads),
        thread_([this] {
          pthread_setname_np(pthread_self(), "whisper-encoder");
          serve(kEverySlot,
                [this](const Window& w) { return schedule_.run(w.mel, w.positions, w.features, w.abandoned); });
        }) {}

  ~CpuEncoder() override {
    stop();
    thread_.join();
  }

  EncoderInfo describe() const override {
    return {"cpu", cpu_name() + " (" + isa_name(isa()) + ")", "", precision_};
  }

 private:
  const char* const precision_;
  EncoderSchedule schedule_;  // only for the encoder's thread
  std::thread thread_;        // last: it uses everything above
};

}  // namespace

std::unique_ptr<Encoder> make_cpu_encoder(std::shared_ptr<const Model> model, Precision precision, int threads,
                                          const std::function<void(double)>& progress,
                                          const std::atomic<bool>* cancel) {
  const int n = threads > 0 ? threads : ThreadPool::available_processors();
  if (precision == Precision::kBF16) return std::make_unique<CpuEncoder>(packed_bf16_encoder(model), n);
  if (precision == Precision::kF32) return std::make_unique<CpuEncoder>(packed_encoder(model), n);
  try {
    const auto make = [&](const TakeLayer& take) { quantized_layers(model, n, take, progress, cancel); };
    return std::make_unique<CpuEncoder>(packed_int8_encoder(model, make, cancel), n);
  } catch (const Error& e) {
    if (precision != Precision::kAuto || e.code() != ErrorCode::kUnsupported) throw;
    return std::make_unique<CpuEncoder>(packed_encoder(model), n);  // describe() says so
  }
}

}  // namespace whisperxdna2
