#include "whisper/silent_tail.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "dsp/log_mel.h"
#include "whisper/bundled_speech.h"
#include "whisper/cpu_encoder.h"
#include "whisper/derived_file.h"
#include "whisper/measurements.h"

namespace whisperxdna2 {
namespace {

constexpr char kKind[] = "silent-tail";
constexpr int kVersion = 1;
constexpr int kFirstRow = 512;  // the position after the 10.24 s of speech

// Interrupts an encoder soon after *cancel becomes true, while in scope.
class CancelWatch {
 public:
  CancelWatch(Encoder* encoder, const std::atomic<bool>* cancel) {
    if (!cancel) return;
    thread_ = std::thread([this, encoder, cancel] {
      std::unique_lock<std::mutex> lock(mutex_);
      while (!done_ && !*cancel) changed_.wait_for(lock, std::chrono::milliseconds(50));
      if (!done_) encoder->interrupt();
    });
  }
  ~CancelWatch() {
    if (!thread_.joinable()) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      done_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace

std::vector<float> measure_silent_tail(const std::shared_ptr<const Model>& model, int threads,
                                       const std::function<void(double)>& progress, const std::atomic<bool>* cancel) {
  std::vector<float> tail(static_cast<size_t>(kTailRows) * model->dims.d_model);
  const std::unique_ptr<Encoder> encoder = make_cpu_encoder(model, Precision::kF32, threads);
  const CancelWatch watch(encoder.get(), cancel);
  const int frames = kMaxPositions * kFramesPerPosition;
  std::vector<float> mel(static_cast<size_t>(model->dims.n_mels) * frames);
  for (int clip = 0; clip < kBundledClips; ++clip) {
    if (progress) progress(static_cast<double>(clip) / kBundledClips);
    LogMel front_end(model->dims.n_mels);
    const std::vector<float> speech = bundled_speech(clip);
    front_end.push(speech.data(), static_cast<int64_t>(speech.size()));
    const std::vector<float> silence(static_cast<size_t>(frames) * kFrameHop - speech.size());
    front_end.push(silence.data(), static_cast<int64_t>(silence.size()));
    front_end.window(0, frames, frames, mel.data());

    encoder->submit(0, mel.data(), kMaxPositions);
    const float* features = encoder->wait(0, std::chrono::steady_clock::now() + std::chrono::minutes(5));
    const float* rows = features + static_cast<size_t>(kFirstRow) * model->dims.d_model;
    for (size_t i = 0; i < tail.size(); ++i) tail[i] += rows[i] / kBundledClips;
  }
  return tail;
}

std::vector<float> silent_tail(const std::shared_ptr<const Model>& model, int threads,
                               const std::function<void(double)>& progress, const std::atomic<bool>* cancel,
                               std::string* notice) {
  if (const auto known = stored_measurements(*model)) return known->tail;
  std::vector<float> tail(static_cast<size_t>(kTailRows) * model->dims.d_model);
  if (const auto stored = read_derived(model->content_key, kKind, kVersion)) {
    if (stored->size() == tail.size() * sizeof(float)) {
      std::memcpy(tail.data(), stored->data(), stored->size());
      return tail;
    }
  }

  tail = measure_silent_tail(model, threads, progress, cancel);
  const std::string failure =
      write_derived(model->content_key, kKind, kVersion,
                    std::string(reinterpret_cast<const char*>(tail.data()), tail.size() * sizeof(float)));
  if (!failure.empty() && notice) *notice = failure + "; starting will take longer until the cache can be written";
  return tail;
}

}  // namespace whisperxdna2
