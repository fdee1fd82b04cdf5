#include "dsp/log_mel.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "dsp/real_fft.h"

namespace whisperxdna2 {
namespace {

constexpr int kBins = RealFft<kFrameLength>::kBins;
constexpr int kHalfFrame = kFrameLength / 2;
constexpr float kSmallestMel = 1e-10f;

const float* hann_window() {
  static const std::vector<float> window = [] {
    std::vector<float> w(kFrameLength);
    for (int i = 0; i < kFrameLength; ++i)
      w[i] = static_cast<float>(0.5 * (1 - std::cos(2 * M_PI * i / kFrameLength)));
    return w;
  }();
  return window.data();
}

// Triangular filters on the mel scale of Slaney's Auditory Toolbox, as
// librosa.filters.mel(norm="slaney") computes them: linear below 1000 Hz, logarithmic above, each
// of unit area. Only the bins under a triangle are kept.
struct MelFilters {
  struct Band {
    int first_bin;
    int bins;
    int first_weight;
  };
  std::vector<Band> bands;
  std::vector<float> weights;

  explicit MelFilters(int count) {
    constexpr double kHzPerMel = 200.0 / 3;
    constexpr double kLogFromHz = 1000;
    constexpr double kLogFromMel = kLogFromHz / kHzPerMel;
    const double log_step = std::log(6.4) / 27;
    const double top_mel = kLogFromMel + std::log(kSampleRate / 2 / kLogFromHz) / log_step;
    std::vector<double> edges(count + 2);
    for (int i = 0; i < count + 2; ++i) {
      const double mel = top_mel * i / (count + 1);
      edges[i] = mel < kLogFromMel ? mel * kHzPerMel
                                   : kLogFromHz * std::exp((mel - kLogFromMel) * log_step);
    }
    for (int i = 0; i < count; ++i) {
      Band band{0, 0, static_cast<int>(weights.size())};
      for (int bin = 0; bin < kBins; ++bin) {
        const double hz = static_cast<double>(bin) * kSampleRate / kFrameLength;
        const double rising = (hz - edges[i]) / (edges[i + 1] - edges[i]);
        const double falling = (edges[i + 2] - hz) / (edges[i + 2] - edges[i + 1]);
        const double weight = std::min(rising, falling) * 2 / (edges[i + 2] - edges[i]);
        if (weight <= 0) continue;
        if (band.bins == 0) band.first_bin = bin;
        ++band.bins;
        weights.push_back(static_cast<float>(weight));
      }
      bands.push_back(band);
    }
  }
};

const MelFilters& mel_filters(int bands) {
  static const MelFilters filters80(80);
  static const MelFilters filters128(128);
  if (bands != 80 && bands != 128)
    throw std::invalid_argument("log-mel: Whisper has 80 or 128 mel bands, not " +
                                std::to_string(bands));
  return bands == 80 ? filters80 : filters128;
}

// log10 of positive, normal, finite numbers: the logarithm of the Cephes library (S. Moshier,
// logf.c), without branches so that the compiler makes vectors of it. Within 2 ulp, near 1 within
// 2e-9.
void log10_in_place(float* values, int count) {
  for (int i = 0; i < count; ++i) {
    // x = 2^exponent * (1 + m), 1 + m in [sqrt(1/2), sqrt(2))
    constexpr int32_t kSqrtHalf = 0x3f3504f3;
    int32_t bits;
    std::memcpy(&bits, &values[i], sizeof bits);
    const int32_t exponent = (bits - kSqrtHalf) >> 23;
    bits -= exponent * (1 << 23);
    float m;
    std::memcpy(&m, &bits, sizeof m);
    m -= 1;
    const float e = static_cast<float>(exponent);
    const float square = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const float tail = p * m * square - 0.5f * square;
    // log10(2) in two parts: the first has few enough bits for an exact product with any exponent.
    values[i] =
        e * 0.30078125f + (e * 2.48745663981195213739e-4f + (m + tail) * 0.434294481903251828f);
  }
}

}  // namespace

struct LogMel::State {
  explicit State(int bands) : filters(mel_filters(bands)), bands(bands) {}

  const MelFilters& filters;
  const int bands;
  const float* const hann = hann_window();
  RealFft<kFrameLength> fft;
  float power[kBins];

  int64_t first_frame = 0;  // frames before it, and the samples before its center, are forgotten
  int64_t pushed = 0;

  std::vector<float> signal;  // samples [first_sample, pushed)
  int64_t first_sample = 0;

  // log10 mel, [frame][bands], of the frames from first_mel on that were asked for
  std::vector<float> mel;
  std::vector<uint8_t> complete;  // per frame of `mel`: computed, and with all its samples
  int64_t first_mel = 0;

