#include "whisper/cpu_encoder.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/thread_pool.h"
#include "whisper/error.h"

namespace whisperxdna2 {
namespace {

using Clock = std::chrono::steady_clock;

struct PackedNorm {
  std::vector<float> gain, bias;
};

struct PackedLayer {
  PackedNorm attention_norm, mlp_norm;
  PackedLinear qkv, out, fc1, fc2;
};

// The encoder's weights in the order of the kernels; shared by all encoders of a model.
struct PackedEncoder {
  ModelDims dims;
  PackedLinear conv1, conv2;     // linear layers over [tap][channel]
  std::vector<float> positions;  // [n_audio_ctx][d_model]
  std::vector<PackedLayer> layers;
  PackedNorm norm;
};

PackedNorm pack(const LayerNorm& n) { return {n.gain.to_f32(), n.bias.to_f32()}; }

PackedLinear pack(const Linear& l) {
  const std::vector<float> bias = l.bias ? l.bias.to_f32() : std::vector<float>();
  return PackedLinear(l.weight.to_f32().data(), l.bias ? bias.data() : nullptr, l.weight.shape[0], l.weight.shape[1]);
}

// Queries, keys and values as one product. The queries take the scale 1/8 of the scores with them: a power of two, so
// nothing is rounded.
PackedLinear pack_qkv(const Attention& a, int d) {
  std::vector<float> weight, bias;
  for (const Linear* l : {&a.query, &a.key, &a.value}) {
    const float scale = l == &a.query ? 0.125f : 1.0f;
    const std::vector<float> w = l->weight.to_f32();
    const std::vector<float> b = l->bias ? l->bias.to_f32() : std::vector<float>(d, 0.0f);
    for (float x : w) weight.push_back(x * scale);
    for (float x : b) bias.push_back(x * scale);
  }
  return PackedLinear(weight.data(), bias.data(), 3 * d, d);
}

// [out][in][3] -> [out][3][in], so that an output frame is a product with three consecutive input frames.
PackedLinear pack_convolution(const Tensor& weight, const Tensor& bias) {
  const int out = weight.shape[0], in = weight.shape[1];
  const std::vector<float> w = weight.to_f32();
  std::vector<float> taps(w.size());
  for (int o = 0; o < out; ++o) {
    for (int i = 0; i < in; ++i) {
      for (int k = 0; k < 3; ++k) taps[(static_cast<size_t>(o) * 3 + k) * in + i] = w[(static_cast<size_t>(o) * in + i) * 3 + k];
    }
  }
  return PackedLinear(taps.data(), bias.to_f32().data(), out, 3 * in);
}

std::shared_ptr<const PackedEncoder> pack_encoder(const Model& m) {
  const std::shared_ptr<const void> held = m.hold_encoder_weights();
  auto p = std::make_shared<PackedEncoder>();
  p->dims = m.dims;
  p->conv1 = pack_convolution(m.conv1_weight, m.conv1_bias);
  p->conv2 = pack_convolution(m.conv2_weight, m.conv2_bias);
  p->positions = m.encoder_positions.to_f32();
  for (const EncoderLayer& l : m.encoder_layers) {
    PackedLayer& packed = p->layers.emplace_back();
    packed.attention_norm = pack(l.attention_norm);
    packed.mlp_norm = pack(l.mlp_norm);
    packed.qkv = pack_qkv(l.attention, m.dims.d_model);
    packed.out = pack(l.attention.out);
    packed.fc1 = pack(l.fc1);
    packed.fc2 = pack(l.fc2);
  }
  p->norm = pack(m.encoder_norm);
  return p;
}

// Packed weights of the models in use. The model is the key and is kept alive by nobody here: an entry is dropped with the
// last encoder that uses it.
std::shared_ptr<const PackedEncoder> shared_pack(const std::shared_ptr<const Model>& model) {
  struct Entry {
    std::weak_ptr<const Model> model;
    std::weak_ptr<const PackedEncoder> packed;
  };
  static std::mutex mutex;
  static std::vector<Entry> entries;
  std::lock_guard<std::mutex> lock(mutex);
  entries.erase(std::remove_if(entries.begin(), entries.end(), [](const Entry& e) { return e.packed.expired(); }),
                entries.end());
  for (const Entry& e : entries) {
    if (e.model.lock() == model) {
      if (auto packed = e.packed.lock()) return packed;
    }
  }
  auto packed = pack_encoder(*model);
  entries.push_back({model, packed});
  return packed;
}

// The layer schedule over one set of buffers.
class Schedule {
 public:
  Schedule(std::shared_ptr<const PackedEncoder> weights, int threads) : w_(std::move(weights)), threads_(threads) {}

