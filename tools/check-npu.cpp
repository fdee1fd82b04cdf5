// Checks the NPU of this machine: opens it, which tests its overlay, prints how a model's layers are computed, and compares
// the features of some windows with the CPU's. The report is what to send when something is wrong.
//
//   whisperxdna2-check-npu [MODEL]
//
// Ends with 0 if every byte is the same, 1 if not, 2 if there is nothing to compare.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu/profile.h"
#include "npu/device.h"
#include "npu/gemm_plan.h"
#include "npu/npu_encoder.h"
#include "whisper/error.h"

using namespace whisperxdna2;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kPositions = 512, kWindows = 5;

struct Encoded {
  std::vector<float> features;  // of all windows
  double best_ms = 1e9;
};

Encoded encode(Encoder& encoder, const Model& model, const std::vector<float>& mel) {
  Encoded result;
  for (int i = 0; i < kWindows; ++i) {
    const auto start = Clock::now();
    encoder.submit(0, mel.data(), kPositions);
    const float* features = encoder.wait(0, start + std::chrono::seconds(60));
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    result.features.insert(result.features.end(), features, features + static_cast<size_t>(kPositions) * model.dims.d_model);
    result.best_ms = std::min(result.best_ms, ms);
  }
  return result;
}

int check(const std::string& path) {
  const auto model = load_model(path);
  const ModelDims& dims = model->dims;
  printf("model     %s\n", model->description.c_str());
  const auto device = npu::Device::open();
  printf("NPU       %s, firmware %s\n", device->name().c_str(),
         device->firmware().empty() ? "unknown" : device->firmware().c_str());
  printf("overlay   %s: its self-test passed\n", device->variant().name);
  const auto plan = npu::plan_layer(device->variant(), dims.d_model, model->encoder_layers.at(0).fc1.weight.shape.at(0), kPositions,
                                    npu::PlanKind::kWhole);
  printf("\n%s\n", plan.describe().c_str());

  // Any numbers in the range of log-mel do.
  std::vector<float> mel(static_cast<size_t>(dims.n_mels) * kPositions * kFramesPerPosition);
  uint32_t seed = 1;
  for (float& v : mel) v = static_cast<float>((seed = seed * 1664525u + 1013904223u) >> 16) / 32768.0f - 1.0f;
  const auto cpu = make_cpu_encoder(model, Precision::kInt8, 0);
  const auto npu = npu::make_npu_encoder(model, Precision::kInt8, 0, false);
  const Encoded expected = encode(*cpu, *model, mel);
  enable_profile(true);
  const Encoded result = encode(*npu, *model, mel);
  for (const ProfileEntry& e : take_profile()) {
    printf("%-14s %4lld calls %8.3f ms a window\n", e.name.c_str(), static_cast<long long>(e.calls / kWindows),
           static_cast<double>(e.nanoseconds) * 1e-6 / kWindows);
  }
  printf("\nwindow    NPU %.1f ms, CPU %.1f ms (best of %d)\n", result.best_ms, expected.best_ms, kWindows);
  size_t differ = 0;
  for (size_t i = 0; i < result.features.size(); ++i) {
    differ += std::memcmp(&result.features[i], &expected.features[i], sizeof(float)) != 0;
  }
  printf("features  %zu of %zu differ from the CPU's\n", differ, result.features.size());
  return differ == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
    fprintf(stderr, "usage: %s [MODEL]\n", argv[0]);
    return 2;
  }
  try {
    return check(argc == 2 ? argv[1] : default_model_path());
  } catch (const Error& e) {
    fprintf(stderr, "whisperxdna2-check-npu: %s\n", e.what());
    return 2;
  }
}
