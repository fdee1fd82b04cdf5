#include "whisper/cpu_encoder.h"

#include <pthread.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/thread_pool.h"
#include "whisper/encoder_schedule.h"
#include "whisper/error.h"
#include "whisper/quantize.h"

namespace whisperxdna2 {
namespace {

using Clock = std::chrono::steady_clock;

class CpuEncoder : public Encoder {
 public:
  CpuEncoder(const std::shared_ptr<const PackedEncoder>& weights, int threads)
      : d_model_(weights->dims.d_model),
        most_positions_(weights->dims.n_audio_ctx),
        precision_(weights->int8_layers.empty() ? "f32" : "int8"),
        schedule_(weights, threads),
        thread_([this] { run(); }) {}

  ~CpuEncoder() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      abandon_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  EncoderInfo describe() const override {
    return {"cpu", cpu_name() + " (" + isa_name(isa()) + ")", "", precision_};
  }

  void submit(int slot, const float* mel, int positions) override {
    std::lock_guard<std::mutex> lock(mutex_);
    Slot& s = slots_.at(slot);
    if (s.state != SlotState::kFree) throw Error(ErrorCode::kInvalidUse, "this encoder slot is in use");
    if (positions < 1 || positions > most_positions_) {
      throw Error(ErrorCode::kInvalidUse, "an encoder window has 1 to " + std::to_string(most_positions_) + " positions");
    }
    s.state = SlotState::kQueued;
    s.mel = mel;
    s.positions = positions;
    s.order = next_order_++;
    changed_.notify_all();
  }

  const float* wait(int slot, Clock::time_point deadline) override {
    std::unique_lock<std::mutex> lock(mutex_);
    Slot& s = slots_.at(slot);
    if (s.state == SlotState::kFree) throw Error(ErrorCode::kInvalidUse, "nothing was submitted to this encoder slot");
    // Counted, so that an interruption that ends before this thread runs again is not missed.
    const unsigned seen = interruptions_;
    const auto interrupted = [&] { return interrupted_ || interruptions_ != seen; };
    const bool in_time = changed_.wait_until(lock, deadline, [&] { return s.state >= SlotState::kDone || interrupted(); });
    if (s.state == SlotState::kQueued) s.state = SlotState::kFree;
    if (s.state == SlotState::kRunning) {
      // The schedule looks at this flag every few milliseconds.
      abandon_ = true;
      changed_.wait(lock, [&] { return s.state >= SlotState::kDone; });
    }
    const SlotState ended = s.state;
    s.state = SlotState::kFree;
    if (interrupted() || (in_time && ended == SlotState::kAbandoned)) throw Error(ErrorCode::kInterrupted, "interrupted");
    if (!in_time) throw Error(ErrorCode::kDevice, "the processor did not encode the window in time");
    if (ended == SlotState::kFailed) throw Error(ErrorCode::kNoResource, "out of memory while encoding a window");
    return s.features.data();
  }

  void interrupt() override { set_interrupted(true); }
  void resume() override { set_interrupted(false); }

 private:
  enum class SlotState { kFree, kQueued, kRunning, kDone, kAbandoned, kFailed };
  struct Slot {
    SlotState state = SlotState::kFree;
    const float* mel = nullptr;
    int positions = 0;
    uint64_t order = 0;
    std::vector<float> features;
  };

  void set_interrupted(bool value) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      interrupted_ = value;
      if (value) {
        ++interruptions_;
        abandon_ = true;
      }
    }
    changed_.notify_all();
  }

  // The encoder's thread: runs queued slots in the order of submission.
  void run() {
    pthread_setname_np(pthread_self(), "whisper-encoder");
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      Slot* s = nullptr;
      changed_.wait(lock, [&] {
        s = nullptr;
        for (Slot& candidate : slots_) {
          if (candidate.state == SlotState::kQueued && (!s || candidate.order < s->order)) s = &candidate;
        }
        return stopping_ || (s && !interrupted_);
      });
      if (stopping_) return;
      s->state = SlotState::kRunning;
      abandon_ = false;
      lock.unlock();
      SlotState end = SlotState::kDone;
      try {
        s->features.resize(static_cast<size_t>(s->positions) * d_model_);
        if (!schedule_.run(s->mel, s->positions, s->features.data(), abandon_)) end = SlotState::kAbandoned;
      } catch (const std::bad_alloc&) {
        end = SlotState::kFailed;
      }
      lock.lock();
      s->state = end;
      changed_.notify_all();
    }
  }

  const int d_model_, most_positions_;
  const char* const precision_;
  EncoderSchedule schedule_;  // only for the encoder's thread

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::array<Slot, kSlots> slots_;  // a running slot's mel and features belong to the encoder's thread
  uint64_t next_order_ = 0;
  bool interrupted_ = false, stopping_ = false;
  unsigned interruptions_ = 0;
  std::atomic<bool> abandon_{false};  // the running slot is no longer wanted

  std::thread thread_;  // last: it uses everything above
};

}  // namespace

std::unique_ptr<Encoder> make_cpu_encoder(std::shared_ptr<const Model> model, Precision precision, int threads) {
  const int n = threads > 0 ? threads : ThreadPool::available_processors();
  if (precision == Precision::kBF16) {
    throw Error(ErrorCode::kUnsupported, "the CPU does not encode in bf16; use precision=auto, int8 or f32");
  }
  if (precision == Precision::kF32) return std::make_unique<CpuEncoder>(packed_encoder(model), n);
  try {
    return std::make_unique<CpuEncoder>(packed_int8_encoder(model, [&] { return quantized_encoder(model, n); }), n);
  } catch (const Error& e) {
    if (precision != Precision::kAuto || e.code() != ErrorCode::kUnsupported) throw;
    return std::make_unique<CpuEncoder>(packed_encoder(model), n);  // describe() says so
  }
}

}  // namespace whisperxdna2
