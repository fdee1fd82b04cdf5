// Time of Whisper's features for one 10.24 s window: `cold` computes all 1024 frames, `warm` only
// clamps and scales the frames already there, `hop` is a live window that moved by one second.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include "dsp/log_mel.h"

using namespace whisperxdna2;

static void report(const char* name, int bands, const std::function<void()>& prepare,
                   const std::function<void()>& run) {
  std::vector<double> ms;
  for (int i = 0; i < 100; ++i) {
    prepare();
    const auto start = std::chrono::steady_clock::now();
    run();
    ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
                     .count());
  }
  std::sort(ms.begin(), ms.end());
  std::printf("%3d bands, %s: min %.3f ms, median %.3f ms\n", bands, name, ms[0],
              ms[ms.size() / 2]);
}

int main() {
  std::vector<float> signal(163840);
  for (size_t i = 0; i < signal.size(); ++i)
    signal[i] = 0.3f * std::sin(0.05f * i) + 0.1f * std::sin(0.0007f * i * (i % 977));
  for (int bands : {80, 128}) {
    std::vector<float> out(bands * 1024);
    LogMel mel(bands);
    const auto refill = [&] {
      mel.reset();
      mel.push(signal.data(), signal.size());
    };
    const auto window = [&] { mel.window(0, 1024, 1024, out.data()); };
    report("cold", bands, refill, window);
    report(
        "warm", bands, [] {}, window);
    int64_t first = 0;
    report(
        "hop", bands,
        [&] {
          first += 100;
          mel.discard_before(first);
          mel.push(signal.data(), 100 * kFrameHop);
        },
        [&] { mel.window(first, 1024, 1024, out.data()); });
  }
}