  void drop_forgotten();
  bool has_all_samples(int64_t frame) const;
  void compute(int64_t frame, float* out);
  const float* frames(int64_t first, int count);
};

// What is left moves only when half is forgotten, so that a sample moves about once.
void LogMel::State::drop_forgotten() {
  // The first frame reaches half its length back.
  const int64_t needed = std::max<int64_t>(first_frame * kFrameHop - kHalfFrame, 0);
  const int64_t samples = std::min(needed, pushed) - first_sample;
  if (samples > static_cast<int64_t>(signal.size()) / 2) {
    signal.erase(signal.begin(), signal.begin() + samples);
    first_sample += samples;
  }
  const int64_t held_frames = static_cast<int64_t>(complete.size());
  const int64_t old = std::min(first_frame - first_mel, held_frames);
  if (old > held_frames / 2 || held_frames == 0) {
    mel.erase(mel.begin(), mel.begin() + old * bands);
    complete.erase(complete.begin(), complete.begin() + old);
    first_mel = complete.empty() ? first_frame : first_mel + old;
  }
}

bool LogMel::State::has_all_samples(int64_t frame) const {
  // Also of frame 0: its reflection reaches one sample further, but there the window is 0.
  return pushed >= frame * kFrameHop + kHalfFrame;
}

void LogMel::State::compute(int64_t frame, float* out) {
  const int64_t begin = frame * kFrameHop - kHalfFrame;
  float* windowed = fft.input();
  if (begin >= 0 && begin + kFrameLength <= pushed) {
    const float* in = signal.data() + (begin - first_sample);
    for (int i = 0; i < kFrameLength; ++i) windowed[i] = in[i] * hann[i];
  } else {
    for (int i = 0; i < kFrameLength; ++i) {
      const int64_t index = std::abs(begin + i);
      windowed[i] = index < pushed ? signal[index - first_sample] * hann[i] : 0.0f;
    }
  }
  const fftwf_complex* spectrum = fft.transform();
  for (int bin = 0; bin < kBins; ++bin) {
    const float re = spectrum[bin][0], im = spectrum[bin][1];
    power[bin] = re * re + im * im;
  }
  for (int band = 0; band < bands; ++band) {
    const MelFilters::Band& filter = filters.bands[band];
    const float* weights = filters.weights.data() + filter.first_weight;
    const float* bins = power + filter.first_bin;
    float sum = 0;
    for (int i = 0; i < filter.bins; ++i) sum += weights[i] * bins[i];
    // The order of the operands turns NaN into the smallest value: a broken sample spoils its own
    // frames only.
    out[band] = std::min(std::max(kSmallestMel, sum), std::numeric_limits<float>::max());
  }
  log10_in_place(out, bands);
}

const float* LogMel::State::frames(int64_t first, int count) {
  const int64_t offset = first - first_mel;
  if (static_cast<int64_t>(complete.size()) < offset + count) {
    complete.resize(offset + count, 0);
    mel.resize((offset + count) * bands);
  }
  for (int64_t i = offset; i < offset + count; ++i) {
    if (complete[i]) continue;
    compute(first_mel + i, &mel[i * bands]);
    complete[i] = has_all_samples(first_mel + i);
  }
  return &mel[offset * bands];
}

LogMel::LogMel(int bands) : state_(std::make_unique<State>(bands)) {}
LogMel::~LogMel() = default;
LogMel::LogMel(LogMel&&) noexcept = default;

int LogMel::bands() const { return state_->bands; }

void LogMel::push(const float* samples, int64_t count) {
  state_->signal.insert(state_->signal.end(), samples, samples + count);
  state_->pushed += count;
  state_->drop_forgotten();
}

int64_t LogMel::samples() const { return state_->pushed; }

void LogMel::discard_before(int64_t first_frame) {
  if (first_frame <= state_->first_frame) return;
  state_->first_frame = first_frame;
  state_->drop_forgotten();
}

void LogMel::reset() {
  state_->signal.clear();
  state_->mel.clear();
  state_->complete.clear();
  state_->first_frame = state_->pushed = state_->first_sample = state_->first_mel = 0;
}

void LogMel::window(int64_t first_frame, int content, int frames, float* out) {
  if (first_frame < state_->first_frame)
    throw std::out_of_range("log-mel: frame " + std::to_string(first_frame) + " was discarded");
  if (content < 0 || content > frames)
    throw std::out_of_range("log-mel: a window of " + std::to_string(frames) +
                            " frames cannot hold " + std::to_string(content));
  const int bands = state_->bands;
  if (content == 0) {
    std::fill(out, out + static_cast<int64_t>(bands) * frames, 0.0f);
    return;
  }
  const float* mel = state_->frames(first_frame, content);
  const float floor = *std::max_element(mel, mel + static_cast<int64_t>(content) * bands) - 8;

  // Transposed in blocks whose rows stay in the first-level cache.
  constexpr int kBlock = 16;
  for (int begin = 0; begin < content; begin += kBlock) {
    const int end = std::min(begin + kBlock, content);
    for (int band = 0; band < bands; ++band) {
      float* row = out + static_cast<int64_t>(band) * frames;
      for (int frame = begin; frame < end; ++frame)
        row[frame] = (std::max(mel[frame * bands + band], floor) + 4) * 0.25f;
    }
  }
  for (int band = 0; band < bands; ++band) {
    float* row = out + static_cast<int64_t>(band) * frames;
    std::fill(row + content, row + frames, 0.0f);
  }
}

const float* LogMel::held(int64_t first, int64_t count) const {
  if (count < 0 || first < state_->first_frame * kFrameHop || first > state_->pushed - count)
    return nullptr;
  return state_->signal.data() + (first - state_->first_sample);
}

}  // namespace whisperxdna2
