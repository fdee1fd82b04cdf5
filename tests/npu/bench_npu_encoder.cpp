// What the NPU's encoder costs the host, and how well two slots hide the device's time: base, 512 positions, 2 threads, on
// an emulated NPU that takes a given time per window and computes nothing.
//
// Argument: the directory of the emulated overlays.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/cpu/profile.h"
#include "npu/npu_encoder.h"
#include "tests/device/control.h"

using namespace whisperxdna2;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kPositions = 512, kWindows = 24, kDispatches = 24;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void wait(Encoder& encoder, int slot) { encoder.wait(slot, Clock::now() + std::chrono::seconds(60)); }

}  // namespace

int main(int, char** arguments) {
  setenv("WHISPERXDNA2_OVERLAY", (std::string(arguments[1]) + "/gemm8.xclbin").c_str(), 1);
  emulated_npu::control("mode=fast");
  const auto model = load_model(default_model_path());
  const auto encoder = npu::make_npu_encoder(model, Precision::kInt8, 2, false);
  const std::vector<float> mel(static_cast<size_t>(model->dims.n_mels) * kPositions * kFramesPerPosition, 0.1f);
  emulated_npu::control("mode=delay");

  for (const double device_ms : {0.0, 5.0, 20.0, 60.0}) {
    emulated_npu::control(("cost=" + std::to_string(device_ms * 1000 / kDispatches) + ",0").c_str());
    std::vector<double> alone;
    enable_profile(true);
    for (int i = 0; i < kWindows; ++i) {
      const auto start = Clock::now();
      encoder->submit(0, mel.data(), kPositions);
      wait(*encoder, 0);
      alone.push_back(milliseconds_since(start));
    }
    const auto profile = take_profile();
    enable_profile(false);
    std::sort(alone.begin(), alone.end());

    encoder->submit(0, mel.data(), kPositions);
    encoder->submit(1, mel.data(), kPositions);
    wait(*encoder, 0);
    const auto start = Clock::now();
    for (int i = 0; i < kWindows; ++i) {
      encoder->submit(i % 2, mel.data(), kPositions);
      wait(*encoder, 1 - i % 2);
    }
    const double both = milliseconds_since(start) / kWindows;
    wait(*encoder, 1 - kWindows % 2);

    const double host = alone.front() - device_ms;
    printf("device %4.0f ms a window: alone %.1f (median %.1f), so the host %.1f; in two slots %.1f, %.2f x max(device, host)\n",
           device_ms, alone.front(), alone[kWindows / 2], host, both, both / std::max(device_ms, host));
    if (device_ms == 0) {
      for (const ProfileEntry& e : profile) {
        printf("  %-14s %5.1f calls  %7.3f ms a window\n", e.name.c_str(), static_cast<double>(e.calls) / kWindows,
               static_cast<double>(e.nanoseconds) * 1e-6 / kWindows);
      }
    }
  }
}