  // mel: [n_mels][2 * positions]. features: [positions][d_model]. False if `interrupted` became true on the way.
  bool run(const float* mel, int positions, float* features, const std::atomic<bool>& interrupted) {
    const ModelDims& dims = w_->dims;
    const int d = dims.d_model;
    const size_t size = static_cast<size_t>(positions) * d;
    x_.resize(size);
    normed_.resize(size);
    qkv_.resize(3 * size);
    hidden_.resize(4 * size);
    stem(mel, positions);

    const F32Kernels& k = f32_kernels();
    for (const PackedLayer& l : w_->layers) {
      if (interrupted) return false;
      norm(l.attention_norm, positions, normed_.data());
      linear(l.qkv, normed_.data(), d, positions, qkv_.data(), 3 * d, Epilogue::kNone, threads_);
      attention(qkv_.data(), positions, dims.n_heads, normed_.data(), &attention_, threads_);
      linear(l.out, normed_.data(), d, positions, x_.data(), d, Epilogue::kAdd, threads_);
      if (interrupted) return false;
      norm(l.mlp_norm, positions, normed_.data());
      linear(l.fc1, normed_.data(), d, positions, hidden_.data(), 4 * d, Epilogue::kGelu, threads_);
      linear(l.fc2, hidden_.data(), 4 * d, positions, x_.data(), d, Epilogue::kAdd, threads_);
    }
    k.layer_norm(x_.data(), positions, d, w_->norm.gain.data(), w_->norm.bias.data(), features);
    return !interrupted;
  }

 private:
  // Two convolutions of three taps as linear layers over overlapping rows; one zero frame before and after the input.
  void stem(const float* mel, int positions) {
    const int bands = w_->dims.n_mels, d = w_->dims.d_model, frames = positions * kFramesPerPosition;
    frames_.assign(static_cast<size_t>(frames + 2) * bands, 0.0f);
    for (int b = 0; b < bands; ++b) {
      for (int t = 0; t < frames; ++t) frames_[static_cast<size_t>(t + 1) * bands + b] = mel[static_cast<size_t>(b) * frames + t];
    }
    conv_.resize(static_cast<size_t>(frames + 2) * d);
    std::fill_n(conv_.begin(), d, 0.0f);
    std::fill_n(conv_.end() - d, d, 0.0f);
    linear(w_->conv1, frames_.data(), bands, frames, conv_.data() + d, d, Epilogue::kGelu, threads_);
    linear(w_->conv2, conv_.data(), kFramesPerPosition * d, positions, x_.data(), d, Epilogue::kGelu, threads_);
    f32_kernels().add(x_.data(), w_->positions.data(), x_.size());
  }

  void norm(const PackedNorm& n, int rows, float* out) {
    f32_kernels().layer_norm(x_.data(), rows, w_->dims.d_model, n.gain.data(), n.bias.data(), out);
  }

  const std::shared_ptr<const PackedEncoder> w_;
  const int threads_;
  std::vector<float> frames_, conv_, x_, normed_, qkv_, hidden_;
  AttentionScratch attention_;
};

class CpuEncoder : public Encoder {
 public:
  CpuEncoder(const std::shared_ptr<const Model>& model, int threads)
      : d_model_(model->dims.d_model),
        most_positions_(model->dims.n_audio_ctx),
        schedule_(shared_pack(model), threads > 0 ? threads : ThreadPool::available_processors()),
        thread_([this] { run(); }) {}

  ~CpuEncoder() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      interrupted_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  EncoderInfo describe() const override {
    return {"cpu", cpu_name() + " (" + isa_name(isa()) + ")", "", "f32"};
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
    const bool in_time = changed_.wait_until(lock, deadline, [&] { return s.state >= SlotState::kDone || interrupted_; });
    if (s.state == SlotState::kQueued) s.state = SlotState::kFree;
    if (s.state == SlotState::kRunning) {
      // The schedule looks at this flag between products.
      abandon_ = true;
      changed_.wait(lock, [&] { return s.state >= SlotState::kDone; });
    }
    const SlotState ended = s.state;
    s.state = SlotState::kFree;
    if (interrupted_) throw Error(ErrorCode::kInterrupted, "interrupted");
    if (!in_time) throw Error(ErrorCode::kDevice, "the processor did not encode the window in time");
    if (ended == SlotState::kFailed) throw Error(ErrorCode::kNoResource, "out of memory while encoding a window");
    return s.features.data();
  }

  void interrupt() override { set_interrupted(true); }
  void resume() override { set_interrupted(false); }

 private:
  enum class SlotState { kFree, kQueued, kRunning, kDone, kFailed };
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
      abandon_ = value;
    }
    changed_.notify_all();
  }

  // The encoder's thread: runs queued slots in the order of submission.
  void run() {
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
        schedule_.run(s->mel, s->positions, s->features.data(), abandon_);
      } catch (const std::bad_alloc&) {
        end = SlotState::kFailed;
      }
      lock.lock();
      s->state = end;
      changed_.notify_all();
    }
  }

  const int d_model_, most_positions_;
  Schedule schedule_;  // only for the encoder's thread

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::array<Slot, kSlots> slots_;  // a running slot's mel and features belong to the encoder's thread
  uint64_t next_order_ = 0;
  bool interrupted_ = false, stopping_ = false;
  std::atomic<bool> abandon_{false};  // the running slot is no longer wanted

  std::thread thread_;  // last: it uses everything above
};

}  // namespace

std::unique_ptr<Encoder> make_cpu_encoder(std::shared_ptr<const Model> model, Precision precision, int threads) {
  if (precision != Precision::kF32 && precision != Precision::kAuto) {
    throw Error(ErrorCode::kUnsupported, "this build encodes in f32 only");
  }
  return std::make_unique<CpuEncoder>(model, threads);
}

}  // namespace whisperxdna2
