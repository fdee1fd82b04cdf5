// Time of the voice activity network for one hop of 32 ms, and the part of a core that one live
// stream takes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

#include "dsp/voice_activity.h"

using namespace whisperxdna2;

int main() {
  constexpr int kHops = 50;
  std::vector<float> signal(kHops * kVoiceHop);
  for (size_t i = 0; i < signal.size(); ++i) signal[i] = 0.3f * std::sin(0.0007f * i * (i % 977));
  VoiceActivity voice;
  std::vector<double> us;
  for (int i = 0; i < 100; ++i) {
    std::vector<float> probabilities;
    const auto start = std::chrono::steady_clock::now();
    voice.push(signal.data(), signal.size(), &probabilities);
    us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
                     .count() /
                 kHops);
  }
  std::sort(us.begin(), us.end());
  std::printf("per hop: min %.1f us, median %.1f us (%.2f %% of a core)\n", us[0],
              us[us.size() / 2], us[us.size() / 2] / 320);
}
