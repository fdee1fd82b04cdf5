#include "dsp/voice_activity.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dsp/real_fft.h"
#include "voice_weights.h"  // VOICE_WEIGHTS, the path of the file; made by the build

namespace whisperxdna2 {
namespace {

constexpr int kContext = 64;  // samples of the previous hop before each hop
constexpr int kFftSize = 256;
constexpr int kFftHop = 128;
constexpr int kSteps = 4;  // spectra per hop
constexpr int kBins = RealFft<kFftSize>::kBins;
constexpr int kReflected = 64;  // samples after each hop, so that its end is seen four times too
constexpr int kHidden = 128;
constexpr int kLanes = 16;

// A matrix [inputs][outputs] in blocks of kLanes outputs.
template <int kInputs, int kOutputs>
struct Matrix {
  float blocks[kOutputs / kLanes][kInputs][kLanes];
};

// The layout of data/silero_vad_16k.f32, written by data/pack_silero_vad.py. The convolutions have
// three taps, of which those that only meet padding are left out.
struct Weights {
  float bias1[128];
  Matrix<kBins, 128> conv1[3];
  float bias2[64];
  Matrix<128, 64> conv2[3];
  float bias3[64];
  Matrix<64, 64> conv3[2];
  float bias4[128];
  Matrix<64, 128> conv4;
  float gate_bias[4 * kHidden];
  Matrix<2 * kHidden, 4 * kHidden>
      gates;  // of the step's features and the last output; input, forget, cell, output gate
  float out[kHidden];
  float out_bias;
};
static_assert(sizeof(Weights) == VOICE_WEIGHTS_SIZE, "the file is not of this network");
asm(R"(
  .pushsection .rodata
  .balign 64
  .globl whisperxdna2_voice_weights
  .hidden whisperxdna2_voice_weights
whisperxdna2_voice_weights:
  .incbin ")" VOICE_WEIGHTS R"("
  .popsection
)");
extern "C" const Weights whisperxdna2_voice_weights;
const Weights& kWeights = whisperxdna2_voice_weights;

template <int kColumns, int kInputs, int kOutputs>
void accumulate_columns(const Matrix<kInputs, kOutputs>& matrix, const float* x, int x_stride,
                        float* y, int y_stride) {
  typedef float Vector __attribute__((vector_size(16)));
  constexpr int kVectors = kLanes * sizeof(float) / sizeof(Vector);
  for (int block = 0; block < kOutputs / kLanes; ++block, y += kLanes) {
    Vector sum[kColumns][kVectors];
    for (int c = 0; c < kColumns; ++c) std::memcpy(sum[c], y + c * y_stride, sizeof sum[c]);
    for (int i = 0; i < kInputs; ++i) {
      Vector weights[kVectors];
      std::memcpy(weights, matrix.blocks[block][i], sizeof weights);
      for (int c = 0; c < kColumns; ++c)
        for (int v = 0; v < kVectors; ++v) sum[c][v] += weights[v] * x[c * x_stride + i];
    }
    for (int c = 0; c < kColumns; ++c) std::memcpy(y + c * y_stride, sum[c], sizeof sum[c]);
  }
}

// y[c] += matrix * x[c] for `columns` columns that lie x_stride and y_stride apart. Each output is
// summed in the order of its inputs, however wide the machine's vectors are.
template <int kInputs, int kOutputs>
void accumulate(const Matrix<kInputs, kOutputs>& matrix, int columns, const float* x, int x_stride,
                float* y, int y_stride) {
  // Two columns of one block fill the registers of the smallest machine.
  for (; columns >= 2; columns -= 2, x += 2 * x_stride, y += 2 * y_stride)
    accumulate_columns<2>(matrix, x, x_stride, y, y_stride);
  if (columns == 1) accumulate_columns<1>(matrix, x, x_stride, y, y_stride);
}

void rectify(float* values, int count) {
  for (int i = 0; i < count; ++i) values[i] = std::max(values[i], 0.0f);
}

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

const float* hann_window() {
  static const std::vector<float> window = [] {
    std::vector<float> w(kFftSize);
    for (int i = 0; i < kFftSize; ++i)
      w[i] = static_cast<float>(0.5 - 0.5 * std::cos(2 * M_PI * i / kFftSize));
    return w;
  }();
  return window.data();
}

}  // namespace

struct VoiceActivity::State {
  float signal[kContext + kVoiceHop + kReflected] = {};
  int filled = 0;  // samples of the hop
  // What the recurrent layer sees and remembers: the features of the hop, then its last output.
  float features_and_output[2 * kHidden] = {};
  float cell[kHidden] = {};
  RealFft<kFftSize> fft;
  const float* const hann = hann_window();

