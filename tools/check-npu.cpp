// Checks the NPU of this machine: opens it, which tests its overlay, prints how a model's layers are computed, and compares
// the features of some windows with the CPU's. The report is what to send when something is wrong.
//
//   whisperxdna2-check-npu [MODEL]
//   whisperxdna2-check-npu --plan [MODEL]    only how the layers would be computed, and how fast; needs no NPU
//
// Ends with 0 if every byte is the same, 1 if not, 2 if there is nothing to compare.
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <xrt/xrt_device.h>

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

void print_plan(const overlay::Variant& variant, const Model& model) {
  const int d = model.dims.d_model, d_ff = model.encoder_layers.at(0).fc1.weight.shape.at(0);
  printf("\n%s\n", npu::compare_plans(variant, d, d_ff, kPositions, model.dims.n_encoder_layers).c_str());
  const npu::PlanKind kind = npu::fastest_plan(variant, d, d_ff, kPositions);
  printf("%s\n", npu::plan_layer(variant, d, d_ff, kPositions, kind).describe().c_str());
}

// XRT's report of the device: the driver's and XRT's versions, and the power mode, which only an administrator sets.
void print_environment() {
  using nlohmann::json;
  const xrt::device device(0);
  const json host = json::parse(device.get_info<xrt::info::device::host>(), nullptr, false);
  const json platform = json::parse(device.get_info<xrt::info::device::platform>(), nullptr, false);
  const auto text = [](const json& from, const char* where) {
    const json::json_pointer at(where);
    return !from.is_discarded() && from.contains(at) && from[at].is_string() ? from[at].get<std::string>() : "unknown";
  };
  printf("XRT       %s, driver %s\n", text(host, "/version").c_str(), text(host, "/drivers/0/version").c_str());
  printf("power     mode %s (xrt-smi configure --pmode changes it)\n", text(platform, "/platforms/0/status/power_mode").c_str());
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  printf("memlock   %s\n", limit.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(limit.rlim_cur).c_str());
}

int plan(const std::string& path) {
  const auto model = load_model(path);
  printf("model     %s\n", model->description.c_str());
  for (const overlay::Variant* variant : {&overlay::kGemm8, &overlay::kGemm1}) print_plan(*variant, *model);
  return 0;
}

int check(const std::string& path) {
  const auto model = load_model(path);
  const ModelDims& dims = model->dims;
  printf("model     %s\n", model->description.c_str());
  const auto device = npu::Device::open();
  printf("NPU       %s, firmware %s\n", device->name().c_str(),
         device->firmware().empty() ? "unknown" : device->firmware().c_str());
  print_environment();
  printf("overlay   %s: its self-test passed\n", device->variant().name);
  print_plan(device->variant(), *model);

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
  const bool only_plan = argc > 1 && std::strcmp(argv[1], "--plan") == 0;
  const int arguments = argc - 1 - only_plan;
  const char* const model = arguments == 1 ? argv[argc - 1] : nullptr;
  if (arguments > 1 || (model && model[0] == '-')) {
    fprintf(stderr, "usage: %s [--plan] [MODEL]\n", argv[0]);
    return 2;
  }
  try {
    return (only_plan ? plan : check)(model ? model : default_model_path());
  } catch (const Error& e) {
    fprintf(stderr, "whisperxdna2-check-npu: %s\n", e.what());
    return 2;
  }
}
