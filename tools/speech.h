// Speech from files, windows of it, and how near two encoders are to each other, for the tools that measure.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "dsp/log_mel.h"
#include "whisper/encoder.h"
#include "whisper/encoder_schedule.h"
#include "whisper/error.h"

namespace whisperxdna2 {

// Samples of a WAV file: PCM, 16 bits, 16 kHz, mono (Microsoft, Multimedia Programming Interface 1.0). Throws Error.
inline std::vector<float> read_wav(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(ErrorCode::kNotFound, path + " cannot be opened");
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  const auto number = [&](size_t at, size_t size) {
    uint32_t n = 0;
    if (at + size <= bytes.size()) std::memcpy(&n, bytes.data() + at, size);
    return n;
  };
  bool format = false;
  if (bytes.compare(0, 4, "RIFF") == 0 && bytes.compare(8, 4, "WAVE") == 0) {
    for (size_t at = 12; at + 8 <= bytes.size();) {
      const size_t size = std::min<size_t>(number(at + 4, 4), bytes.size() - at - 8);
      if (bytes.compare(at, 4, "fmt ") == 0) {
        format = number(at + 8, 2) == 1 && number(at + 10, 2) == 1 && number(at + 12, 4) == 16000 &&
                 number(at + 22, 2) == 16;
      } else if (bytes.compare(at, 4, "data") == 0 && format) {
        std::vector<float> samples(size / 2);
        for (size_t i = 0; i < samples.size(); ++i) {
          samples[i] = static_cast<float>(static_cast<int16_t>(number(at + 8 + 2 * i, 2))) / 32768;
        }
        return samples;
      }
      at += 8 + size + size % 2;
    }
  }
  throw Error(ErrorCode::kUnsupported,
              path + " is no 16-bit mono WAV file at 16 kHz; gst-launch-1.0 filesrc location=IN ! decodebin ! "
                     "audioconvert ! audioresample ! audio/x-raw,rate=16000,channels=1,format=S16LE ! wavenc ! "
                     "filesink location=OUT makes one");
}

constexpr int kWindowPositions = 512;
constexpr int64_t kWindowSamples = int64_t{kWindowPositions} * kFramesPerPosition * kFrameHop;  // 10.24 s

// The encoder's input for the window that begins at `first`; padded where the speech ends.
inline std::vector<float> window_mel(const std::vector<float>& samples, int64_t first, int n_mels) {
  const int64_t count = std::clamp<int64_t>(static_cast<int64_t>(samples.size()) - first, 0, kWindowSamples);
  const int frames = kWindowPositions * kFramesPerPosition;
  LogMel front_end(n_mels);
  front_end.push(samples.data() + first, count);
  std::vector<float> mel(static_cast<size_t>(n_mels) * frames);
  front_end.window(0, static_cast<int>(count / kFrameHop), frames, mel.data());
  return mel;
}

inline std::vector<float> encode(EncoderSchedule* encoder, const std::vector<float>& mel, int d_model) {
  const std::atomic<bool> never_abandoned{false};
  std::vector<float> features(static_cast<size_t>(kWindowPositions) * d_model);
  encoder->run(mel.data(), kWindowPositions, features.data(), never_abandoned);
  return features;
}

// In dB: the power of `want` over that of its difference from `have`.
inline double snr(const std::vector<float>& want, const std::vector<float>& have) {
  double signal = 0, noise = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = double{want[i]} - have[i];
    signal += double{want[i]} * want[i];
    noise += d * d;
  }
  return 10 * std::log10(signal / noise);
}

}  // namespace whisperxdna2