  float next_probability();
};

float VoiceActivity::State::next_probability() {
  const Weights& w = kWeights;
  constexpr int kEnd = kContext + kVoiceHop;
  for (int i = 0; i < kReflected; ++i) signal[kEnd + i] = signal[kEnd - 2 - i];

  float magnitude[kSteps][kBins];
  for (int step = 0; step < kSteps; ++step) {
    for (int i = 0; i < kFftSize; ++i) fft.input()[i] = signal[step * kFftHop + i] * hann[i];
    const fftwf_complex* spectrum = fft.transform();
    for (int bin = 0; bin < kBins; ++bin) {
      const float re = spectrum[bin][0], im = spectrum[bin][1];
      magnitude[step][bin] = std::sqrt(re * re + im * im);
    }
  }

  // Convolutions over time: 4 steps, 4, 2, 1, 1. Beyond the first and last step there are zeros.
  float a1[4][128], a2[2][64], a3[64];
  for (auto& column : a1) std::copy_n(w.bias1, 128, column);
  accumulate(w.conv1[0], 3, magnitude[0], kBins, a1[1], 128);
  accumulate(w.conv1[1], 4, magnitude[0], kBins, a1[0], 128);
  accumulate(w.conv1[2], 3, magnitude[1], kBins, a1[0], 128);
  rectify(a1[0], 4 * 128);

  for (auto& column : a2) std::copy_n(w.bias2, 64, column);
  accumulate(w.conv2[0], 1, a1[1], 0, a2[1], 0);
  accumulate(w.conv2[1], 2, a1[0], 2 * 128, a2[0], 64);
  accumulate(w.conv2[2], 2, a1[1], 2 * 128, a2[0], 64);
  rectify(a2[0], 2 * 64);

  std::copy_n(w.bias3, 64, a3);
  accumulate(w.conv3[0], 1, a2[0], 0, a3, 0);
  accumulate(w.conv3[1], 1, a2[1], 0, a3, 0);
  rectify(a3, 64);

  float* const features = features_and_output;
  float* const output = features_and_output + kHidden;
  std::copy_n(w.bias4, 128, features);
  accumulate(w.conv4, 1, a3, 0, features, 0);
  rectify(features, 128);

  float gates[4][kHidden];
  std::copy_n(w.gate_bias, 4 * kHidden, gates[0]);
  accumulate(w.gates, 1, features_and_output, 0, gates[0], 0);
  float sum = w.out_bias;
  for (int i = 0; i < kHidden; ++i) {
    cell[i] = sigmoid(gates[1][i]) * cell[i] + sigmoid(gates[0][i]) * std::tanh(gates[2][i]);
    output[i] = sigmoid(gates[3][i]) * std::tanh(cell[i]);
    sum += std::max(output[i], 0.0f) * w.out[i];
  }

  std::copy_n(signal + kVoiceHop, kContext, signal);
  filled = 0;
  return sigmoid(sum);
}

VoiceActivity::VoiceActivity() : state_(std::make_unique<State>()) {}
VoiceActivity::~VoiceActivity() = default;
VoiceActivity::VoiceActivity(VoiceActivity&&) noexcept = default;

void VoiceActivity::push(const float* samples, int64_t count, std::vector<float>* probabilities) {
  State& state = *state_;
  for (int64_t i = 0; i < count; ++i) {
    const float sample = samples[i];
    state.signal[kContext + state.filled++] =
        std::isnan(sample) ? 0.0f : std::clamp(sample, -1.0f, 1.0f);
    if (state.filled == kVoiceHop) probabilities->push_back(state.next_probability());
  }
}

void VoiceActivity::drain(std::vector<float>* probabilities) {
  State& state = *state_;
  if (state.filled > 0) {
    std::fill_n(state.signal + kContext + state.filled, kVoiceHop - state.filled, 0.0f);
    probabilities->push_back(state.next_probability());
  }
  reset();
}

void VoiceActivity::reset() {
  State& state = *state_;
  state.filled = 0;
  std::fill(std::begin(state.signal), std::end(state.signal), 0.0f);
  std::fill(std::begin(state.features_and_output), std::end(state.features_and_output), 0.0f);
  std::fill(std::begin(state.cell), std::end(state.cell), 0.0f);
}

SpeechSegmenter::SpeechSegmenter(const SpeechRules& rules) : rules_(rules) { reset(); }

void SpeechSegmenter::reset() {
  phase_ = Phase::kSilence;
  heard_ = begin_ = finished_end_ = 0;
  maybe_end_ = -1;
  closed_.reset();
  finished_.clear();
}

void SpeechSegmenter::push(float probability) {
  const int64_t at = heard_;
  heard_ += kVoiceHop;
  if (probability >= rules_.threshold) {
    maybe_end_ = -1;
    if (phase_ == Phase::kSilence) {
      phase_ = Phase::kMaybeSpeech;
      begin_ = at;
    }
  } else if (probability < rules_.negative_threshold && phase_ != Phase::kSilence &&
             maybe_end_ < 0) {
    maybe_end_ = at;
  }
  // The hop at hand counts for nothing yet: at the end of a stream it may be a part only.
  if (phase_ == Phase::kMaybeSpeech &&
      (maybe_end_ < 0 ? at : maybe_end_) - begin_ > rules_.min_speech)
    begin_speech();
  if (maybe_end_ >= 0 && probability < rules_.negative_threshold &&
      at - maybe_end_ >= rules_.min_silence) {
    if (phase_ == Phase::kSpeech) closed_ = SpeechInterval{begin_, maybe_end_};
    phase_ = Phase::kSilence;
    maybe_end_ = -1;
  }
  if (closed_) {
    const int64_t silence = (phase_ == Phase::kSilence ? at : begin_) - closed_->end;
    if (silence >= 2 * rules_.padding) {
      finish({closed_->begin, closed_->end + rules_.padding});
      closed_.reset();
    }
  }
}

// The speech being heard is long enough. It shares a short silence with the interval before.
void SpeechSegmenter::begin_speech() {
  phase_ = Phase::kSpeech;
  int64_t padding = std::min(rules_.padding, begin_);
  if (closed_) {
    padding = std::min(rules_.padding, (begin_ - closed_->end) / 2);
    finish({closed_->begin, closed_->end + padding});
    closed_.reset();
  }
  begin_ -= padding;
}

void SpeechSegmenter::drain(int64_t samples) {
  if (phase_ == Phase::kMaybeSpeech && samples - begin_ > rules_.min_speech) begin_speech();
  if (phase_ == Phase::kSpeech)
    finish({begin_, samples});
  else if (closed_)
    finish({closed_->begin, std::min(samples, closed_->end + rules_.padding)});
  closed_.reset();
  phase_ = Phase::kEnded;
  heard_ = samples;
}

void SpeechSegmenter::finish(const SpeechInterval& interval) {
  finished_.push_back(interval);
  finished_end_ = interval.end;
}

std::vector<SpeechInterval> SpeechSegmenter::take_finished() {
  std::vector<SpeechInterval> taken;
  taken.swap(finished_);
  return taken;
}

std::optional<int64_t> SpeechSegmenter::speaking_since() const {
  if (closed_) return closed_->begin;
  if (phase_ == Phase::kSpeech) return begin_;
  return std::nullopt;
}

int64_t SpeechSegmenter::silent_until() const {
  if (const std::optional<int64_t> begin = speaking_since()) return *begin;
  if (phase_ == Phase::kEnded) return heard_;
  const int64_t next_speech = phase_ == Phase::kMaybeSpeech ? begin_ : heard_;
  return std::max(finished_end_, next_speech - rules_.padding);
}

}  // namespace whisperxdna2
